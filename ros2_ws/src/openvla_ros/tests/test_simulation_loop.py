"""Simulation, controller and policy as three processes over real DDS: told in words, it is done."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from diagnostic_msgs.msg import DiagnosticArray
from ros_harness import Listener, NodeProcess
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from openvla_ros.nodes import qos
from openvla_ros.nodes.scene_messages import from_markers

pytestmark = pytest.mark.ros
START_S = 60.0  # a busy machine imports slowly


@pytest.mark.parametrize("name", ["sim_widowx", "sim_franka"])
def test_the_expert_does_what_it_is_told_through_the_real_nodes(ros_domain, name):
    robot = {"robot": name}
    with (
        Listener() as ear,
        NodeProcess("openvla_ros.nodes.simulation_node", robot | {"task": "put", "seed": 1}) as simulation,
        NodeProcess("openvla_ros.nodes.controller_node", robot) as controller,
        NodeProcess("openvla_ros.nodes.policy_node", robot | {"policy": "expert"}) as policy,
    ):
        done = ear.collect(Bool, "task/success", qos.EVERY_IN)
        scenes = ear.collect(MarkerArray, "simulation/scene", qos.EVERY_IN)
        ear.collect(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
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
        start = from_markers(scenes[-1]).tool.position
        ear.spin_for(1.0)
        assert np.allclose(from_markers(scenes[-1]).tool.position, start, atol=1e-3), "nobody told it to move"

        future = reset.call_async(Trigger.Request())
        assert ear.spin_until(future.done)
        assert not done[-1].data
        words.publish(String(data=future.result().message))
        assert ear.spin_until(lambda: done[-1].data, 60.0), outputs()
        words.publish(String(data=""))
        ear.spin_for(1.0)  # the policy's last word is "hold"; the next service call must come after it

        # Back to neutral, and another task in the same scene, by its words alone.
        future = neutral.call_async(Trigger.Request())
        assert ear.spin_until(future.done)
        assert future.result().success, future.result().message
        assert ear.spin_until(
            lambda: np.allclose(from_markers(scenes[-1]).tool.position, start, atol=0.01), 30.0
        ), outputs()
        other = from_markers(scenes[-1]).objects[0].name
        words.publish(String(data=f"move to the {other}"))
        ear.spin_for(0.3)
        assert not done[-1].data
        assert ear.spin_until(lambda: done[-1].data, 30.0), outputs()
    assert "Traceback" not in outputs()
