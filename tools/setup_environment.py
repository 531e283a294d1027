"""Create the virtual environment of a checkout: pinned versions, the package itself, the action's types.

Runs on a bare Python with nothing installed. A second run ends at once unless one of its input files has
changed. An environment keeps its Python and its ROS 2 release until others are asked for. On a machine with
ROS 2 installed, use a colcon workspace instead (README).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".complete"
RELEASE = VENV / ".ros_release"  # the name of the ROS 2 release that is installed
PACKAGE = ROOT / "ros2_ws" / "src" / "openvla_ros"
INTERFACES = ROOT / "ros2_ws" / "src" / "openvla_interfaces"
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = "ros,sim,quantization,export,tls,test"
Version = tuple[int, int]


class Release(NamedTuple):
    """A ROS 2 release: the CPython that has its wheels and PyTorch, and a file of its own versions."""

    oldest: Version
    newest: Version
    constraints: str = ""


RELEASES = {
    "kilted": Release((3, 10), (3, 13)),
    "jazzy": Release((3, 12), (3, 12), "constraints-jazzy.txt"),
}


class SetupError(Exception):
    """Something that the user has to do first."""


def main() -> int:
    """Set up the environment; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="install again even if nothing changed")
    parser.add_argument("--ros", default="", help=f"ROS 2 release: {' or '.join(RELEASES)}")
    parser.add_argument("--this-python", action="store_true", help="also where the environment has another")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        name = chosen_release(arguments.ros)
        version = chosen_version(name, arguments.this_python)
        if not arguments.this_python and version != sys.version_info[:2] and version != environment_version():
            other = find_python(version)
            say(f"the wheels of ROS 2 {name.capitalize()} are for Python {dotted(version)}: using {other}")
            return subprocess.run([other, __file__, "--ros", name, "--this-python"], check=False).returncode
        wanted = fingerprint(name, version)
        if not arguments.force and STAMP.is_file() and STAMP.read_text() == wanted:
            return 0
        check_machine(name, version)
        STAMP.unlink(missing_ok=True)  # what is interrupted from here on is not complete
        create_environment(version)
        change_release(name)
        install_package(name)
        install_interfaces()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    STAMP.write_text(wanted)
    print_system_libraries()
    say(f"ready in {time.monotonic() - started:.0f} s: .venv/bin/openvla --help")
    return 0


def chosen_release(asked: str) -> str:
    """Return the release that was asked for, else that of the environment, else Kilted."""
    if asked and asked not in RELEASES:
        raise SetupError(f"ROS={asked}: choose {' or '.join(RELEASES)}")
    return asked or (RELEASE.read_text().strip() if RELEASE.is_file() else "kilted")


def chosen_version(name: str, this_python: bool) -> Version:
    """Return the Python to use: the environment's or this one, or another where neither has the wheels."""
    mine = sys.version_info[:2]
    if this_python:
        return mine
    release = RELEASES[name]
    for version in (environment_version(), mine):
        if version is not None and release.oldest <= version <= release.newest:
            return version
    return release.newest if release.newest == release.oldest else mine


def environment_version() -> Version | None:
    """Return the Python version of the environment that is there."""
    try:
        found = re.search(r"^version = (\d+)\.(\d+)", (VENV / "pyvenv.cfg").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return None
    return (int(found[1]), int(found[2])) if found else None


def find_python(version: Version) -> str:
    """Return the path of a Python of this version, on PATH or among pyenv's."""
    found = shutil.which(f"python{dotted(version)}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = sorted(pyenv.glob(f"versions/{dotted(version)}.*/bin/python{dotted(version)}"))
    if found is None or "/shims/" in found:
        found = str(installed[-1]) if installed else None
    if found is None:
        raise SetupError(f"no python{dotted(version)} on PATH: make setup ROS=jazzy PYTHON=/path/to/it")
    return found


def dotted(version: Version) -> str:
    """Return the version in words."""
    return f"{version[0]}.{version[1]}"


def fingerprint(release: str, version: Version) -> str:
    """Return a hash of every file that determines what gets installed."""
    digest = hashlib.sha256(f"{release} {version}".encode())
    files = [*ROOT.glob("constraints*.txt"), PACKAGE / "setup.py", *sorted((ROOT / "tools").glob("*.py"))]
    files += sorted(path for path in INTERFACES.rglob("*") if path.is_file())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_machine(name: str, version: Version) -> None:
    """Raise ``SetupError`` if the ROS 2 wheels do not exist for this machine or venv is missing."""
    release = RELEASES[name]
    if not release.oldest <= version <= release.newest:
        oldest, newest = dotted(release.oldest), dotted(release.newest)
        needed = oldest if oldest == newest else f"{oldest} to {newest}"
        raise SetupError(
            f"this is Python {dotted(version)}; the wheels of ROS 2 {name.capitalize()} need {needed}: "
            f"make setup ROS={name} PYTHON=python3.12"
        )
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise SetupError(
            f"this is {platform.system()} on {platform.machine()}; the ROS 2 wheels exist for Linux on "
            "x86_64: elsewhere install ROS 2 and build the workspace with colcon"
        )
    try:
        import ensurepip
        import venv
    except ImportError as error:
        package = f"python{version[0]}.{version[1]}-venv"
        raise SetupError(f"{error}; install it with: sudo apt-get install -y {package}") from error
    del ensurepip, venv


def create_environment(version: Version) -> None:
    """Create ``.venv`` with current build tools if it does not exist, or has another Python."""
    before = environment_version()
    if before is not None and before != version:
        say(f".venv has Python {dotted(before)}: creating it anew")
        shutil.rmtree(VENV)
    if not PYTHON.exists():
        say(f"creating .venv with Python {platform.python_version()}")
        run([sys.executable, "-m", "venv", str(VENV)])
    pip("--upgrade", "pip", "setuptools", "wheel")


def change_release(name: str) -> None:
    """Note the release that is to be installed, and uninstall the ROS 2 packages of another one first.

    pip replaces only what both have: Jazzy's ros-fastrtps would stay beside Kilted's ros-fastdds.
    """
    before = RELEASE.read_text().strip() if RELEASE.is_file() else "kilted"
    if before != name:
        listed = subprocess.run(
            [str(PYTHON), "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
        )
        found = [line.partition("==")[0] for line in listed.stdout.splitlines()]
        if old := [entry for entry in found if entry.startswith("ros-") or entry == "openvla-interfaces"]:
            say(f"uninstalling ROS 2 {before.capitalize()}")
            run([str(PYTHON), "-m", "pip", "uninstall", "--quiet", "--yes", *old])
    RELEASE.write_text(f"{name}\n")


def install_package(name: str) -> None:
    """Install the pinned versions and, editable, the package itself."""
    say("installing PyTorch, ROS 2, MuJoCo and the rest (a few minutes the first time)")
    # PyTorch first and alone: as a dependency of another package it might come as a different, larger build.
    pins = constraints(name)
    pip(next(line for line in pins if line.startswith("torch==")))
    merged = VENV / "constraints.txt"
    merged.write_text("\n".join([*pins, ""]))
    pip("--use-pep517", "--no-build-isolation", "-c", str(merged), "-e", f"{PACKAGE}[{EXTRAS}]")


def constraints(name: str) -> list[str]:
    """Return the pinned versions of a release: those of Kilted, with the ROS 2 wheels of its own."""
    pins = CONSTRAINTS.read_text().splitlines()
    own = RELEASES[name].constraints
    if not own:
        return pins
    return [pin for pin in pins if not pin.startswith("ros-")] + (ROOT / own).read_text().splitlines()


def install_interfaces() -> None:
    """Build ``openvla_interfaces`` into a wheel and install it, if there is a compiler."""
    if shutil.which("g++") is None:
        say(
            "no g++: the ExecuteInstruction action is left out, everything else works. "
            "To have it: sudo apt-get install -y g++ && make setup"
        )
        return
    say("building openvla_interfaces")
    run([str(PYTHON), str(ROOT / "tools" / "build_interfaces.py"), "--install"])


def print_system_libraries() -> None:
    """Print which optional system libraries are missing, and how to install them."""
    from ctypes.util import find_library

    if not find_library("OSMesa") and not find_library("EGL"):
        say(
            "neither libOSMesa nor libEGL is installed: the simulation draws its images with a slower "
            "ray caster. To have the faster renderer: sudo apt-get install -y libosmesa6"
        )


def pip(*arguments: str) -> None:
    """Install with the environment's own pip."""
    run([str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])


def run(command: list[str]) -> None:
    """Run ``command`` with its output on the terminal."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, check=False, env=environment)
    if done.returncode:
        raise SetupError(f"this failed with code {done.returncode}: {' '.join(command)}")


def say(text: str) -> None:
    """Print a progress message."""
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
