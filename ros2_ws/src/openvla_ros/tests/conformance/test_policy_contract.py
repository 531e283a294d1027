"""Every policy of ours keeps the contract, and what breaks it in one way is told in the right words."""

import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from support.python_process import start_openvla

from openvla_ros import load_policy
from openvla_ros.conformance import check_policy
from openvla_ros.data.episodes.encoded_images import ArrayFrames
from openvla_ros.errors import ConformanceError, PolicyError
from openvla_ros.policy.expert import ScriptedExpert
from openvla_ros.policy.hold import HoldPolicy
from openvla_ros.policy.protocol import Trained
from openvla_ros.policy.remote import RemotePolicy
from openvla_ros.policy.replay_policy import ReplayPolicy
from openvla_ros.profile import load_profile
from openvla_ros.serving.server import PolicyServer
from openvla_ros.sim.rollout import observe
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.episode import Episode
from openvla_ros.values.observation import Observation

PROFILE = load_profile("sim_widowx")
SPACE = PROFILE.space()
IMAGE = np.zeros((4, 4, 3), np.uint8)
OBSERVATION = Observation(7, {"primary": IMAGE}, "lift", gripper=0.25)


@pytest.fixture(scope="module")
def robot():
    with SimulatedRobot(PROFILE, find_task("lift"), seed=3) as robot:
        yield robot


def test_hold_keeps_the_contract():
    check_policy(HoldPolicy(SPACE), OBSERVATION)


@pytest.mark.parametrize("steps", [1, 3])
def test_replay_keeps_the_contract_at_its_end_too(steps):
    episode = Episode(
        id="e", instruction="lift", space=SPACE, rate_hz=5.0, stamps_ns=np.arange(steps) + 1,
        images={"primary": ArrayFrames(np.zeros((steps, 4, 4, 3), np.uint8))},
        actions=np.full((steps, 7), 0.01),
    )  # fmt: skip
    check_policy(ReplayPolicy(episode, SPACE), OBSERVATION)


def test_the_expert_keeps_the_contract(robot):
    check_policy(ScriptedExpert.for_profile(PROFILE, robot.scene), observe(robot, robot.instruction))


def test_the_model_keeps_the_contract_here_and_behind_a_server(robot):
    policy, seen = load_policy("small_base", dtype="fp32"), observe(robot, robot.instruction)
    assert isinstance(policy, Trained)
    assert (policy.dataset_key, policy.cameras) == ("sim_widowx", ("primary",))
    server = PolicyServer(policy, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    check_policy(RemotePolicy(f"ws://127.0.0.1:{server.port}"), seen)
    server.close()
    thread.join(5)
    check_policy(policy, seen)


def test_a_policy_of_the_program_that_serves_keeps_the_contract():
    arguments = ["serve", "--policy", "hold", "--robot", "sim_widowx", "--port", "0"]
    with start_openvla(*arguments) as process:
        try:
            check_policy(load_policy(process.stdout.readline().split()[-1]), OBSERVATION)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


class Good:
    """A stranger's policy: its own class, nothing of ours but the values."""

    space = SPACE
    description = "good"

    def infer(self, observation):
        if "primary" not in observation.images:
            raise PolicyError("needs camera 'primary'")
        return self.chunk(observation)

    def chunk(self, observation, **changes):
        fields = {"actions": np.zeros((2, 7)), "observation_stamp_ns": observation.stamp_ns, "space": SPACE}
        return ActionChunk(**{**fields, **changes})

    def reset(self):
        pass

    def close(self):
        pass


def test_a_strangers_policy_keeps_the_contract():
    check_policy(Good(), OBSERVATION)


def broken(**members):
    return type("Broken", (Good,), members)()


class Lacking:
    space, description = SPACE, "no reset"
    infer = close = Good.close


class OnlyOnce(Good):
    """Works until it is reset."""

    is_over = False

    def reset(self):
        self.is_over = True

    def infer(self, observation):
        if self.is_over:
            raise PolicyError("over")
        return super().infer(observation)


class ClosesOnce(Good):
    is_open = True

    def close(self):
        if not self.is_open:
            raise RuntimeError("already closed")
        self.is_open = False


class ForgetsItsSpace(Good):
    asked = 0

    @property
    def space(self):
        self.asked += 1
        return SPACE if self.asked == 1 else replace(SPACE, rate_hz=15.0)


SPACE_15 = replace(SPACE, rate_hz=15.0)
BROKEN = {
    "no method": (Lacking(), r"Lacking\.reset: .*there is the method 'reset'; got: no 'reset'"),
    "not a method": (broken(reset=None), r"reset: .*'reset' is a method"),
    "no description": (broken(description=""), r"description: .*one line of readable text.*got: ''"),
    "two lines": (broken(description="a\nb"), r"description: .*one line of readable text"),
    "no space": (broken(space="7 numbers"), r"space: .*is an ActionSpace; got: a str"),
    "another space later": (ForgetsItsSpace(), r"space: .*stays the same.*5\.0 here, 15\.0 there"),
    "bare array": (broken(infer=lambda s, o: np.zeros((1, 7))), r"infer: .*an ActionChunk; got: a ndarray"),
    "nothing": (broken(infer=lambda s, o: None), r"infer: .*returns an ActionChunk; got: a NoneType"),
    "chunk of another space": (
        broken(infer=lambda s, o: s.chunk(o, space=SPACE_15)),
        r"infer: .*space is the policy's; got: action_space\.rate_hz: 5\.0 here, 15\.0 there",
    ),
    "stamp of now": (
        broken(infer=lambda s, o: s.chunk(o, observation_stamp_ns=8)),
        r"infer: .*observation_stamp_ns is the stamp.*got: 8 for an observation of 7",
    ),
    "millimetres": (
        broken(infer=lambda s, o: s.chunk(o, actions=np.full((1, 7), 20.0))),
        r"infer: .*within the space's bounds \(-0\.05 .. 0\.05 m for x\).*got: x of step 0 is 20",
    ),
    "percent": (
        broken(infer=lambda s, o: s.chunk(o, probability=np.full((2, 7), 98.0))),
        r"infer: .*probability lies within 0 .. 1; got: 98",
    ),
    "KeyError for a camera": (
        broken(infer=lambda s, o: s.chunk(o, actions=0.0 * o.images["primary"][:1, 0, 0] + np.zeros((1, 7)))),
        r"without its cameras: Broken\.infer: .*nothing but PolicyError or ModelOutputError; got: KeyError",
    ),
    "TypeError for a state": (
        broken(infer=lambda s, o: s.chunk(o, actions=np.zeros((1, 7)) * (1.0 - o.gripper))),
        r"without joints, pose and gripper: Broken\.infer: .*got: TypeError",
    ),
    "refuses what it could do": (
        broken(infer=lambda s, o: OnlyOnce.infer(type("Over", (), {"is_over": True})(), o)),
        r"infer: .*returns actions for an observation that has everything it needs.*got: PolicyError: over",
    ),
    "over after a reset": (OnlyOnce(), r"infer: .*after a reset too; got: PolicyError: over"),
    "reset raises": (broken(reset=lambda s: 1 / 0), r"reset: .*does not raise here; got: ZeroDivisionError"),
    "close twice": (ClosesOnce(), r"close: .*safe to call twice; got: the second call raised RuntimeError"),
    "prepare tells nothing": (
        broken(prepare=lambda s, instruction: None),
        r"prepare: .*whether it took long; got: None.*Preparing\.prepare",
    ),
    "report of numbers": (broken(report=lambda s: {"ms": 3.0}), r"report: .*names and values as text"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_what_a_policy_does_wrong_is_told(fault):
    policy, words = BROKEN[fault]
    with pytest.raises(ConformanceError, match=words) as caught:
        check_policy(policy, OBSERVATION)
    assert "(see openvla_ros.policy.protocol." in str(caught.value)
