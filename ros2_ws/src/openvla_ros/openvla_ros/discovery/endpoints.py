"""Publishers and subscribers by name, as DDS reports them: for topics that must have one publisher.

DDS keeps listing a killed process until its lease expires (``LEASE_S``), but only to participants that
knew it alive; those that start later never see it. So two nodes of one name are both alive if the
observer started last or is one of them; otherwise they may be a dead one and its successor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible

# How long DDS may list a process that was killed: 20 s by default in Fast DDS, 10 s in Cyclone DDS.
LEASE_S = 20.0
# rmw's name for the node of an endpoint that was discovered before its node.
UNKNOWN = "_NODE_NAME_UNKNOWN_"


@dataclass(frozen=True)
class Endpoint:
    """One publisher or subscription of a topic."""

    node: str  # with its namespace
    gid: bytes  # identifies the endpoint


def full_name(namespace: str, name: str) -> str:
    """Return a node's name with its namespace, from ``/`` on."""
    return f"{namespace.rstrip('/')}/{name}"


def publishers(node: Node, topic: str) -> list[Endpoint]:
    """Return the publishers of ``topic``, a name relative to ``node``; ``node`` itself included."""
    infos = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    return [Endpoint(full_name(i.node_namespace, i.node_name), bytes(i.endpoint_gid)) for i in infos]


def listed(names: Iterable[str]) -> str:
    """Return the names as text, each once, with its count: ``/policy (2 of them), /replay``."""
    counts = sorted(Counter(names).items())
    return ", ".join(name if count == 1 else f"{name} ({count} of them)" for name, count in counts)


def twins(node: Node) -> list[str]:
    """Return the full names that more than one node of the domain has, each once."""
    counts = Counter(full_name(namespace, name) for name, namespace in node.get_node_names_and_namespaces())
    return sorted(name for name, count in counts.items() if count > 1)


def mismatches(node: Node, topic: str) -> list[str]:
    """Describe which publishers and subscribers of ``topic`` do not match because of their QoS.

    A node that subscribes twice, latched and volatile, receives from every publisher: one match is enough.
    """
    name = node.resolve_topic_name(topic)
    pairs: dict[tuple[str, str], list[str]] = {}
    for offer in node.get_publishers_info_by_topic(name):
        for request in node.get_subscriptions_info_by_topic(name):
            if offer.topic_type != request.topic_type:
                continue
            pair = tuple(full_name(i.node_namespace, i.node_name) for i in (offer, request))
            pairs.setdefault((pair[0], pair[1]), []).append(_refused(offer, request))
    return [
        f"the QoS of {publisher} and {subscriber} on {name} do not match: {reasons[0]}"
        for (publisher, subscriber), reasons in sorted(pairs.items())
        if all(reasons)
    ]


def _refused(offer: Any, request: Any) -> str:
    """Return why a publisher's QoS does not satisfy a subscription's, or an empty string."""
    compatible, reason = qos_check_compatible(offer.qos_profile, request.qos_profile)
    return (reason or "incompatible QoS") if compatible == QoSCompatibility.ERROR else ""


def rivals(endpoints: Sequence[Endpoint], expected: str, own: bool) -> list[str]:
    """Return the names of publishers other than ``expected``; ``own`` if the observer is ``expected``.

    A second one with the observer's own name is a rival; of two others with one name, one may be dead.
    """
    names = [endpoint.node for endpoint in endpoints if UNKNOWN not in endpoint.node or own]
    others = [name for name in names if name != expected]
    return others + ([expected] if own and names.count(expected) > 1 else [])
