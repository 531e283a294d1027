"""Joint limits beyond the URDF's: the controller does not start with them, and ``check`` names each."""

from dataclasses import replace

import pytest

from openvla_ros.errors import ProfileError
from openvla_ros.profile import RobotProfile, available_profiles, load_profile
from openvla_ros.robot.controller import ArmController
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.described_limits import contradictions

WIDOWX = load_profile("sim_widowx")
LOWER, UPPER = WIDOWX.limits.joint_lower, WIDOWX.limits.joint_upper


def with_limits(**limits) -> RobotProfile:
    return replace(WIDOWX, limits=replace(WIDOWX.limits, **limits))


@pytest.mark.parametrize("name", available_profiles())
def test_the_shipped_profiles_agree_with_their_descriptions(name):
    profile = load_profile(name)
    assert contradictions(profile, KinematicChain.from_profile(profile.arm)) == []


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            {"joint_velocity": (2.0, 4.0, 2.0, 2.0, 2.0, 2.0)},
            "shoulder: .*joint_velocity 4 .* 3.14.* rad/s",
        ),
        (
            {"joint_upper": (9.0, *UPPER[1:])},
            "waist: .*-3.12 .. 9 reach beyond the URDF's",
        ),
        (
            {"joint_lower": (-4.0, *LOWER[1:])},
            "waist: .*-4 .. 3.12 reach beyond the URDF's",
        ),
    ],
)
def test_a_controller_is_not_built_with_limits_beyond_the_description(limits, words):
    with pytest.raises(ProfileError, match=f"sim_widowx.*disagree: {words}"):
        ArmController(with_limits(**limits))
