"""Message packages of other people's robots, for machines whose ROS comes from wheels.

There is no wheel of control_msgs, interbotix_xs_msgs, franka_msgs, moveit_msgs or tf2_msgs. The
folders in ``interfaces`` (of the back ends) and ``interfaces_tf`` hold the published definitions, so
that a stand-in can speak them over DDS with the same types. They are built once (about a minute) and
kept in the user's cache under a key of their content. A machine with ROS installed has the real
packages and needs none of it.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BUILDER = Path(__file__).resolve().parents[5] / "tools" / "build_interfaces.py"
NEEDED_PROGRAMS = ("cmake", "ninja", "g++")


def environment(folder: str = "interfaces") -> dict[str, str]:
    """Return the environment of a process that can import the packages in ``tests/<folder>``.

    Skips the test where that cannot be.
    """
    source = HERE / folder
    packages = sorted(path.parent.name for path in source.glob("*/package.xml"))
    assert packages
    if all(importlib.util.find_spec(package) for package in packages):
        return dict(os.environ)
    missing = [name for name in NEEDED_PROGRAMS if shutil.which(name) is None]
    if missing or not BUILDER.is_file():
        pytest.skip(f"needs {' and '.join(packages)}, or {', '.join(missing) or BUILDER.name} to build them")
    prefix = built_prefix(source, packages)
    env = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    site = sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)})
    for name, path in (("PYTHONPATH", site), ("LD_LIBRARY_PATH", prefix / "lib")):
        env[name] = os.pathsep.join(filter(None, (str(path), env.get(name))))
    return env


def built_prefix(source: Path, packages: list[str]) -> Path:
    """Return the install prefix of the packages in ``source``, building them if this content never was."""
    spec = importlib.util.spec_from_file_location("build_interfaces", BUILDER)
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    release = builder.installed_release()
    key = f"{builder.content_hash(source, release)}-{sys.version_info[0]}{sys.version_info[1]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "openvla_ros" / "interfaces"
    cache.mkdir(parents=True, exist_ok=True)
    prefix = cache / hashlib.sha256(key.encode()).hexdigest()[:16]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (prefix / "complete").exists():
            try:
                build_all(builder, release, source, packages, prefix)
            except (subprocess.CalledProcessError, SystemExit) as error:
                pytest.skip(f"the message packages could not be built here: {error}")
            (prefix / "complete").touch()
    return prefix


def build_all(builder, release, source: Path, packages: list[str], prefix: Path) -> None:
    """Build every package into ``prefix``; the tool chain is kept for the next folder of packages."""
    versions = f"{' '.join(release.generators)} {sys.version}"
    tools = prefix.parent / f"tools-{hashlib.sha256(versions.encode()).hexdigest()[:16]}"
    if not (tools / "complete").exists():
        shutil.rmtree(tools, ignore_errors=True)
        builder.make_tools(tools, release)
        (tools / "complete").touch()
    with tempfile.TemporaryDirectory(prefix="interfaces-") as folder:
        for package in packages:
            builder.compile_package(source / package, tools, Path(folder) / package, prefix)
