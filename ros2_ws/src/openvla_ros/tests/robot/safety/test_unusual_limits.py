"""Values of a profile that are possible, but more often a mistake."""

from dataclasses import replace

import pytest

from openvla_ros.profile import available_profiles, load_profile
from openvla_ros.robot.safety.unusual_limits import unusual_limits

WIDOWX = load_profile("sim_widowx")


@pytest.mark.parametrize("name", available_profiles())
def test_the_shipped_profiles_are_usual(name):
    assert unusual_limits(load_profile(name)) == []


def test_what_is_possible_but_unusual_is_named():
    profile = replace(
        WIDOWX,
        limits=replace(WIDOWX.limits, tracking_error_rad=1.5, joint_acceleration=(90.0,) * 6),
        control=replace(WIDOWX.control, dead_man_s=1.0),
        cameras=(replace(WIDOWX.cameras[0], max_age_s=5.0),),
    )
    lines = unusual_limits(profile)
    assert [line.split(" is ")[0] for line in lines] == [
        "limits.joint_acceleration",
        "limits.tracking_error_rad",
        "control.dead_man_s",
        f"max_age_s of camera {WIDOWX.cameras[0].name}",
    ]
