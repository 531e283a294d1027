"""DDS settings for camera images between processes, as environment variables of every process.

Fast DDS gives a participant 512 KB of shared memory by default; one 640x480 image is 921,600
bytes, so it is split into UDP fragments and, best effort, almost always lost. The profile in
``config/dds/fastdds.xml`` allots enough. No rclpy here: launch files and ``openvla up`` set the
environment, the nodes check it at start.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from openvla_ros.resources import share_path

# Fast DDS renamed its variable in version 3. Version 2 (Humble to Jazzy) only knows the old name; with
# version 3 (since Kilted) the old one still works, with a warning.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
READ_BY = {2: PROFILE_VARIABLES[1:], 3: PROFILE_VARIABLES}  # Fast DDS's major version → what it reads
OLDER_RELEASES = ("humble", "iron", "jazzy")  # values of ROS_DISTRO
KILTED_RCLPY = 9  # rclpy's major version: Humble 3, Jazzy 7, Kilted 9
# Room for the largest image of the profiles (1280x720 rgb8, 2.8 MB) with one more in flight.
NEEDED_SEGMENT_BYTES = 4 << 20

# Parameters of glibc's mallopt (malloc.h), and their values: the largest that every glibc takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT_BYTES, KEPT_BYTES = 32 << 20, 256 << 20


def keep_image_memory() -> bool:
    """Tell the C library to keep image-sized memory instead of returning it to the kernel after each image.

    By default glibc maps every block of that size afresh, and the kernel clears it page by page; where
    page faults are expensive (above all on virtual machines) that takes longer than copying the image.
    Returns whether the C library supports this: glibc does, musl does not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in wanted)


def expected_fast_dds(environment: Mapping[str, str]) -> int:
    """Return the major version of Fast DDS that nodes started with ``environment`` will load."""
    release = environment.get("ROS_DISTRO")
    if release:
        return 2 if release in OLDER_RELEASES else 3
    try:  # the wheels on PyPI set no ROS_DISTRO
        return 2 if int(version("rclpy").partition(".")[0]) < KILTED_RCLPY else 3
    except (PackageNotFoundError, ValueError):
        return 3


def dds_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add to ``environment`` for a node's process.

    A profile that the user has already chosen is kept, but passed on under the variable that is read.
    """
    if environment.get("FASTDDS_BUILTIN_TRANSPORTS"):
        return {}
    version_2 = expected_fast_dds(environment) == 2
    chosen = next((environment[name] for name in PROFILE_VARIABLES if environment.get(name)), None)
    if chosen is not None:
        unread = version_2 and not environment.get(PROFILE_VARIABLES[1])
        return {PROFILE_VARIABLES[1]: chosen} if unread else {}
    path = str(share_path() / "config" / "dds" / "fastdds.xml")
    return dict.fromkeys(PROFILE_VARIABLES if version_2 else PROFILE_VARIABLES[:1], path)


def transport_problem(environment: Mapping[str, str], rmw: str, fast_dds: int) -> str | None:
    """Return why images would be lost under ``environment``, with the remedy; ``None`` if they would not.

    ``fast_dds`` is the major version of Fast DDS in use.
    """
    if "fastrtps" not in rmw or environment.get("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT") != "DEFAULT":
        return None
    read = READ_BY.get(fast_dds, PROFILE_VARIABLES)
    remedy = (
        f"start the camera driver and these nodes with {read[0]} set to "
        f"{share_path() / 'config' / 'dds' / 'fastdds.xml'}"
    )
    chosen = next((environment[name] for name in read if environment.get(name)), None)
    if chosen is None:
        unread = next((name for name in PROFILE_VARIABLES if environment.get(name)), None)
        why = f"{unread} is not read by Fast DDS {fast_dds}, which then" if unread else "Fast DDS"
        return f"{why} has 512 KB of shared memory: larger images are mostly lost; {remedy}"
    path = Path(chosen)
    if not path.is_file():
        return f"the Fast DDS profile {chosen} does not exist; {remedy}"
    sizes = [int(n) for n in re.findall(rb"<segment_size>\s*(\d+)", path.read_bytes())]
    if sizes and max(sizes) < NEEDED_SEGMENT_BYTES:
        return f"{chosen} allots {max(sizes)} bytes of shared memory, too few for an image; {remedy}"
    return None
