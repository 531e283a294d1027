"""Start every node without a robot; print as JSON what it publishes, subscribes to, serves and reports.

Used by ``write_reference.py``. One process runs the nodes one after the other, in a ROS domain limited to
this machine. The output is what the nodes really create.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rclpy.action import get_action_client_names_and_types_by_node, get_action_server_names_and_types_by_node
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from openvla_ros.profile import dump_profile, load_profile
from openvla_ros.ros.diagnostics import DiagnosticsPublisher
from openvla_ros.values.health import LatencyHealth

ROBOT = "sim_widowx"
# Created by rclpy itself, the same for every node.
OF_RCLPY = ("/rosout", "/parameter_events")
SERVICES_OF_RCLPY = re.compile(
    r"/(describe_parameters|get_parameter.*|set_parameters.*|list_parameters|get_type_description|change_state"
    r"|get_state|get_available_.*|get_transition_graph)$"
)


def main() -> int:
    """Print the nodes; return the exit code."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    with tempfile.TemporaryDirectory() as text:
        found = {name: looked_at(name, values) for name, values in nodes(Path(text)).items()}
    print(json.dumps(found))
    return 0


def nodes(folder: Path) -> dict[str, dict[str, str]]:
    """Return each executable with parameters that let it start without hardware."""
    image = folder / "images"
    image.mkdir()
    import_module("PIL.Image").new("RGB", (640, 480)).save(image / "0.png")
    setpoints = profile_with(folder, "setpoints", "arm_backend", "forward_position")
    return {
        "camera_node": {"robot": ROBOT, "source": "images", "path": str(image)},
        "controller_node": {"robot": ROBOT},
        "policy_node": {"robot": ROBOT, "policy": "hold"},
        "recorder_node": {"robot": ROBOT, "folder": str(folder / "recordings")},
        "franky_node": {"robot": "franka_franky", "address": "127.0.0.1"},
        "setpoint_node": {"robot": setpoints},
        "simulated_camera_node": {"robot": ROBOT},
        "simulation_node": {"robot": ROBOT},
        "teleop_node": {"robot": ROBOT, "device": "spacemouse"},
    }


def profile_with(folder: Path, name: str, part: str, kind: str) -> str:
    """Return the path of a copy of ``ROBOT``'s profile whose ``part`` has another kind."""
    data = yaml.safe_load(dump_profile(load_profile(ROBOT)))
    data[part]["kind"] = kind
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


@contextmanager
def running(make: Callable[[], Node], parameters: dict[str, str]) -> Iterator[Node]:
    """A configured node with these parameters; it ends with the block."""
    arguments = [part for key, value in parameters.items() for part in ("-p", f'{key}:="{value}"')]
    rclpy.init(args=["--ros-args", "--log-level", "fatal", *arguments],
               signal_handler_options=SignalHandlerOptions.NO)  # fmt: skip
    node = make()
    try:
        if isinstance(node, LifecycleNode) and node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            raise SystemExit(f"{node.get_name()} could not be configured")
        yield node
    finally:
        stop = getattr(node, "stop", None)
        if stop is not None:
            stop()
        node.destroy_node()
        rclpy.try_shutdown()


def looked_at(name: str, parameters: dict[str, str]) -> dict[str, Any]:
    """Start the node's program; return its interface and diagnostics."""
    module = import_module(f"openvla_ros.nodes.{name}")
    (cls,) = (
        value for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Node) and value.__module__ == module.__name__
    )  # fmt: skip
    with running(cls, parameters) as node:
        return {**endpoints(node), "health": health(node)}


def endpoints(node: Node) -> dict[str, list[list[str]]]:
    """Return the topics, services and actions of ``node``; every list is sorted."""
    hidden = (*OF_RCLPY, f"/{node.get_name()}/transition")
    actions, action_clients = action_ends(node)
    return {
        "publishers": unique(
            [topic(p.topic), type_of(p.msg_type), quality(p.qos_profile)]
            for p in node.publishers if not p.topic.startswith(hidden)
        ),
        "subscriptions": unique(
            [topic(s.topic_name), type_of(s.msg_type), quality(s.qos_profile)]
            for s in node.subscriptions if not s.topic_name.startswith(OF_RCLPY)
        ),
        "services": unique(
            [topic(node.resolve_service_name(s.srv_name)), type_of(s.srv_type)]
            for s in node.services if not SERVICES_OF_RCLPY.search(s.srv_name)
        ),
        "clients": unique(
            [*([topic(node.resolve_service_name(c.srv_name)), type_of(c.srv_type)] for c in node.clients),
             *action_clients]
        ),
        "actions": unique(actions),
    }  # fmt: skip


def action_ends(node: Node) -> tuple[list[list[str]], list[list[str]]]:
    """Return (served, called) actions."""
    name, namespace = node.get_name(), node.get_namespace()
    found = []
    for look in (get_action_server_names_and_types_by_node, get_action_client_names_and_types_by_node):
        found.append(
            [[topic(action), kind] for action, kinds in look(node, name, namespace) for kind in kinds]
        )
    served, called = found
    return served, called


def health(node: Node) -> list[tuple[str, list[str]]]:
    """Return the statuses that ``node`` publishes, with the keys of their values."""
    gc.unfreeze()  # the control loop freezes objects out of the garbage collector
    for watch in [value for value in gc.get_objects() if isinstance(value, LatencyHealth)]:
        watch.add(0.0)  # percentiles are reported once something has been measured
    reporters = [value for value in vars(node).values() if isinstance(value, DiagnosticsPublisher)]
    found: dict[str, set[str]] = {}
    for reporter in reporters:
        for item in reporter._collect():
            keys = {re.sub(r"^count/.*", "count/<reason>", key) for key in item.values}
            found.setdefault(item.name, set()).update(keys)
    return [(name, sorted(keys)) for name, keys in sorted(found.items())]


def topic(name: str) -> str:
    """Return a topic name as in the code: relative, with ``<camera>`` for the camera's name."""
    cameras = "|".join(camera.name for camera in load_profile(ROBOT).cameras)
    absolute = name in ("/diagnostics", "/clock", "/tf", "/tf_static")
    return re.sub(rf"^camera/({cameras})/", "camera/<camera>/", name if absolute else name.lstrip("/"))


def type_of(interface: Any) -> str:
    """Return an interface's name in the form that ``ros2 interface show`` accepts."""
    package, kind, *_ = interface.__module__.split(".")
    return f"{package}/{kind}/{interface.__name__}"


def quality(profile: Any) -> str:
    """Return a quality of service in words."""
    words = (profile.reliability.name, profile.durability.name)
    return f"{', '.join(word.lower().replace('_', ' ') for word in words)}, {profile.depth}"


def unique(rows: Any) -> list[list[str]]:
    """Return the distinct rows, sorted."""
    return [list(row) for row in sorted({tuple(row) for row in rows})]


if __name__ == "__main__":
    sys.exit(main())
