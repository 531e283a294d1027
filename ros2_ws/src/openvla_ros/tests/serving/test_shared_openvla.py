"""One checkpoint for several robots: the actions that each gets alone, whoever else asks at the moment."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_adapters import make_adapter

from openvla_ros.errors import ManifestError, ModelOutputError, PolicyError
from openvla_ros.model.checkpoints.safetensors import resolve
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import Prediction
from openvla_ros.policy.openvla_policy import OpenVLAPolicy, load_openvla_policy
from openvla_ros.policy.proprioception import state_reader
from openvla_ros.profile import load_profile
from openvla_ros.resources import SMALL_BASE
from openvla_ros.serving.shared_openvla import SharedOpenVLA, with_adapters
from openvla_ros.sim.rollout import observe
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation

PROFILE = load_profile("sim_widowx")
WORDS = ("move to the red cube", "lift the green cube", "put the blue cube on the plate", "push the red cube")


@pytest.fixture(scope="module")
def images():
    """What a camera sees of six scenes."""
    with SimulatedRobot(PROFILE, find_task("reach")) as robot:
        seen = []
        for seed in range(6):
            robot.reset(seed)
            seen.append(observe(robot, "look").images["primary"])
        return seen


@pytest.fixture(scope="module", params=[("fast", 1), ("plain", 1), ("fast", 3)], ids=str)
def shared(request, tmp_path_factory):
    """The small base for robots with and without adapters, on one and on several cores."""
    decoder, cores = request.param
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    folder = tmp_path_factory.mktemp("adapters")
    adapters = {
        name: make_adapter(folder / name, resolve(SMALL_BASE), seed, PROFILE, std=0.02)
        for seed, name in enumerate(("carrot", "cup"))
    }
    options = LoadOptions(dtype=torch.float32, decoder=decoder)
    policy = load_openvla_policy(SMALL_BASE, PROFILE, options=options)
    served = with_adapters(policy, SMALL_BASE, adapters, PROFILE, offline=True)
    torch.set_num_threads(1)
    yield served
    served.close()
    torch.set_num_threads(before)


def observation(image, words, stamp_ns=0):
    return Observation(stamp_ns, {"primary": image}, words)


ROW = st.tuples(st.sampled_from(["", "carrot", "cup"]), st.sampled_from(WORDS), st.integers(0, 5))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(ROW, min_size=1, max_size=8), min_size=1, max_size=3))
def test_each_robot_gets_the_actions_that_it_gets_alone(shared, images, batches):
    """Batch after batch, so that guesses come from a robot's own last action."""
    sessions = {}
    for batch in batches:
        questions = []
        for place, (name, words, image) in enumerate(batch):
            session = sessions.setdefault((place, name), shared.session(name))
            questions.append(session.question(observation(images[image], words, place)))
        for place, (found, (name, words, image)) in enumerate(
            zip(shared.answer(questions), batch, strict=True)
        ):
            wanted = shared.session(name).policy.infer(observation(images[image], words, place))
            np.testing.assert_array_equal(found.actions, wanted.actions)
            np.testing.assert_allclose(found.probability, wanted.probability, atol=1e-4)
            assert found.observation_stamp_ns == place


def test_adapters_words_and_images_make_a_difference(shared, images):
    rows = [(name, words, image) for name in shared.variants for words in WORDS[:2] for image in (0, 1)]
    questions = [shared.session(name).question(observation(images[i], words)) for name, words, i in rows]
    assert len({tuple(chunk.actions[0]) for chunk in shared.answer(questions)}) > len(rows) // 2


def test_a_robots_next_guess_is_its_own_last_action(shared, images):
    robots = [shared.session(name) for name in ("", "carrot", "")]
    questions = [robot.question(observation(images[i], WORDS[i])) for i, robot in enumerate(robots)]
    shared.answer(questions)
    guesses = [tuple(robot.last.tolist()) for robot in robots]
    assert len(set(guesses)) == len(robots)
    for robot, guess in zip(robots, guesses, strict=True):
        assert tuple(robot.question(observation(images[0], WORDS[0])).ready.last.tolist()) == guess


def test_one_robots_missing_camera_is_told_before_anybody_waits(shared, images):
    with pytest.raises(PolicyError, match="needs camera 'primary'; the observation has wrist"):
        shared.session("").question(Observation(0, {"wrist": images[0]}, "lift"))


def test_an_output_that_is_no_action_is_one_robots_error(shared, images, monkeypatch):
    sessions = [shared.session("") for _ in range(3)]
    questions = [session.question(observation(images[0], WORDS[0])) for session in sessions]
    decoder = shared._together._together[0]
    decode = decoder.decode

    def spoiled(*arguments):
        rows = decode(*arguments)
        object.__setattr__(rows[1], "tokens", ModelOutputError("early end"))
        return rows

    monkeypatch.setattr(decoder, "decode", spoiled)
    first, second, third = shared.answer(questions)
    assert isinstance(second, ModelOutputError)
    np.testing.assert_array_equal(first.actions, third.actions)


def test_a_name_that_is_not_served_lists_those_that_are(shared):
    with pytest.raises(PolicyError, match=r"no adapter 'plate': .* with the adapters carrot, cup"):
        shared.session("plate")


class StatePredictor:
    """Takes proprioception and no batch, like OpenVLA-OFT; its actions are the state."""

    image_count, proprio_width, dataset_key = 1, 7, "made"

    def __init__(self, statistics):
        self.statistics = statistics

    def predict(self, images, instruction, proprio=None):
        return Prediction(np.asarray(proprio)[None], 0.0)


def test_each_robots_state_is_its_own_where_the_model_takes_it(shared, images):
    predictor = StatePredictor(shared.session("").policy.predictor.statistics)
    policy = OpenVLAPolicy(
        predictor,
        PROFILE.space(),
        cameras=["primary"],
        description="oft",
        state=state_reader("pose_gripper", PROFILE),
    )
    robots = SharedOpenVLA({"": policy})
    asked = [
        Observation(
            0, {"primary": images[0]}, "lift", pose=Pose.from_euler([x, 0, 0.2], [0, 1.5, 0]), gripper=0.5
        )
        for x in (0.1, 0.2, 0.3)
    ]
    found = robots.answer([robots.session("").question(one) for one in asked])
    assert [chunk.actions[0, 0] for chunk in found] == [0.1, 0.2, 0.3]
    without = Observation(0, {"primary": images[0]}, "lift")
    first, second = robots.answer([robots.session("").question(one) for one in (without, asked[1])])
    assert isinstance(first, PolicyError)
    assert second.actions[0, 0] == 0.2


def test_an_adapter_of_another_robot_is_refused(tmp_path):
    policy = load_openvla_policy(SMALL_BASE, PROFILE, options=LoadOptions(dtype=torch.float32))
    other = load_profile("widowx")
    folder = make_adapter(tmp_path / "other", resolve(SMALL_BASE), 0, other)
    manifest = folder / "openvla_manifest.json"
    manifest.write_text(manifest.read_text().replace('"rate_hz": 5.0', '"rate_hz": 3.0'))
    with pytest.raises(ManifestError, match="rate_hz"):
        with_adapters(policy, SMALL_BASE, {"other": folder}, PROFILE, offline=True)
