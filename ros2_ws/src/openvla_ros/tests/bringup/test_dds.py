"""Which variable names the DDS profile, by the version of Fast DDS that reads it.

Fast DDS 2.14.5 (the Jazzy wheels) reads FASTRTPS_DEFAULT_PROFILES_FILE alone: given a broken file under
that name its XML parser complains, under the new name it is silent. Fast DDS 3.2.2 (Kilted) reads both.
"""

import os
import subprocess
import sys

import pytest

from openvla_ros.bringup.dds import (
    PROFILE_VARIABLES,
    dds_environment,
    expected_fast_dds,
    share_path,
    transport_problem,
)
from openvla_ros.bringup.supervisor import child_environment

NEW, OLD = PROFILE_VARIABLES
PROFILE = str(share_path() / "config" / "dds" / "fastdds.xml")
RMW = "rmw_fastrtps_cpp"


@pytest.mark.parametrize(
    ("names", "fast_dds", "good"),
    [
        ([NEW], 3, True),
        ([OLD], 3, True),
        ([NEW], 2, False),
        ([OLD], 2, True),
        ([NEW, OLD], 2, True),
        ([], 3, False),
    ],
)
def test_a_profile_counts_only_under_a_name_that_this_version_reads(names, fast_dds, good):
    problem = transport_problem(dict.fromkeys(names, PROFILE), RMW, fast_dds)
    assert (problem is None) == good
    if names and not good:
        assert f"{NEW} is not read by Fast DDS 2" in problem
        assert f"with {OLD} set to" in problem


@pytest.mark.parametrize(
    ("release", "version"), [("humble", 2), ("iron", 2), ("jazzy", 2), ("kilted", 3), ("rolling", 3)]
)
def test_the_release_says_which_fast_dds_will_be_loaded(release, version):
    assert expected_fast_dds({"ROS_DISTRO": release}) == version


@pytest.mark.parametrize(("rclpy", "version"), [("3.3.16", 2), ("7.1.6", 2), ("9.1.2", 3), ("10.0.7", 3)])
def test_without_a_release_the_version_of_rclpy_says_it(monkeypatch, rclpy, version):
    monkeypatch.setattr("openvla_ros.bringup.dds.version", lambda name: rclpy)
    assert expected_fast_dds({}) == version


def test_a_profile_that_the_user_chose_is_passed_on_under_the_name_that_is_read():
    assert dds_environment({"ROS_DISTRO": "jazzy", NEW: "/mine.xml"}) == {OLD: "/mine.xml"}
    assert dds_environment({"ROS_DISTRO": "jazzy", OLD: "/mine.xml"}) == {}
    assert dds_environment({"ROS_DISTRO": "kilted", NEW: "/mine.xml"}) == {}
    assert dds_environment({"ROS_DISTRO": "jazzy"}) == {NEW: PROFILE, OLD: PROFILE}


LOADED = """
import rclpy
from openvla_ros.ros.dds_check import loaded_fast_dds
rclpy.init()
rclpy.create_node("looks")
print(loaded_fast_dds())
"""


@pytest.mark.ros
def test_the_version_in_this_process_is_the_one_that_was_expected(ros_domain):
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    environment = child_environment(os.environ, {})
    environment.pop("ROS_DISTRO", None)
    output = subprocess.check_output([sys.executable, "-c", LOADED], env=environment, text=True, timeout=60)
    assert int(output.split()[-1]) == expected_fast_dds({})
