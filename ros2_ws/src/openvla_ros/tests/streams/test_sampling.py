"""An observation is what was newest at a stamp, by the samples' own stamps, whatever the source."""

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.profile import load_profile
from openvla_ros.streams.sampling import JointSample, StreamBuffer, observe
from openvla_ros.values.geometry import Pose

PROFILE = load_profile("sim_widowx")
MS = 1_000_000


def forward(q):
    return Pose(np.array(q[:3]), np.eye(3))


class Buffers:
    def __init__(self):
        self.images, self.states, self.words = StreamBuffer(4), StreamBuffer(50), StreamBuffer(4)

    def image(self, camera, stamp_ns):
        return self.images.at(stamp_ns)

    def joints(self, stamp_ns):
        return self.states.at(stamp_ns)

    def instruction(self, stamp_ns):
        found = self.words.at(stamp_ns)
        return found[1] if found else None


def state(value, extra=()):
    names = (*reversed(PROFILE.arm.joints), PROFILE.gripper.joint)
    return JointSample(names, np.array([*reversed(np.arange(6) + value), 0.026]))


def image(value):
    return np.full((4, 6, 3), value, np.uint8)


@pytest.fixture
def buffers():
    buffers = Buffers()
    buffers.words.put(0, "lift the cube")
    for i in range(40):
        buffers.states.put(i * 10 * MS, state(i / 100))
    for i in range(4):
        buffers.images.put(i * 100 * MS, image(i))
    return buffers


def test_every_stream_gives_its_newest_sample_not_after_the_stamp(buffers):
    seen = observe(PROFILE, buffers, 200 * MS, forward)
    assert seen.stamp_ns == 200 * MS
    assert seen.images["primary"][0, 0, 0] == 2
    np.testing.assert_array_equal(seen.joint_positions, np.arange(6) + 0.20)
    np.testing.assert_array_equal(seen.pose.position, [0.2, 1.2, 2.2])
    assert seen.gripper == pytest.approx(0.5)
    between = observe(PROFILE, buffers, 299 * MS, forward)
    assert between.images["primary"][0, 0, 0] == 2
    assert between.joint_positions[0] == 0.29


def test_samples_that_arrive_later_change_nothing(buffers):
    before = observe(PROFILE, buffers, 300 * MS, forward)
    buffers.images.put(400 * MS, image(9))
    buffers.states.put(400 * MS, state(9))
    after = observe(PROFILE, buffers, 300 * MS, forward)
    np.testing.assert_array_equal(before.images["primary"], after.images["primary"])
    np.testing.assert_array_equal(before.joint_positions, after.joint_positions)


def test_what_is_missing_or_too_old_is_named(buffers):
    with pytest.raises(PolicyError, match=r"'primary' is 0\.60 s old; allowed 0\.5 s"):
        observe(PROFILE, buffers, 900 * MS, forward)
    buffers.images.put(900 * MS, image(1))
    with pytest.raises(PolicyError, match=r"joint_states is 0\.51 s old; allowed 0\.2"):
        observe(PROFILE, buffers, 900 * MS, forward)
    buffers.states.clear()
    with pytest.raises(PolicyError, match="no joint state of joint_states"):
        observe(PROFILE, buffers, 900 * MS, forward)
    buffers.words.clear()
    with pytest.raises(PolicyError, match="no instruction"):
        observe(PROFILE, buffers, 900 * MS, forward)
    buffers.images.clear()
    with pytest.raises(PolicyError, match="no image of camera 'primary'"):
        observe(PROFILE, buffers, 900 * MS, forward)


def test_a_joint_that_is_not_reported_is_named(buffers):
    buffers.states.put(400 * MS, JointSample(("waist",), np.zeros(1)))
    buffers.images.put(400 * MS, image(1))
    with pytest.raises(InvalidValueError, match=r"lacks \['shoulder'"):
        observe(PROFILE, buffers, 400 * MS, forward)


def test_a_clock_that_goes_back_empties_the_buffer():
    buffer = StreamBuffer(10)
    second = 1000 * MS
    buffer.put(5 * second, "a")
    buffer.put(9 * second, "b")
    buffer.put(3 * second, "c")
    assert buffer.newest() == (3 * second, "c")
    assert buffer.at(10 * second) == (3 * second, "c")
    assert buffer.at(2) is None


def test_a_sample_that_was_overtaken_is_put_in_its_place():
    buffer = StreamBuffer(3)
    for stamp, value in ((1, "a"), (4, "d"), (3, "c"), (2, "b")):
        buffer.put(stamp, value)
    assert [buffer.at(stamp)[1] for stamp in (2, 3, 4)] == ["b", "c", "d"]
    assert buffer.newest() == (4, "d")
