"""Environments of their own for peers that are Python packages, and programs run in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from peers.rows import PeerError

TIMEOUT_S = 1500


def with_packages(folder: Path, interpreter: str, packages: Sequence[str], alone: Sequence[str] = ()) -> Path:
    """Return the Python of the environment below ``folder``; it is made if it is not there.

    ``alone`` are installed without what they require.
    """
    python = folder / "venv" / "bin" / "python"
    done = folder / "installed.txt"
    wanted = "\n".join((interpreter, *packages, *alone))
    if python.is_file() and (not done.is_file() or done.read_text(encoding="utf-8") == wanted):
        return python
    found = interpreter_called(interpreter)
    shutil.rmtree(folder / "venv", ignore_errors=True)
    called([found, "-m", "venv", str(folder / "venv")], "the environment cannot be made")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    called([*pip, *packages], f"{', '.join(packages)} cannot be installed")
    if alone:
        called([*pip, "--no-deps", *alone], f"{', '.join(alone)} cannot be installed")
    done.write_text(wanted, encoding="utf-8")
    return python


def on_top_of(below: Path, folder: Path, packages: Sequence[str]) -> Path:
    """Return the Python of an environment below ``folder`` that sees that of the Python ``below`` too.

    Only what ``packages`` lack there is installed; ``below`` stays as it is.
    """
    python = folder / "venv" / "bin" / "python"
    done = folder / "installed.txt"
    wanted = "\n".join((str(below), *packages))
    if python.is_file() and done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder / "venv", ignore_errors=True)
    called([str(below), "-m", "venv", str(folder / "venv")], "the environment cannot be made")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    mine, theirs = (
        called([str(at), "-P", "-c", ask], f"{at} does not run").strip() for at in (python, below)
    )
    (Path(mine) / "below.pth").write_text(theirs + "\n", encoding="utf-8")
    called([str(python), "-m", "pip", "install", "--quiet", *packages], f"{packages} cannot be installed")
    done.write_text(wanted, encoding="utf-8")
    return python


def interpreter_called(name: str) -> str:
    """Return an interpreter that runs; pyenv puts names on PATH that do not, unless their version is chosen.

    Raises ``PeerError`` if there is none.
    """
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (shutil.which(name), *map(str, sorted(versions.glob(f"*/bin/{name}")))):
        if found and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
            return found
    raise PeerError(f"needs {name}, which is neither on PATH nor below {versions}")


def called(command: list[str], failed: str) -> str:
    """Return what a command prints; raises ``PeerError`` with the end of its complaint."""
    surroundings = {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=surroundings, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise PeerError(f"{failed}: {done.stderr.strip()[-400:]}")
    return done.stdout
