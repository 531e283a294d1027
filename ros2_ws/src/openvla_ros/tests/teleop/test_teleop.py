"""Every device asks in the same words, and what it asks for is an action of the robot's own space."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.delta_actions import compose
from openvla_ros.teleop.command import TeleopCommand, with_deadband
from openvla_ros.teleop.gamepad import GamepadMap
from openvla_ros.teleop.keyboard import FIRST_S, NEXT_S, KeyboardMap
from openvla_ros.teleop.leader import LeaderArm
from openvla_ros.teleop.spacemouse import SpaceMouseMap
from openvla_ros.teleop.teleoperator import SPEEDS, Teleoperator
from openvla_ros.values.geometry import Pose, transform_euler_to_matrix, transform_rotvec_to_matrix

PROFILE = load_profile("sim_widowx")
SPACE = PROFILE.space()
TOOL = Pose(np.array([0.3, 0.0, 0.2]), transform_euler_to_matrix([0.3, 1.2, -0.5]))
SPACES = [
    replace(SPACE, frame=frame, rotation=rotation)
    for frame in ("base", "tool")
    for rotation in ("euler_xyz", "rotation_vector")
]
share = st.floats(-1, 1)
vector = st.tuples(share, share, share)


def command(translation=(0, 0, 0), rotation=(0, 0, 0), held=True, events=()):
    return TeleopCommand(held, np.array(translation, float), np.array(rotation, float), tuple(events))


@pytest.mark.parametrize("space", SPACES)
@given(translation=vector, rotation=vector, speed=st.integers(0, 3), frame=st.sampled_from(["base", "tool"]))
def test_every_action_is_within_the_bounds_and_moves_as_asked(space, translation, rotation, speed, frame):
    operator = Teleoperator(space, frame=frame, speed=speed)
    action = operator.action(command(translation, rotation), TOOL)
    assert np.all(action >= space.lower)
    assert np.all(action <= space.upper)
    # Only an action of full size may be cut; below that the tool goes where the hand points.
    moved = compose(TOOL, action, space)
    axes = TOOL.rotation if frame == "tool" else np.eye(3)
    wanted = axes @ (np.array(translation) * SPEEDS[speed] * 0.05)
    if np.abs(wanted).max() < 0.05 and np.abs(TOOL.rotation.T @ wanted).max() < 0.05:
        np.testing.assert_allclose(moved.position - TOOL.position, wanted, atol=1e-9)
    if np.linalg.norm(rotation) * SPEEDS[speed] < 0.5:
        turn = axes @ (np.array(rotation) * SPEEDS[speed] * 0.25)
        np.testing.assert_allclose(
            moved.rotation, transform_rotvec_to_matrix(turn) @ TOOL.rotation, atol=1e-9
        )


def test_a_hand_that_is_off_asks_for_nothing():
    assert Teleoperator(SPACE).action(command((1, 0, 0), held=False), TOOL) is None


def test_gripper_frame_and_speed_are_chosen_by_presses():
    operator = Teleoperator(SPACE)
    assert operator.action(command(), TOOL)[-1] == 1.0
    operator.choose(command(events=("gripper", "frame", "slower", "slower", "slower")))
    assert (operator.opening, operator.frame, operator.speed) == (0.0, "tool", SPEEDS[0])
    assert operator.action(command(), TOOL)[-1] == 0.0
    operator.choose(command(events=("gripper", "frame", *["faster"] * 9)))
    assert (operator.opening, operator.frame, operator.speed) == (1.0, "base", 1.0)
    droid = Teleoperator(replace(SPACE, gripper_open=0.0))
    assert droid.action(command(), TOOL)[-1] == 0.0


def test_commands_are_checked():
    with pytest.raises(InvalidValueError, match="within -1"):
        command((1.5, 0, 0))
    with pytest.raises(InvalidValueError, match="choose from gripper, frame"):
        command(events=("dance",))


@given(share, st.floats(0, 0.5))
def test_a_deadband_keeps_sign_and_ends(value, band):
    out = with_deadband(value, band)
    assert abs(out) <= 1
    assert out == 0 or np.sign(out) == np.sign(value)
    assert (out == 0) == (abs(value) <= band)
    assert with_deadband(1.0, band) == 1.0


class TestKeyboard:
    def test_a_key_moves_until_it_is_not_repeated(self):
        keys = KeyboardMap()
        assert keys.feed("w", 0.0).translation.tolist() == [1, 0, 0]
        assert keys.feed("", FIRST_S - 0.01).held
        assert not keys.feed("", FIRST_S + 0.01).held
        keys.feed("a", 10.0)
        for i in range(10):
            assert keys.feed("a", 10.5 + 0.04 * i).translation.tolist() == [0, 1, 0]
        assert keys.feed("", 10.86 + NEXT_S - 0.02).held
        assert not keys.feed("", 10.86 + NEXT_S + 0.01).held

    def test_space_lets_go_at_once_and_two_keys_add_up(self):
        keys = KeyboardMap()
        both = keys.feed("wr", 0.0)
        assert both.translation.tolist() == [1, 0, 1]
        assert keys.feed("s", 0.1).translation.tolist() == [0, 0, 1]
        assert not keys.feed(" ", 0.2).held

    def test_presses_are_events_once(self):
        keys = KeyboardMap()
        assert keys.feed("Gt+b1x", 0.0).events == (
            "gripper",
            "frame",
            "faster",
            "give_back",
            "start",
            "e_stop",
        )
        assert keys.feed("", 0.1).events == ()


class TestGamepad:
    REST = (0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0)

    def axes(self, **changed):
        axes = list(self.REST)
        for name, value in changed.items():
            axes[int(name[1:])] = value
        return axes

    def buttons(self, *down):
        return [int(i in down) for i in range(11)]

    def test_nothing_moves_without_the_dead_mans_button(self):
        pad = GamepadMap()
        assert not pad.command(self.axes(a1=1.0), self.buttons()).held
        held = pad.command(self.axes(a1=1.0), self.buttons(4))
        assert held.held
        assert held.translation.tolist() == [1, 0, 0]

    @pytest.mark.parametrize(
        ("axis", "value", "translation", "rotation"),
        [
            (0, 1.0, (0, 1, 0), (0, 0, 0)),
            (5, -1.0, (0, 0, 1), (0, 0, 0)),
            (2, -1.0, (0, 0, -1), (0, 0, 0)),
            (3, 1.0, (0, 0, 0), (0, 0, 1)),
            (4, 1.0, (0, 0, 0), (0, 1, 0)),
            (6, -1.0, (0, 0, 0), (1, 0, 0)),
        ],
    )
    def test_axes(self, axis, value, translation, rotation):
        pad = GamepadMap()
        pad.command(self.REST, self.buttons(4))
        got = pad.command(self.axes(**{f"a{axis}": value}), self.buttons(4))
        assert got.translation.tolist() == list(translation)
        assert got.rotation.tolist() == list(rotation)

    def test_a_trigger_that_was_never_touched_reads_zero_and_is_not_half_pulled(self):
        untouched = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        assert not GamepadMap().command(untouched, self.buttons(4)).translation.any()

    def test_each_press_is_one_event_and_what_was_down_before_is_none(self):
        pad = GamepadMap()
        assert pad.command(self.REST, self.buttons(0)).events == ()
        assert pad.command(self.REST, self.buttons()).events == ()
        assert pad.command(self.REST, self.buttons(0, 3)).events == ("gripper", "frame")
        assert pad.command(self.REST, self.buttons(0, 3)).events == ()
        assert pad.command(self.axes(a7=1.0), self.buttons()).events == ("faster",)
        assert pad.command(self.axes(a7=1.0), self.buttons()).events == ()

    def test_a_pad_with_fewer_axes_and_buttons_is_no_error(self):
        assert not GamepadMap().command([0.5], [1]).held


def test_a_spacemouse_is_its_own_dead_mans_switch():
    mouse = SpaceMouseMap(deadband=0.1)
    assert not mouse.command(np.array([0.05, 0, 0]), np.zeros(3), 0).held
    pushed = mouse.command(np.array([1.0, 0, 0]), np.array([0, 0, -1.0]), 0b10)
    assert pushed.held
    assert pushed.translation.tolist() == [1, 0, 0]
    assert pushed.rotation.tolist() == [0, 0, -1]
    assert pushed.events == ("gripper",)
    assert mouse.command(np.zeros(3), np.zeros(3), 0b11).events == ("frame",)


class TestLeader:
    chain = KinematicChain.from_profile(PROFILE.arm)
    neutral = np.array(PROFILE.arm.neutral)

    def test_taking_it_moves_nothing_and_following_arrives(self):
        arm = LeaderArm(SPACE, self.chain.forward)
        tool = self.chain.forward(self.neutral + 0.1)  # the robot need not be where the leader is
        first = arm.action(True, self.neutral, 0.3, tool)
        np.testing.assert_allclose(first[:6], 0, atol=1e-12)
        assert first[6] == 0.3
        moved = self.neutral + np.array([0.15, 0.1, -0.1, 0.2, 0.1, 0.3])
        then, now = self.chain.forward(self.neutral), self.chain.forward(moved)
        target = tool
        for _ in range(30):
            action = arm.action(True, moved, None, target)
            assert np.all((action >= SPACE.lower) & (action <= SPACE.upper))
            target = compose(target, action, SPACE)
        np.testing.assert_allclose(target.position - tool.position, now.position - then.position, atol=1e-6)
        np.testing.assert_allclose(target.rotation, now.rotation @ then.rotation.T @ tool.rotation, atol=1e-6)

    def test_letting_go_is_a_clutch(self):
        arm = LeaderArm(SPACE, self.chain.forward)
        tool = self.chain.forward(self.neutral)
        arm.action(True, self.neutral, None, tool)
        assert arm.action(False, self.neutral + 0.5, None, tool) is None
        again = arm.action(True, self.neutral + 0.5, None, tool)
        np.testing.assert_allclose(again[:6], 0, atol=1e-12)
