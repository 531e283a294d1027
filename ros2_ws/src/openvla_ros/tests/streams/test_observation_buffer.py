"""An observation is made of the newest of every stream, or refused with the reason."""

from dataclasses import replace

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError, ProfileError
from openvla_ros.profile import load_profile
from openvla_ros.streams.buffer import ObservationBuffer, Refusal
from openvla_ros.streams.throttle import Pacer
from openvla_ros.values.geometry import Pose

PROFILE = load_profile("sim_widowx")  # images up to 0.5 s, states up to 0.2 s
JOINTS = PROFILE.arm.joints
ALL = (*JOINTS, PROFILE.gripper.joint)
SECOND = 1_000_000_000
NOW = 1000 * SECOND
IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def forward(joints):
    return Pose(joints[:3], np.eye(3))


def filled(image_age_s=0.1, state_age_s=0.05, profile=PROFILE):
    """``state_age_s`` counts from the image's stamp."""
    buffer = ObservationBuffer(profile)
    stamp_ns = NOW - round(image_age_s * SECOND)
    for camera in profile.cameras:
        buffer.put_image(camera.name, stamp_ns, lambda: IMAGE)
    names = [*reversed(JOINTS), "left_finger"]
    buffer.put_joint_state(stamp_ns - round(state_age_s * SECOND), names, [6, 5, 4, 3, 2, 1, 0.026])
    return buffer


def test_an_observation_holds_what_came_last():
    buffer = filled()
    buffer.put_image("primary", NOW - 5, lambda: IMAGE + 1)
    observation = buffer.moment("lift the cube", NOW).observe(forward)
    assert (observation.stamp_ns, observation.instruction) == (NOW - 5, "lift the cube")
    np.testing.assert_array_equal(observation.images["primary"], IMAGE + 1)
    np.testing.assert_array_equal(observation.joint_positions, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(observation.pose.position, [1, 2, 3])
    assert observation.gripper == pytest.approx(0.5)


def test_the_state_is_that_of_the_images_stamp_not_a_later_one():
    buffer = filled()
    later = np.arange(7.0) + 10
    buffer.put_joint_state(NOW, (*JOINTS, "left_finger"), later)
    assert buffer.moment("go", NOW).observe(forward).joint_positions[0] == 1
    buffer.put_image("primary", NOW, lambda: IMAGE)
    assert buffer.moment("go", NOW).observe(forward).joint_positions[0] == 10


def test_images_are_decoded_only_when_they_are_used():
    buffer, decoded = filled(), []
    for i in range(6):
        buffer.put_image("primary", NOW - 6 + i, lambda i=i: (decoded.append(i), IMAGE)[1])
    moment = buffer.moment("go", NOW)
    assert decoded == []
    moment.observe(forward)
    assert decoded == [5]


def test_a_moment_does_not_change_when_newer_messages_come():
    buffer = filled()
    moment = buffer.moment("go", NOW)
    for i in range(200):
        buffer.put_image("primary", NOW + i, lambda: IMAGE + 9)
        buffer.put_joint_state(NOW + i, (*JOINTS, "left_finger"), np.zeros(7))
    observation = moment.observe(forward)
    np.testing.assert_array_equal(observation.images["primary"], IMAGE)
    assert observation.joint_positions[0] == 1


@pytest.mark.parametrize(
    ("buffer", "instruction", "reason", "detail"),
    [
        (filled(), " \n", "no_instruction", "no instruction"),
        (ObservationBuffer(PROFILE), "go", "no_image", "camera 'primary': nothing received"),
        (filled(image_age_s=0.51), "go", "stale_image", "'primary': 0.510 s old; the profile allows 0.5 s"),
        (filled(image_age_s=-0.6), "go", "future_image", "0.600 s ahead"),
        (filled(state_age_s=0.25), "go", "stale_state", "joint state: 0.250 s old; the profile allows 0.2 s"),
        (filled(state_age_s=-0.1), "go", "no_state", "as old as the image"),
    ],
)
def test_refusals_say_what_is_missing_or_too_old(buffer, instruction, reason, detail):
    refusal = buffer.moment(instruction, NOW)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert detail in refusal.detail


def test_one_camera_of_two_missing_or_stale_is_named():
    wrist = replace(PROFILE.cameras[0], name="wrist", topic="camera/wrist/image_raw", rotate_deg=90)
    profile = replace(PROFILE, cameras=(*PROFILE.cameras, wrist))
    images = filled(profile=profile).moment("go", NOW).observe(forward).images
    np.testing.assert_array_equal(images["wrist"], np.rot90(IMAGE, -1))
    np.testing.assert_array_equal(images["primary"], IMAGE)
    buffer = ObservationBuffer(profile)
    buffer.put_image("primary", NOW, lambda: IMAGE)
    assert buffer.moment("go", NOW).detail == "camera 'wrist': nothing received yet"
    buffer.put_image("wrist", NOW - SECOND, lambda: IMAGE)
    assert buffer.moment("go", NOW).reason == "stale_image"


@pytest.mark.parametrize(
    ("names", "positions", "message"),
    [
        (ALL, np.zeros(6), "6 positions for 7 names"),
        (ALL, [], "0 positions for 7 names"),
        (ALL, [0, 0, np.nan, 0, 0, 0, 0], "elbow is at nan"),
        (ALL, [0, 0, 0, 0, 0, 0, np.inf], "left_finger is at inf"),
        (JOINTS, np.zeros(6), r"lacks .'left_finger'"),
        ((*ALL, "waist"), np.zeros(8), "names 'waist' twice"),
    ],
)
def test_a_bad_joint_state_is_refused_and_the_last_one_stays(names, positions, message):
    buffer = filled()
    with pytest.raises(InvalidValueError, match=message):
        buffer.put_joint_state(NOW, names, positions)
    assert buffer.moment("go", NOW).observe(forward).joint_positions[0] == 1


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (("left_wheel", "right_wheel"), [np.nan, 2.0]),  # another driver on the same topic
        (("left_finger",), []),  # an effort alone
        ((), []),
    ],
)
def test_a_state_of_other_joints_is_nobodys_business(names, positions):
    buffer = filled()
    assert buffer.put_joint_state(NOW - SECOND // 10, names, positions) is False
    assert buffer.moment("go", NOW).observe(forward).joint_positions[0] == 1


def test_nan_in_a_joint_that_the_profile_does_not_name_changes_nothing():
    buffer = filled()
    assert buffer.put_joint_state(NOW - SECOND // 10, ("mast", *ALL), [np.nan, *range(10, 16), 0.026])
    assert buffer.moment("go", NOW).observe(forward).joint_positions[0] == 10


def test_a_state_without_a_joint_and_an_unknown_camera_are_refused():
    buffer = filled()
    with pytest.raises(InvalidValueError, match=r"lacks .'waist'"):
        buffer.put_joint_state(NOW, ALL[1:], np.zeros(6))
    with pytest.raises(ProfileError, match="no camera 'nose'"):
        buffer.put_image("nose", NOW, lambda: IMAGE)


@pytest.mark.parametrize(("camera_hz", "every"), [(5.0, 1), (10.0, 2), (15.0, 3), (30.0, 6), (60.0, 12)])
def test_five_hertz_of_a_camera_is_every_nth_image_whatever_the_jitter(camera_hz, every):
    rng, pacer = np.random.default_rng(0), Pacer(0.2, 1 / camera_hz)
    jitter = rng.uniform(-0.2, 0.2, 600) / camera_hz
    stamps = ((np.arange(600) / camera_hz + jitter + 1.0) * SECOND).astype(np.int64)
    passed = [i for i, stamp in enumerate(stamps) if pacer.due(int(stamp))]
    assert passed == list(range(0, 600, every))


def test_a_camera_slower_than_the_policy_passes_every_image_and_a_clock_set_back_begins_anew():
    pacer = Pacer(0.2, 1.0)
    assert all(pacer.due(i * SECOND) for i in range(10))
    assert pacer.due(0)
    assert not pacer.due(1)
    pacer.reset()
    assert pacer.due(2)


def test_the_period_counts_from_a_image_that_passed_in_the_place_of_another():
    pacer = Pacer(0.2, 1 / 30)
    assert pacer.due(0)
    assert pacer.due(200_000_000)
    pacer.passed(370_000_000)
    assert not pacer.due(400_000_000)
    assert pacer.due(570_000_000)


def serialised(stamp_ns, pixel):
    return stamp_ns.to_bytes(12, "little") + bytes([1, 2, 3]) * 5000 + bytes([pixel])


def watched(images, joints, frozen_s=1.0):
    """A buffer that sees one image and one joint state each 0.1 s; the moment after the last one."""
    buffer = ObservationBuffer(PROFILE, frozen_s)
    for number, (pixel, angle) in enumerate(zip(images, joints, strict=True)):
        stamp_ns = NOW + number * SECOND // 10
        buffer.put_joint_state(stamp_ns, ALL, [angle, 0, 0, 0, 0, 0, 0.02])
        buffer.put_image("primary", stamp_ns, lambda: IMAGE, serialised(stamp_ns, pixel), 12)
    return buffer.moment("go", stamp_ns)


MOVING = np.linspace(0.0, 0.3, 16)


def test_a_camera_that_repeats_one_image_while_the_arm_moves_is_refused():
    refusal = watched([7] * 16, MOVING)  # 0.3 s until it has moved, and 1.2 s more
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "frozen_image"
    assert (
        "camera 'primary': the same image 16 times in 1.5 s while the arm moved by 0.30 rad" in refusal.detail
    )


@pytest.mark.parametrize(
    ("images", "joints", "frozen_s"),
    [
        ([7] * 16, np.full(16, 0.3), 1.0),  # nothing moves: a simulator draws the same again
        ([7] * 9 + [8] * 7, MOVING, 1.0),  # it has gone on since
        ([7] * 9, MOVING[:9], 1.0),  # not for long enough
        ([7] * 35, np.r_[np.zeros(30), np.linspace(0.0, 0.3, 5)], 1.0),  # it has just begun to move
        (list(range(16)), MOVING, 1.0),
        ([7] * 16, MOVING, 0.0),  # not asked to look
    ],
)
def test_a_camera_that_lives_or_a_scene_that_rests_is_believed(images, joints, frozen_s):
    assert not isinstance(watched(images, joints, frozen_s), Refusal)
