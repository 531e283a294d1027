"""SROS 2 enclaves: each process of a robot has its own, and only where ROS is told to use keys."""

import os
import subprocess
import sys

import pytest

from openvla_ros.bringup.enclaves import enclave_arguments, enclave_of, is_secured

SECURED = {"ROS_SECURITY_ENABLE": "true"}


def test_an_enclave_is_called_by_namespace_and_node():
    assert enclave_of("", "controller") == "/controller"
    assert enclave_of("/", "controller") == "/controller"
    assert enclave_of("left/arm/", "policy") == "/left/arm/policy"
    assert enclave_of("left", "controller_stops") == "/left/controller"  # a second node of that process


def test_processes_are_given_their_enclave_only_with_keys():
    assert enclave_arguments({}, "left", "policy") == []
    assert enclave_arguments(SECURED, "left", "policy") == ["--enclave", "/left/policy"]


@pytest.mark.parametrize("value", ["True", "1", "yes", "false", ""])
def test_ros_compares_with_true_exactly(value):
    # rcl/src/rcl/security.c of rcl 10.1: strcmp(..., "true")
    assert not is_secured({"ROS_SECURITY_ENABLE": value})


@pytest.mark.ros
@pytest.mark.parametrize("verb", [["hold"], ["home"]])
@pytest.mark.parametrize("folder", ["enclaves", "enclaves/operator"])
def test_without_keys_a_secured_program_says_what_is_missing(ros_domain, tmp_path, verb, folder):
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    (tmp_path / folder).mkdir(parents=True)
    keys = {**SECURED, "ROS_SECURITY_STRATEGY": "Enforce", "ROS_SECURITY_KEYSTORE": str(tmp_path)}
    command = [sys.executable, "-c", "from openvla_ros.entry_points import openvla; openvla()", *verb]
    done = subprocess.run(
        command, env={**os.environ, **keys}, capture_output=True, text=True, timeout=120, check=False
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert "Traceback" not in said
    assert "openvla: ROS cannot" in said
    assert f"ROS_SECURITY_KEYSTORE is {str(tmp_path)!r}" in said
    assert "docs/security.md" in said
