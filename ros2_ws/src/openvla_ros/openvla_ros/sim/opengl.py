"""Which kind of rendering works on this machine: EGL, OSMesa, or ray casting.

MuJoCo reads ``MUJOCO_GL`` when it is imported, and the import fails if that library is missing; so each
one is tried in a separate process. That takes as long as starting a camera does, so whoever starts the
processes of a simulated robot tries once and hands the answer on (``rendering_environment``).
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Literal

from openvla_ros.errors import MissingDependencyError

Kind = Literal["egl", "osmesa", "rays"]
GL_KINDS: tuple[Kind, ...] = ("egl", "osmesa")
VARIABLE = "MUJOCO_GL"
OFF = ("0", "off", "false", "disable", "disabled")  # as MuJoCo reads them: no OpenGL
PROBE_TIMEOUT_S = 60.0
_PACKAGES = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}

_PROBE = """
import mujoco
context = mujoco.GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 100)
context.free()
"""


def rendering_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what to add to the environment of processes that render, so that none has to try again.

    Empty if ``environment`` has a ``MUJOCO_GL`` already. Raises ``MissingDependencyError`` if that names a
    library that does not work here.
    """
    wanted = _wanted(environment)
    if wanted is not None:
        if wanted != "rays" and not works_here(wanted):
            raise _missing(wanted)
        return {}
    kind = best_kind()
    return {VARIABLE: "disable" if kind == "rays" else kind}


def choose_kind() -> Kind:
    """Return the kind of renderer for this process: the one ``MUJOCO_GL`` names, else the best that works."""
    return _wanted(os.environ) or best_kind()


def demand(kind: Kind) -> None:
    """Raise ``MissingDependencyError`` if OpenGL ``kind`` does not work on this machine."""
    # MuJoCo has been imported with it in this process, or the process that started this one has tried it.
    if _wanted(os.environ) != kind and not works_here(kind):
        raise _missing(kind)


@functools.cache
def best_kind() -> Kind:
    """Return the best renderer that works on this machine, trying each in a separate process."""
    return next((kind for kind in GL_KINDS if works_here(kind)), "rays")


@functools.cache
def works_here(kind: Kind) -> bool:
    """Return whether MuJoCo can render with OpenGL ``kind`` on this machine, tried in a separate process."""
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**environment, VARIABLE: kind},
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _wanted(environment: Mapping[str, str]) -> Kind | None:
    """Return the kind that ``MUJOCO_GL`` names; None if it names none."""
    value = environment.get(VARIABLE, "").lower()
    if value in OFF:
        return "rays"
    return next((kind for kind in GL_KINDS if kind == value), None)


def _missing(kind: Kind) -> MissingDependencyError:
    return MissingDependencyError(f"{kind} does not work here; try: apt install {_PACKAGES[kind]}")
