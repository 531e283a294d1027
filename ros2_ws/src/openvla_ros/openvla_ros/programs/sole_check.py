"""Two of a kind in a robot's ROS domain, and publishers that DDS keeps from their subscribers.

A part of ``openvla check``. What it finds is alive: a program that starts last does not hear of the dead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from rclpy.node import Node

from openvla_ros.discovery.endpoints import full_name, listed, mismatches, publishers, rivals, twins
from openvla_ros.discovery.message_publishers import Publisher, described
from openvla_ros.discovery.rival_watch import VERDICT, command_topics
from openvla_ros.profile import RobotProfile
from openvla_ros.programs.finding import Finding

WAY_OUT = "stop one of them, or keep them apart by ROS_DOMAIN_ID or namespace"
# Chunks of the policy also come from ``openvla replay``, which needs a policy that does not act.
CHUNKS = ("policy/action_chunk", "teleop/action_chunk")


def check_sole(node: Node, profile: RobotProfile) -> Iterator[Finding]:
    """Look at who is there, after having listened for a while."""
    found = [*_names(node), *_topics(node, profile), *_commands(node, profile), *_quality(node, profile)]
    yield from found
    if not found:
        yield Finding("ok", "duplicates", "no duplicate nodes or publishers")


def _names(node: Node) -> Iterator[Finding]:
    for name in twins(node):
        yield Finding("error", "duplicates", f"two nodes are called {name}", WAY_OUT)


def _topics(node: Node, profile: RobotProfile) -> Iterator[Finding]:
    streams = [(f"camera {camera.name}", camera.topic) for camera in profile.cameras]
    if profile.state.wrench_topic is not None:
        streams.append(("wrench", profile.state.wrench_topic))
    streams += [("chunks", topic) for topic in CHUNKS]
    for subject, topic in streams:
        names = [endpoint.node for endpoint in publishers(node, topic)]
        if len(names) > 1:
            text = f"{listed(names)} publish {node.resolve_topic_name(topic)}; it must have one publisher"
            yield Finding("error", subject, text, WAY_OUT)


def _commands(node: Node, profile: RobotProfile) -> Iterator[Finding]:
    for topic, expected in command_topics(node, profile).items():
        endpoints = publishers(node, topic)
        names = [endpoint.node for endpoint in endpoints]
        others = rivals(endpoints, expected, own=names.count(expected) > 1)
        if others:
            what = "two controllers" if topic == VERDICT else "two would command one arm"
            text = f"{listed(names)} publish {node.resolve_topic_name(topic)}: {what}"
            yield Finding("error", "duplicates", text, f"{WAY_OUT}; the controller moves nothing meanwhile")


def _quality(node: Node, profile: RobotProfile) -> Iterator[Finding]:
    topics = [camera.topic for camera in profile.cameras] + [profile.state.joint_states_topic]
    topics += ["instruction", "e_stop", *CHUNKS, *command_topics(node, profile)]
    own = full_name(node.get_namespace(), node.get_name())
    for topic in topics:
        for text in mismatches(node, topic):
            if own not in text.split(" do not match ")[0].split(" and "):
                yield Finding("error", "quality of service", text, "make the publisher's QoS the stronger")


def check_reporters(node: Node, topic: str, reporters: Collection[Publisher]) -> Iterator[Finding]:
    """Check that one publisher reports the arm's joints; another may report the gripper's.

    ``reporters`` are the publishers from which the arm's joints were heard.
    """
    if len(reporters) > 1:
        names = described(node, topic, reporters)
        text = f"{names} report the arm's joints on {node.resolve_topic_name(topic)}"
        yield Finding("error", "joint states", text, WAY_OUT)
