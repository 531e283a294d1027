"""crisp_py drives the simulated Franka, and this package's controller drives it through the same topics.

crisp_py needs control_msgs and controller_manager_msgs, of which there is no wheel: they are built from their
published definitions (``crisp_interfaces``). The simulation uses the same ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import build_interfaces
from peers.environments import called
from peers.rows import PeerError, Row

NAME, VERSION = "crisp", "3.6.0"
HERE = Path(__file__).parent
INTERFACES = HERE / "crisp_interfaces"
DOMAIN = "84"
READY_S, TELL_S = 90.0, 120.0
OPENVLA = [sys.executable, "-c", "from openvla_ros.entry_points import openvla; openvla()"]


def check(build: Path, source: Path | None) -> list[Row]:
    """Return the rows: crisp_py on the simulated arm, then our controller on crisp's topics."""
    del source
    folder = build / NAME
    surroundings = {**environment(folder), "ROS_DOMAIN_ID": DOMAIN}
    with running(surroundings, ["-m", "openvla_ros.nodes", "simulation_node",
                                "--ros-args", "-p", "robot:=sim_franka_crisp"]):  # fmt: skip
        program = HERE / "clients" / "crisp_programs.py"
        done = subprocess.run([sys.executable, str(program)], env=surroundings, capture_output=True,
                              text=True, check=False, timeout=300)  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    rows = [Row("crisp_py", VERSION, s["compared"], s["passed"], s["detail"]) for s in said]
    if done.returncode or not rows:
        rows.append(Row("crisp_py", VERSION, "its program", False, done.stderr.strip()[-300:]))
    return rows + through_our_controller(surroundings)


def through_our_controller(surroundings: dict[str, str]) -> list[Row]:
    """Return the rows of ``openvla check`` and of an instruction that is carried out over ``target_pose``."""
    with running(surroundings, [*OPENVLA[1:], "up", "--robot", "sim_franka_crisp", "--policy", "expert"]):
        told = asked(surroundings, ["tell", "pick up the red cube"], READY_S, lambda s: "succeeded" in s)
        found = asked(surroundings, ["check", "sim_franka_crisp", "--json"], 0.0, lambda s: True)
    found = " ".join(found.split())
    knows = "/cartesian_impedance_controller is active" in found
    return [
        Row("crisp topics", "1.0", "our controller: pick up", "succeeded" in told, told.strip()[-70:]),
        Row("crisp topics", "1.0", "openvla check knows it", knows, "active" if knows else found[:300]),
    ]


def asked(surroundings: dict[str, str], verb: list[str], patience_s: float, done: object) -> str:
    """Return what a verb prints; asked again until ``done``, at most for ``patience_s``."""
    end = time.monotonic() + patience_s
    while True:
        ran = subprocess.run([*OPENVLA, *verb], env=surroundings, capture_output=True, text=True,
                             check=False, timeout=TELL_S)  # fmt: skip
        said = ran.stdout + ran.stderr
        if done(said) or time.monotonic() > end:  # type: ignore[operator]
            return said
        time.sleep(2.0)


@contextmanager
def running(surroundings: dict[str, str], arguments: list[str]) -> Iterator[None]:
    """A program of this package, stopped at the end."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=surroundings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which crisp_py and its message packages can be imported."""
    release = build_interfaces.installed_release()
    release = release._replace(generators=(*release.generators, "ros-trajectory-msgs==5.5.1"))
    key = build_interfaces.content_hash(INTERFACES, release)
    prefix, packages = folder / f"prefix-{key}", folder / f"packages-{VERSION}"
    if not (prefix / "complete").is_file():
        tools = build_interfaces.make_tools(folder / "tools", release)
        with tempfile.TemporaryDirectory() as work:
            for package in ("control_msgs", "controller_manager_msgs"):
                build_interfaces.compile_package(INTERFACES / package, tools, Path(work) / package, prefix)
        (prefix / "complete").touch()
    if not packages.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages), "--no-deps"]
        wanted = (f"crisp_python=={VERSION}", "scipy")  # it asks for an older numpy than is here
        called([*pip, *wanted], f"{' and '.join(wanted)} cannot be installed")
    site = sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)})
    added = {
        "PYTHONPATH": (site, str(packages), str(HERE / "crisp_stand_ins")),
        "LD_LIBRARY_PATH": (str(prefix / "lib"),),
    }
    # The ROS wheels set their paths anew in each process, after these.
    surroundings = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    for name, paths in added.items():
        surroundings[name] = os.pathsep.join(filter(None, (*paths, surroundings.get(name))))
    if not Path(site).is_dir():
        raise PeerError(f"the message packages were not built into {site}")
    return surroundings
