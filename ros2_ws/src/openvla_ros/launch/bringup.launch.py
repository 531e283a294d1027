"""Start everything for one robot: cameras, policy, controller, and the simulation if the robot is simulated.

ros2 launch openvla_ros bringup.launch.py robot:=widowx policy:=openvla checkpoint:=/path/to/checkpoint
"""

import os

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription
from openvla_ros.bringup.enclaves import enclave_arguments
from openvla_ros.bringup.graph import LAUNCH_ARGUMENTS, Graph, NodeSpec, build_graph, options_from_arguments
from openvla_ros.bringup.supervisor import MAX_RESTARTS, restart_delay_s


def node_action(spec: NodeSpec, graph: Graph, restarts: int = 0) -> Node:
    """Return the launch action of one process of the graph that has been restarted ``restarts`` times."""

    def ended(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown:
            return []
        if spec.restarts_after(event.returncode) and restarts < MAX_RESTARTS:
            again = node_action(spec, graph, restarts + 1)
            return [TimerAction(period=restart_delay_s(spec, restarts + 1), actions=[again])]
        return [EmitEvent(event=Shutdown(reason=f"{spec.name} exited with code {event.returncode}"))]

    return Node(
        package="openvla_ros",
        executable=spec.executable,
        name=spec.name,
        namespace=graph.namespace,
        parameters=[dict(spec.parameters)],
        remappings=list(spec.remappings.items()),
        ros_arguments=enclave_arguments(os.environ, graph.namespace, spec.name),
        output="screen",
        prefix=spec.python or None,
        on_exit=ended,
    )


def start(context: LaunchContext) -> list:
    """Return the launch actions for the given arguments."""
    values = {name: LaunchConfiguration(name).perform(context) for name in LAUNCH_ARGUMENTS}
    graph = build_graph(options_from_arguments(values), os.environ)
    environment = [SetEnvironmentVariable(name, text) for name, text in graph.environment.items()]
    return [*environment, *(node_action(spec, graph) for spec in graph.nodes)]


def generate_launch_description() -> LaunchDescription:
    """Return the description that ``ros2 launch`` runs."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in LAUNCH_ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
