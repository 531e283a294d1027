"""A second copy of the scene, put where the first one is, shows the same image to the last pixel."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot


@pytest.mark.parametrize("name", ["sim_widowx", "sim_franka"])
def test_the_mirror_shows_the_same_image(name):
    profile, task = load_profile(name), find_task("put")
    with SimulatedRobot(profile, task, seed=4) as robot, SimulatedRobot(profile, task, seed=9) as mirror:
        robot.command_joints(np.array(profile.arm.neutral) + 0.1)
        robot.step(0.3)
        mirror.show(4, robot.coordinates)
        np.testing.assert_array_equal(mirror.render("primary"), robot.render("primary"))
        robot.rearrange(5)
        mirror.show(5, robot.coordinates)
        np.testing.assert_array_equal(mirror.render("primary"), robot.render("primary"))
        with pytest.raises(InvalidValueError, match="coordinates has shape"):
            mirror.show(5, [0.0, 1.0])
