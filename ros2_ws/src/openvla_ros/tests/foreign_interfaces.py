"""Message packages of other people's robots, for machines whose ROS comes from wheels.

There is no wheel of control_msgs, interbotix_xs_msgs, franka_msgs, moveit_msgs or tf2_msgs. The folders in
``interfaces`` hold the published definitions that the back ends speak, so that a stand-in can speak
them over DDS with the same types. They are built once (about a minute) and kept in the user's cache
under a key of their content. A machine with ROS installed has the real packages and needs none of it.
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

HERE = Path(__file__).resolve().parent / "interfaces"
BUILDER = Path(__file__).resolve().parents[4] / "tools" / "build_interfaces.py"
PACKAGES = ("control_msgs", "interbotix_xs_msgs", "franka_msgs", "moveit_msgs", "tf2_msgs")
NEEDED_PROGRAMS = ("cmake", "ninja", "g++")


def environment() -> dict[str, str]:
    """Return the environment of a process that can import the packages; skip where that cannot be."""
    if all(importlib.util.find_spec(package) for package in PACKAGES):
        return dict(os.environ)
    missing = [name for name in NEEDED_PROGRAMS if shutil.which(name) is None]
    if missing or not BUILDER.is_file():
        pytest.skip(f"needs {' and '.join(PACKAGES)}, or {', '.join(missing) or BUILDER.name} to build them")
    prefix = built_prefix()
    env = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    site = sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)})
    for name, path in (("PYTHONPATH", site), ("LD_LIBRARY_PATH", prefix / "lib")):
        env[name] = os.pathsep.join(filter(None, (str(path), env.get(name))))
    return env


def built_prefix() -> Path:
    """Return the install prefix of the packages, building them if this content never was."""
    spec = importlib.util.spec_from_file_location("build_interfaces", BUILDER)
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    key = f"{builder.content_hash(HERE)}-{sys.version_info[0]}{sys.version_info[1]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "openvla_ros" / "interfaces"
    cache.mkdir(parents=True, exist_ok=True)
    prefix = cache / hashlib.sha256(key.encode()).hexdigest()[:16]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (prefix / "complete").exists():
            try:
                build_all(builder, prefix)
            except (subprocess.CalledProcessError, SystemExit) as error:
                pytest.skip(f"the message packages could not be built here: {error}")
            (prefix / "complete").touch()
    return prefix


def build_all(builder, prefix: Path) -> None:
    """Build every package into ``prefix`` with one tool chain."""
    with tempfile.TemporaryDirectory(prefix="interfaces-") as folder:
        work = Path(folder)
        tools = builder.make_tools(work / "tools")
        for package in PACKAGES:
            builder.compile_package(HERE / package, tools, work / package, prefix)
