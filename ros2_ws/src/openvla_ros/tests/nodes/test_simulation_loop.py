"""Simulation, controller and policy as three processes over real DDS: told in words, it is done."""

import os
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from support import foreign_messages
from support.node_processes import Listener, NodeProcess
from support.sim_cell import CLOCK
from visualization_msgs.msg import MarkerArray

from openvla_ros.profile import load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.scene_messages import from_markers
from openvla_ros.ros.verdict_messages import from_verdict_message
from openvla_ros.values.verdict import Reason

pytestmark = [pytest.mark.ros, pytest.mark.timeout(900)]
ROBOTS = ["sim_widowx", "sim_franka_ros2", "sim_franka_crisp", "sim_widowx_interbotix"]
START_S, DO_S = 120.0, 120.0  # wall seconds that a busy machine may take to import, and to act


def is_held(verdicts):
    return bool(verdicts) and from_verdict_message(verdicts[-1]).verdict.reason is Reason.HELD


@pytest.mark.parametrize("name", ROBOTS)
def test_the_expert_does_what_it_is_told_through_the_real_nodes(ros_domain, name):
    # Nobody waits for the policy: at twice real time a busy machine would make it late.
    clock = CLOCK["simulation"] | {"real_time_factor": 1.0}
    scene = {"robot": name, "task": "put", "seed": 1, **clock}
    robot = {"robot": name, **CLOCK["controller"]}
    # xs_sdk's and franka_ros2's messages are built by the first test that needs them.
    needs = name in ("sim_franka_ros2", "sim_widowx_interbotix")
    start = partial(NodeProcess, environment=foreign_messages.environment() if needs else os.environ)
    with (
        Listener() as ear,
        ExitStack() as setpoints,
        start("openvla_ros.nodes.simulation_node", scene) as simulation,
        start("openvla_ros.nodes.controller_node", robot) as controller,
        start("openvla_ros.nodes.policy_node", robot | {"policy": "expert"}) as policy,
    ):
        if load_profile(name).takes_setpoints:
            setpoints.enter_context(start("openvla_ros.nodes.setpoint_node", robot))
        done = ear.collect(Bool, "task/success", qos.EVERY_IN)
        scenes = ear.collect(MarkerArray, "simulation/scene", qos.EVERY_IN)
        verdicts = ear.collect(DiagnosticStatus, "controller/verdict", qos.VERDICT)
        words = ear.node.create_publisher(String, "instruction", qos.LATCHED)
        reset = ear.node.create_client(Trigger, "simulation/reset")
        neutral = ear.node.create_client(Trigger, "controller/neutral")

        def outputs():
            return "\n".join(process.output[-2000:] for process in (simulation, controller, policy))

        def is_up():
            listening = words.get_subscription_count() >= 3
            return listening and scenes and reset.service_is_ready() and neutral.service_is_ready()

        assert ear.spin_until(is_up, START_S), outputs()
        ear.spin_for(1.0)
        began = from_markers(scenes[-1]).tool.position
        ear.spin_for(1.0)
        assert np.allclose(from_markers(scenes[-1]).tool.position, began, atol=1e-3), "nobody told it to move"

        future = reset.call_async(Trigger.Request())
        assert ear.spin_until(future.done)
        assert not done[-1].data
        words.publish(String(data=future.result().message))
        assert ear.spin_until(lambda: done[-1].data, DO_S), outputs()
        words.publish(String(data=""))
        # The policy's last word is "hold"; the next service call must come after it.
        assert ear.spin_until(lambda: is_held(verdicts)), outputs()

        # Back to neutral, and another task in the same scene, by its words alone.
        future = neutral.call_async(Trigger.Request())
        assert ear.spin_until(future.done)
        assert future.result().success, future.result().message
        assert ear.spin_until(
            lambda: np.allclose(from_markers(scenes[-1]).tool.position, began, atol=0.01), DO_S
        ), outputs()
        other = from_markers(scenes[-1]).objects[0].name
        words.publish(String(data=f"move to the {other}"))
        assert ear.spin_until(lambda: not done[-1].data), outputs()
        assert ear.spin_until(lambda: done[-1].data, DO_S), outputs()
    assert "Traceback" not in outputs()
