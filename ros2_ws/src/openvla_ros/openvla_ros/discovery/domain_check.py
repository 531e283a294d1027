"""Checks whether a robot's nodes already run in this ROS domain: a second set is not started."""

from __future__ import annotations

import os

from openvla_ros.bringup.graph import Graph
from openvla_ros.discovery.client import RobotClient
from openvla_ros.discovery.endpoints import full_name, listed
from openvla_ros.discovery.rival_watch import VERDICT
from openvla_ros.errors import DeviceError

# Existing nodes are discovered within this time, on one machine or network, even on a busy machine.
LISTEN_S = 3.0
# Names follow topics: once a topic of the robot is there, its publisher's name comes within this.
NAMES_S = 5.0
# From the first discovered name to the last of all, if they all run.
OTHERS_S = 3.0


def names_of(graph: Graph) -> set[str]:
    """Return the full names that the nodes of ``graph`` will have."""
    namespace = f"/{graph.namespace.strip('/')}"
    return {full_name(namespace, node.name) for node in graph.nodes}


def refuse_if_there(graph: Graph, listen_s: float = LISTEN_S) -> None:
    """Listen for a moment; raises ``DeviceError`` naming the nodes of ``graph`` that already run.

    A node that was killed a moment ago does not count: DDS does not announce it to new participants.
    """
    wanted, namespace = names_of(graph), f"/{graph.namespace}".rstrip("/")
    with RobotClient(f"domain_check_{os.getpid()}") as client:
        node, there = client.node, list[str]()

        def named() -> bool:
            found = node.get_node_names_and_namespaces()
            there[:] = [name for name in (full_name(ns, n) for n, ns in found) if name in wanted]
            return bool(there)

        def heard() -> bool:
            return named() or node.count_publishers(f"{namespace}/{VERDICT}") > 0

        if client.wait(heard, listen_s) and client.wait(named, NAMES_S):
            client.wait(lambda: named() and set(there) >= wanted, OTHERS_S)
    if there:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        raise DeviceError(
            f"{listed(there)}: already running in ROS domain {domain}, and two would command one robot. Stop "
            "them, set another ROS_DOMAIN_ID, or, for a second robot, choose another --namespace"
        )
