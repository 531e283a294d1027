"""An observation is made of the newest of every stream, or refused with the reason."""

from dataclasses import replace

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError, ProfileError
from openvla_ros.geometry import Pose
from openvla_ros.observation_buffer import ObservationBuffer, Refusal
from openvla_ros.pacing import Pacer
from openvla_ros.profile import load_profile

PROFILE = load_profile("sim_widowx")  # images up to 0.5 s, states up to 0.2 s
JOINTS = PROFILE.arm.joints
SECOND = 1_000_000_000
NOW = 1000 * SECOND
PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def filled(image_age_s=0.1, state_age_s=0.05, profile=PROFILE, **options):
    buffer = ObservationBuffer(profile, **options)
    for camera in profile.cameras:
        buffer.put_picture(camera.name, NOW - round(image_age_s * SECOND), lambda: PICTURE)
    names = [*reversed(JOINTS), "left_finger"]
    buffer.put_joint_state(NOW - round(state_age_s * SECOND), names, [6, 5, 4, 3, 2, 1, 0.026])
    return buffer


def test_an_observation_holds_what_came_last():
    buffer = filled(pose_of=lambda joints: Pose(joints[:3], np.eye(3)))
    buffer.put_picture("primary", NOW - 5, lambda: PICTURE + 1)
    observation = buffer.moment("lift the cube", NOW).observe()
    assert (observation.stamp_ns, observation.instruction) == (NOW - 5, "lift the cube")
    np.testing.assert_array_equal(observation.images["primary"], PICTURE + 1)
    np.testing.assert_array_equal(observation.joint_positions, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(observation.pose.position, [1, 2, 3])
    assert observation.gripper == pytest.approx(0.5)


def test_pictures_are_decoded_only_when_they_are_used():
    buffer, decoded = filled(), []
    for i in range(6):
        buffer.put_picture("primary", NOW - 6 + i, lambda i=i: (decoded.append(i), PICTURE)[1])
    moment = buffer.moment("go", NOW)
    assert decoded == []
    moment.observe()
    assert decoded == [5]


def test_a_moment_does_not_change_when_newer_messages_come():
    buffer = filled()
    moment = buffer.moment("go", NOW)
    buffer.put_picture("primary", NOW, lambda: PICTURE + 9)
    buffer.put_joint_state(NOW, JOINTS, np.zeros(6))
    observation = moment.observe()
    np.testing.assert_array_equal(observation.images["primary"], PICTURE)
    assert observation.joint_positions[0] == 1


@pytest.mark.parametrize(
    ("buffer", "instruction", "reason", "detail"),
    [
        (filled(), " \n", "no_instruction", "nobody"),
        (ObservationBuffer(PROFILE), "go", "no_image", "camera 'primary': nothing received"),
        (filled(image_age_s=0.51), "go", "stale_image", "'primary': 0.510 s old; the profile allows 0.5 s"),
        (filled(image_age_s=-0.6), "go", "future_image", "0.600 s ahead"),
        (filled(state_age_s=0.25), "go", "stale_state", "joint state: 0.250 s old; the profile allows 0.2 s"),
    ],
)  # fmt: skip
def test_refusals_say_what_is_missing_or_too_old(buffer, instruction, reason, detail):
    refusal = buffer.moment(instruction, NOW)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert detail in refusal.detail


def test_pictures_alone_are_not_enough():
    buffer = ObservationBuffer(PROFILE)
    buffer.put_picture("primary", NOW, lambda: PICTURE)
    assert buffer.moment("go", NOW).reason == "no_state"


def test_one_camera_of_two_missing_is_named():
    wrist = replace(PROFILE.cameras[0], name="wrist", topic="camera/wrist/image_raw", rotate_deg=90)
    profile = replace(PROFILE, cameras=(*PROFILE.cameras, wrist))
    buffer = filled(profile=profile)
    images = buffer.moment("go", NOW).observe().images
    np.testing.assert_array_equal(images["wrist"], np.rot90(PICTURE, -1))
    np.testing.assert_array_equal(images["primary"], PICTURE)
    buffer.put_picture("wrist", NOW - SECOND, lambda: PICTURE)
    assert "'wrist'" in buffer.moment("go", NOW).detail


def test_a_gripper_that_is_published_apart_is_taken():
    buffer = filled()
    buffer.put_joint_state(NOW, ["left_finger"], [0.037])
    assert buffer.moment("go", NOW).observe().gripper == 1.0


@pytest.mark.parametrize(
    ("names", "positions", "message"),
    [
        (JOINTS[1:], np.zeros(5), r"lacks \['waist'\]"),
        (["other"], [0.0], "lacks"),
        (JOINTS, np.zeros(5), "5 positions for 6 names"),
        (JOINTS, [0, 0, np.nan, 0, 0, 0], r"joint positions\[2\] is nan"),
        (["left_finger"], [np.inf], "'left_finger' is at inf"),
    ],
)
def test_a_bad_joint_state_is_refused_and_the_last_one_stays(names, positions, message):
    buffer = filled()
    with pytest.raises(InvalidValueError, match=message):
        buffer.put_joint_state(NOW, names, positions)
    assert buffer.moment("go", NOW).observe().joint_positions[0] == 1


def test_an_unknown_camera_is_refused():
    with pytest.raises(ProfileError, match="no camera 'nose'"):
        filled().put_picture("nose", NOW, lambda: PICTURE)


@pytest.mark.parametrize(("camera_hz", "every"), [(5.0, 1), (10.0, 2), (15.0, 3), (30.0, 6), (60.0, 12)])
def test_five_hertz_of_a_camera_is_every_nth_picture_whatever_the_jitter(camera_hz, every):
    rng, pacer = np.random.default_rng(0), Pacer(0.2, 1 / camera_hz)
    jitter = rng.uniform(-0.2, 0.2, 600) / camera_hz
    stamps = ((np.arange(600) / camera_hz + jitter + 1.0) * SECOND).astype(np.int64)
    passed = [i for i, stamp in enumerate(stamps) if pacer.due(int(stamp))]
    assert passed == list(range(0, 600, every))


def test_a_camera_slower_than_the_policy_passes_every_picture_and_a_clock_set_back_begins_anew():
    pacer = Pacer(0.2, 1.0)
    assert all(pacer.due(i * SECOND) for i in range(10))
    assert pacer.due(0)
    assert not pacer.due(1)
    pacer.reset()
    assert pacer.due(2)
