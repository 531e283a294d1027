"""The age of what the arm acts on: which observation a command follows, and how old it is then."""

import numpy as np
import pytest

from openvla_ros.profile import load_profile
from openvla_ros.robot.command_age import CommandAge
from openvla_ros.robot.controller import ArmController
from openvla_ros.values.action import ActionChunk

PROFILE = load_profile("sim_widowx")
TICK_NS, START_NS = 10_000_000, 10**12
MS = 1_000_000


class Arm:
    """A controller that is ticked at its rate, and an arm that stays where it is."""

    def __init__(self) -> None:
        self.controller, self.now_ns = ArmController(PROFILE), START_NS
        self.age = CommandAge("camera to command", limit_s=0.6)
        self.followed: list[int | None] = []
        self.tick()

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_ns += TICK_NS
            self.controller.observe(PROFILE.arm.neutral, None, None, self.now_ns, self.now_ns)
            output = self.controller.tick(self.now_ns)
            self.followed.append(output.observation_ns)
            if output.joint_positions is not None:
                self.age.sent(output.observation_ns, self.now_ns)

    def send(self, age_ms: int, steps: int = 1) -> int:
        """Send a chunk that stays, of an observation ``age_ms`` ago; return the observation's stamp."""
        stamp_ns = self.now_ns - age_ms * MS
        actions = np.zeros((steps, PROFILE.space().width))
        assert self.controller.accept(
            ActionChunk(actions, stamp_ns, PROFILE.space()), "policy", self.now_ns
        ).commands
        return stamp_ns

    def values(self) -> dict[str, float]:
        return {key: float(value) for key, value in self.age.health().values.items() if value}


def test_before_anything_is_executed_nothing_is_measured():
    arm = Arm()
    arm.tick(20)
    assert set(arm.followed) == {None}
    assert arm.age.health().message == "no measurements yet"


def test_the_first_command_of_a_chunk_is_as_old_as_its_observation_and_a_period_more():
    arm = Arm()
    stamp_ns = arm.send(age_ms=100)
    arm.tick()
    assert arm.followed[-1] == stamp_ns
    assert arm.values()["max_ms"] == pytest.approx(110.0)


def test_a_chunk_that_comes_during_a_step_waits_for_its_end_and_the_wait_counts():
    arm = Arm()
    first = arm.send(age_ms=100)
    arm.tick(15)  # of the 20 periods of a step
    second = arm.send(age_ms=100)
    arm.tick()
    assert arm.followed[-1] == first
    arm.tick(10)
    assert arm.followed[-1] == second
    values = arm.values()
    assert values["chunks"] == 2
    waited = arm.followed.index(second) - 15  # periods; the first look is the one of the start
    assert waited > 2
    assert values["max_ms"] == pytest.approx(100.0 + 10.0 * waited)


def test_later_steps_of_a_chunk_count_in_every_command_and_not_in_the_latency():
    arm = Arm()
    arm.send(age_ms=100, steps=3)
    arm.tick(60)
    values = arm.values()
    assert (values["chunks"], values["p50_ms"], values["max_ms"]) == (1, 110.0, 110.0)
    assert values["every_max_ms"] == pytest.approx(700.0)
    assert values["newest_ms"] == pytest.approx(700.0)
    assert values["every_p50_ms"] == pytest.approx(410.0)


def test_a_stop_follows_no_observation():
    arm = Arm()
    arm.send(age_ms=100, steps=3)
    arm.tick(5)
    arm.controller.hold()
    arm.tick()
    assert arm.followed[-1] is None
    assert "newest_ms" not in arm.values()
    assert arm.values()["chunks"] == 1


def test_commands_that_are_older_than_the_limit_are_a_warning():
    age = CommandAge("camera to command", limit_s=0.6)
    age.sent(START_NS, START_NS + 500 * MS)
    assert age.health().level == "ok"
    age.sent(START_NS + MS, START_NS + 701 * MS)
    assert (age.health().level, age.health().message) == ("warn", "p95 700.0 ms; limit 600 ms")
