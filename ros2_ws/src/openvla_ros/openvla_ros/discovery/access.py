"""What each node of a running robot publishes, subscribes to, serves and calls, as ROS reports it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

from rclpy.action import get_action_client_names_and_types_by_node, get_action_server_names_and_types_by_node
from rclpy.node import Node, NodeNameNonExistentError

from openvla_ros.discovery.client import RobotClient
from openvla_ros.discovery.endpoints import UNKNOWN, full_name
from openvla_ros.errors import DeviceError

_Ask = Callable[[str, str], Iterable[tuple[str, list[str]]]]  # (node, namespace) → [(name, types)]
# Actions are made of services and topics below this name; they are listed as actions.
OF_ACTIONS = "/_action/"
LOOK_S = 0.5


@dataclass(frozen=True)
class Access:
    """The full names that one node uses; the words are those of a policy of SROS 2."""

    publish: frozenset[str] = frozenset()  # topics
    subscribe: frozenset[str] = frozenset()
    reply: frozenset[str] = frozenset()  # services
    request: frozenset[str] = frozenset()
    execute: frozenset[str] = frozenset()  # actions
    call: frozenset[str] = frozenset()

    def __or__(self, other: Access) -> Access:
        """Return what either may do."""
        return Access(**{f.name: getattr(self, f.name) | getattr(other, f.name) for f in fields(self)})

    def __len__(self) -> int:
        """Return how many rights these are."""
        return sum(len(getattr(self, f.name)) for f in fields(self))


def watch_access(client: RobotClient, seconds: float) -> dict[tuple[str, str], Access]:
    """Return (namespace, name) → all that each node had at any time within ``seconds``.

    Raises ``DeviceError`` if the robot of ``client``'s namespace has no controller.
    """
    controller = full_name(client.node.get_namespace(), "controller")

    def is_there() -> bool:
        return controller in (full_name(ns, name) for name, ns in client.node.get_node_names_and_namespaces())

    if not client.wait(is_there, client.timeout_s):
        raise DeviceError(
            f"no node {controller} in ROS domain {os.environ.get('ROS_DOMAIN_ID', '0')}: the policy is made "
            "from a robot that runs; start it with openvla up"
        )
    found: dict[tuple[str, str], Access] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.listen(LOOK_S)
        for at, access in access_by_node(client.node).items():
            found[at] = found.get(at, Access()) | access
    return found


def access_by_node(observer: Node) -> dict[tuple[str, str], Access]:
    """Return (namespace, name) → access of all nodes that ``observer`` knows, without itself.

    Hidden nodes (``_ros2cli...``) and a node that ends meanwhile are left out.
    """
    me = (observer.get_name(), observer.get_namespace())
    found: dict[tuple[str, str], Access] = {}
    for name, namespace in sorted(set(observer.get_node_names_and_namespaces())):
        if (name, namespace) == me or name.startswith("_") or UNKNOWN in name:
            continue
        try:
            found[namespace, name] = _access(observer, name, namespace)
        except NodeNameNonExistentError:
            continue
    return found


def _access(observer: Node, name: str, namespace: str) -> Access:
    def names(ask: _Ask) -> frozenset[str]:
        return frozenset(found for found, _ in ask(name, namespace) if OF_ACTIONS not in found)

    return Access(
        publish=names(observer.get_publisher_names_and_types_by_node),
        subscribe=names(observer.get_subscriber_names_and_types_by_node),
        reply=names(observer.get_service_names_and_types_by_node),
        request=names(observer.get_client_names_and_types_by_node),
        execute=names(lambda *at: get_action_server_names_and_types_by_node(observer, *at)),
        call=names(lambda *at: get_action_client_names_and_types_by_node(observer, *at)),
    )
