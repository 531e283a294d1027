"""The node graph, defined once: which processes run for a robot, with which parameters and names.

The launch files turn a ``Graph`` into launch actions, ``openvla up`` into supervised processes.
Nodes use the same relative topic names on every robot; the remappings to the names that a robot's
driver uses come from its profile. Knows nothing of ROS.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.enclaves import enclave_arguments
from openvla_ros.dependencies import NODE_NEEDS, POLICY_NEEDS, require
from openvla_ros.errors import InvalidValueError
from openvla_ros.policy.factory import DECODERS, POLICIES, QUANTIZATIONS, REMOTE_ADDRESSES
from openvla_ros.profile import CameraProfile, RobotProfile, load_profile
from openvla_ros.sim.opengl import rendering_environment

ParameterValue = str | int | float | bool
# What happens when a process exits by itself: the rest is stopped, or it is restarted, always or only if a
# signal killed it (an exit code means that it cannot run as configured).
OnExit = Literal["shutdown", "restart", "restart_if_killed"]


@dataclass(frozen=True)
class NodeSpec:
    """One process: a node of this package with its parameters and names."""

    name: str
    executable: str  # the program's name, and the module's in ``openvla_ros.nodes``
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    remappings: Mapping[str, str] = field(default_factory=dict)
    on_exit: OnExit = "shutdown"  # what happens when this process exits by itself
    stop_order: int = 0  # lower numbers are stopped first; the robot itself is stopped last
    python: str = ""  # the interpreter that runs it; empty: the one that starts the others

    def restarts_after(self, exit_code: int) -> bool:
        """Return whether to restart the process after ``exit_code``; negative: killed by a signal."""
        return self.on_exit == "restart" or (self.on_exit == "restart_if_killed" and exit_code < 0)

    @property
    def program(self) -> list[str]:
        """What ``python -m`` runs."""
        return ["openvla_ros.nodes", self.executable]

    def ros_arguments(self, namespace: str) -> list[str]:
        """Return the command-line arguments after ``--ros-args``."""
        arguments = ["-r", f"__node:={self.name}"]
        if namespace:
            arguments += ["-r", f"__ns:=/{namespace.strip('/')}"]
        for source, target in self.remappings.items():
            arguments += ["-r", f"{source}:={target}"]
        for key, value in self.parameters.items():
            arguments += ["-p", f"{key}:={_yaml(value)}"]
        return arguments


@dataclass(frozen=True)
class Graph:
    """The processes of one robot, in the order in which they are started."""

    namespace: str
    nodes: tuple[NodeSpec, ...]
    environment: Mapping[str, str]  # what is added to each process's environment

    def node(self, name: str) -> NodeSpec:
        """Return the node called ``name``; raises ``InvalidValueError`` listing the existing names."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise InvalidValueError(f"no node {name!r}; choose one of {', '.join(n.name for n in self.nodes)}")


@dataclass(frozen=True)
class GraphOptions:
    """The options for starting a robot."""

    robot: str = "sim_widowx"
    namespace: str = ""
    policy: str = "openvla"
    policy_parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    cameras: bool = True  # start this package's camera node for the cameras whose source is a device
    camera_parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    controller_parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    simulation_parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    record: bool = False
    recorder_parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    teleop: str = ""  # a teleoperation device, or none
    use_sim_time: bool = False
    robot_address: str = ""  # of an arm that a node of this package drives over the network


# What ``ros2 launch`` and ``openvla up`` take: name → (default, what it means).
LAUNCH_ARGUMENTS = {
    "robot": ("sim_widowx", "robot profile: a name from config/robots or a YAML file"),
    "namespace": ("", "namespace of every node and topic, to run two robots on one machine"),
    "policy": ("openvla", f"the policy: {', '.join(POLICIES)}"),
    "checkpoint": ("", "model folder or hub id, for policy openvla"),
    "unnorm_key": ("", "dataset statistics to use, if the checkpoint has more than one set"),
    "adapter": ("", "LoRA adapter folder, for policy openvla"),
    "decoder": ("", f"decoder of policy openvla; same tokens: {', '.join(DECODERS)}"),
    "quantization": ("", f"quantised weights for policy openvla: {', '.join(QUANTIZATIONS)}"),
    "address": ("", "address of a policy server, for policy remote: " + ", ".join(REMOTE_ADDRESSES)),
    "token_file": ("", "file with the server's token, for policy remote"),
    "fingerprint": ("", "SHA-256 of the server's certificate, for policy remote over TLS"),
    "cameras": (
        "true",
        "start a camera node for every camera whose source in the profile is a device; false: none",
    ),
    "record": ("false", "start the recorder"),
    "teleop": ("", "teleoperation device: keyboard, gamepad, spacemouse, leader"),
    "task": ("", "task of the simulation"),
    "robot_address": ("", "name or IP address of the arm's controller, for arm_backend franky"),
    "use_sim_time": ("false", "use the time from /clock"),
}


def options_from_arguments(values: Mapping[str, str]) -> GraphOptions:
    """Return the options for launch arguments given as text; ``values`` holds all ``LAUNCH_ARGUMENTS``.

    Raises ``InvalidValueError`` for a switch that is neither ``true`` nor ``false``.
    """
    of_policy = (
        "checkpoint", "unnorm_key", "adapter", "decoder", "quantization", "address", "token_file",
        "fingerprint",
    )  # fmt: skip
    chosen = {key: values[key] for key in of_policy if values[key]}
    return GraphOptions(
        robot=values["robot"],
        namespace=values["namespace"],
        policy=values["policy"],
        policy_parameters=chosen,
        cameras=_switch("cameras", values),
        simulation_parameters={"task": values["task"]} if values["task"] else {},
        record=_switch("record", values),
        teleop=values["teleop"],
        use_sim_time=_switch("use_sim_time", values),
        robot_address=values["robot_address"],
    )


def build_graph(options: GraphOptions, environment: Mapping[str, str]) -> Graph:
    """Return the processes for ``options``; ``environment`` is that of the process that starts them.

    Raises ``ProfileError`` for an unknown robot, ``InvalidValueError`` for an unknown policy, and
    ``MissingDependencyError`` if a package that one of the processes imports is not installed, or the
    OpenGL library that ``MUJOCO_GL`` names does not work here.
    """
    profile = load_profile(options.robot)
    if options.policy not in POLICIES:
        raise InvalidValueError(f"policy {options.policy!r} is not one of {', '.join(POLICIES)}")
    nodes = _robot_nodes(profile, options)
    if profile.takes_setpoints:
        nodes.append(_setpoints(profile, options))
    nodes += [_controller(profile, options), _policy(profile, options)]
    if options.record:
        nodes.append(_recorder(profile, options))
    if options.teleop:
        nodes.append(_teleop(profile, options))
    for node in nodes:
        require(NODE_NEEDS[node.executable], f"the node {node.name}")
    require(POLICY_NEEDS.get(options.policy, ()), f"policy {options.policy!r}")
    added = dict(dds_environment(environment))
    if profile.simulation is not None:
        added |= rendering_environment(environment)
    return Graph(options.namespace, tuple(nodes), added)


def cameras_elsewhere(profile: RobotProfile, graph: Graph) -> list[str]:
    """Return a line for each camera that no process of ``graph`` publishes: its own driver must run."""
    started = {node.name for node in graph.nodes}
    if profile.simulation is not None:
        return []
    return [
        f"camera {camera.name}: {camera.topic} comes from the camera's own driver; start that separately"
        for camera in profile.cameras
        if f"camera_{camera.name}" not in started
    ]


def arguments_of_one_node(
    name: str, robot: str, namespace: str = "", use_sim_time: bool = False
) -> list[str]:
    """Return the ROS arguments for starting the node ``name`` alone on a robot that is already up.

    Names and parameters are the same as in the graph of ``build_graph``.
    """
    options = GraphOptions(robot=robot, namespace=namespace, use_sim_time=use_sim_time)
    node = _node(load_profile(robot), options, name, {}, "shutdown", stop_order=0)
    return ["--ros-args", *node.ros_arguments(namespace), *enclave_arguments(os.environ, namespace, name)]


def _robot_nodes(profile: RobotProfile, options: GraphOptions) -> list[NodeSpec]:
    """The simulated robot and the cameras; a real arm's own driver is started by its maker's launch."""
    if profile.simulation is None:
        cameras = tuple(c for c in profile.cameras if options.cameras and _is_ours(c, options))
        nodes = [_camera(profile, options, camera.name, "camera_node") for camera in cameras]
        return [_franky(profile, options), *nodes] if profile.arm_backend.kind == "franky" else nodes
    parameters = {
        "robot": options.robot,
        "publish_clock": options.use_sim_time,
        "draw_cameras": not options.cameras,
        **options.simulation_parameters,
    }
    robot = NodeSpec("simulation", "simulation_node", parameters, _remappings(profile), stop_order=3)
    cameras = profile.cameras if options.cameras else ()
    return [robot, *(_camera(profile, options, c.name, "simulated_camera_node") for c in cameras)]


def _is_ours(camera: CameraProfile, options: GraphOptions) -> bool:
    """Whether this package's camera node publishes the camera, rather than its own driver."""
    return camera.origin.kind != "topic" or "source" in options.camera_parameters


def _camera(profile: RobotProfile, options: GraphOptions, name: str, executable: str) -> NodeSpec:
    parameters = {
        "robot": options.robot,
        "camera": name,
        "use_sim_time": options.use_sim_time,
        **options.camera_parameters,
    }
    return NodeSpec(
        f"camera_{name}", executable, parameters, _remappings(profile), on_exit="restart", stop_order=1
    )


def _franky(profile: RobotProfile, options: GraphOptions) -> NodeSpec:
    """The driver of a Franka arm, the last to stop: it brakes the arm if nobody else has."""
    settings = profile.arm_backend.franky
    assert settings is not None  # the profile has checked it
    if options.use_sim_time:
        raise InvalidValueError("use_sim_time is true; the franky node drives a real arm, in real time")
    if not (options.robot_address or settings.address):
        raise InvalidValueError(
            f"robot {profile.name!r} needs the address of the arm's controller: robot_address "
            "(--robot-address), or arm_backend.franky.address in the profile"
        )
    if settings.python and not shutil.which(settings.python):
        raise InvalidValueError(
            f"arm_backend.franky.python of robot {profile.name!r} is {settings.python!r}, which is no "
            "program; name the Python of the environment that has franky-control"
        )
    if not settings.python:  # another Python has other packages
        require(("franky",), "the node franky")
    parameters: dict[str, ParameterValue] = {"robot": options.robot}
    if options.robot_address:
        parameters["address"] = options.robot_address
    return NodeSpec(
        "franky",
        "franky_node",
        parameters,
        _remappings(profile),
        on_exit="restart_if_killed",
        stop_order=4,
        python=settings.python,
    )


def _setpoints(profile: RobotProfile, options: GraphOptions) -> NodeSpec:
    """The setpoint node is on the robot's side: it outlives the controller, and nothing moves without it."""
    parameters: dict[str, ParameterValue] = {"robot": options.robot, "use_sim_time": options.use_sim_time}
    return NodeSpec("setpoints", "setpoint_node", parameters, _remappings(profile), stop_order=3)


def _controller(profile: RobotProfile, options: GraphOptions) -> NodeSpec:
    own = dict(options.controller_parameters)
    return _node(profile, options, "controller", own, "restart_if_killed", stop_order=2)


def _policy(profile: RobotProfile, options: GraphOptions) -> NodeSpec:
    own = {"policy": options.policy, **options.policy_parameters}
    return _node(profile, options, "policy", own, "restart_if_killed", stop_order=0)


def _recorder(profile: RobotProfile, options: GraphOptions) -> NodeSpec:
    return _node(profile, options, "recorder", dict(options.recorder_parameters), "shutdown", stop_order=1)


def _teleop(profile: RobotProfile, options: GraphOptions) -> NodeSpec:
    return _node(profile, options, "teleop", {"device": options.teleop}, "shutdown", stop_order=0)


def _node(
    profile: RobotProfile,
    options: GraphOptions,
    name: str,
    own: dict[str, ParameterValue],
    on_exit: OnExit,
    stop_order: int,
) -> NodeSpec:
    """Return the process of the node ``name`` with the ``shared`` parameters and its ``own``."""
    shared: dict[str, ParameterValue] = {"robot": options.robot, "use_sim_time": options.use_sim_time}
    return NodeSpec(name, f"{name}_node", shared | own, _remappings(profile), on_exit, stop_order)


def _remappings(profile: RobotProfile) -> dict[str, str]:
    """Return canonical name → name on this robot, for the names that differ."""
    pairs = {"joint_states": profile.state.joint_states_topic}
    for camera in profile.cameras:
        canonical = f"camera/{camera.name}/image_raw"
        pairs[canonical] = camera.topic
        pairs[f"{canonical}/compressed"] = f"{camera.topic}/compressed"
        folder, _, _ = camera.topic.rpartition("/")
        pairs[f"camera/{camera.name}/camera_info"] = f"{folder}/camera_info"
    return {source: target for source, target in pairs.items() if source != target}


def _switch(name: str, values: Mapping[str, str]) -> bool:
    text = values[name].lower()
    if text not in ("true", "false"):
        raise InvalidValueError(f"{name} is {values[name]!r}; it must be true or false")
    return text == "true"


def _yaml(value: ParameterValue) -> str:
    """Return ``value`` as the YAML scalar that rcl reads back with the same type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
