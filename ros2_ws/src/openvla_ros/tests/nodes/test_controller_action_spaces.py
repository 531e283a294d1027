"""A robot whose profile asks for joint targets or tool poses, between real processes."""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")

from support.action_spaces import Speaker, in_space
from support.sim_cell import Cell

from openvla_ros.values.action_dimensions import DELTA_NAMES
from openvla_ros.values.verdict import Reason

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(("kind", "rotation"), [("joint_position", "none"), ("tool_pose", "rotation_6d")])
def test_chunks_move_the_simulated_robot_and_a_far_target_does_not(ros_domain, kind, rotation):
    with Cell(change=partial(in_space, kind=kind, rotation=rotation)) as cell:
        cell.start_robot()
        assert cell.call("give_to_policy").success
        cell.wait(0.2)
        speaker = Speaker(cell.profile)
        place = cell.motion()[1][-1]
        for _ in range(5):
            following = place + np.array([0.06, 0.02, -0.02, 0.0, 0.0, 0.0])
            cell.send(speaker.action(place, following))
            # A step that has not begun would be replaced by the next chunk.
            cell.wait_for_target(speaker.chain.forward(following))
            place = following
        cell.wait(1.0)
        reached, wanted = cell.tool, speaker.chain.forward(place)
        assert np.linalg.norm(reached.position - wanted.position) < 5e-3
        cell.send(speaker.action(place, place + np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])))
        report = cell.expect(Reason.STEP_BOUNDS, "refusal")
        assert not report.verdict.commands
        cell.wait(0.3)
        assert np.linalg.norm(cell.tool.position - reached.position) < 2e-3
        cell.send(np.zeros(7), names=DELTA_NAMES)
        assert cell.expect(Reason.SPACE if kind == "joint_position" else Reason.WIDTH, "refusal")
        cell.check_commands(at_least=20)
