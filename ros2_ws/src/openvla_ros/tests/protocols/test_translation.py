"""What others' requests mean on one robot: its cameras, its statistics, its keys."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.protocols.act_codec import ActRequest
from openvla_ros.protocols.translation import Translation

IMAGE = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("robot", "cameras", "mine", "asked", "wrong"),
    [
        (
            "sim_widowx",
            (),
            "bridge_orig",
            "fractal",
            "unnorm_key is 'fractal'; this policy's is 'bridge_orig'",
        ),
        ("sim_widowx", (), "", "bridge_orig", "takes no unnorm_key"),
        ("sim_widowx", ("primary", "wrist"), "", None, "this policy needs primary, wrist"),
    ],
)
def test_a_request_for_another_policy_is_refused(robot, cameras, mine, asked, wrong):
    translation = Translation.for_robot(load_profile(robot), "", cameras, mine)
    with pytest.raises(InvalidValueError, match=wrong):
        translation.from_act(ActRequest(IMAGE, "lift", asked), 5)


@pytest.mark.parametrize("asked", [None, "bridge_orig"])
def test_the_image_is_the_policys_camera(asked):
    translation = Translation.for_robot(load_profile("sim_widowx"), "", ("side",), "bridge_orig")
    assert list(translation.from_act(ActRequest(IMAGE, "lift", asked), 5).images) == ["side"]


def test_the_profile_names_the_map_and_an_option_another():
    profile = load_profile("sim_widowx")
    assert Translation.for_robot(profile, "", (), "").observation_map is not None
    bare = Translation.for_robot(load_profile("franka"), "", (), "")
    with pytest.raises(InvalidValueError, match=r"robot franka has no observation map.*bridge, droid"):
        bare.from_openpi({}, 5)
    given = Translation.for_robot(load_profile("franka"), "bridge", (), "")
    seen = given.from_openpi({"observation/image": IMAGE, "prompt": "lift"}, 5)
    assert (seen.instruction, seen.stamp_ns) == ("lift", 5)
