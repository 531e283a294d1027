"""SROS 2 enclaves: under which identity each process joins a ROS domain whose participants are known.

An enclave is a folder of a keystore with a key, a certificate and what it may publish, subscribe to and
call. Every process of a robot has its own, ``/NAMESPACE/NODE``; the programs that people type share one,
``/NAMESPACE/operator``. ROS takes them from the keystore that ``ROS_SECURITY_KEYSTORE`` names if
``ROS_SECURITY_ENABLE`` is true (https://docs.ros.org, "SROS 2 environment variables").
"""

from __future__ import annotations

from collections.abc import Mapping

ENABLE = "ROS_SECURITY_ENABLE"
OPERATOR = "operator"  # of the programs that people type: tell, hold, check, replay ...
# Second nodes of a process: they are in the enclave of the first one.
SECOND_NODES = {"controller_stops": "controller"}


def is_secured(environment: Mapping[str, str]) -> bool:
    """Return whether ROS will look for keys in this environment; rcl compares with ``true`` exactly."""
    return environment.get(ENABLE) == "true"


def enclave_of(namespace: str, name: str) -> str:
    """Return the enclave of the process that has the node ``name`` in ``namespace``: ``/left/controller``."""
    first = SECOND_NODES.get(name, name)
    return "/" + "/".join(part for part in (namespace.strip("/"), first) if part)


def enclave_arguments(environment: Mapping[str, str], namespace: str, name: str) -> list[str]:
    """Return what goes after ``--ros-args`` for a process of ``name``; nothing without SROS 2."""
    return ["--enclave", enclave_of(namespace, name)] if is_secured(environment) else []
