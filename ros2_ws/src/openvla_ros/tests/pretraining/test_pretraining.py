"""Pre-training of the small model: labels, auxiliary heads, and that both phases learn and resume."""

import numpy as np
import pytest
import torch

from openvla_ros.model.network.tokenizer import PromptTokenizer
from openvla_ros.preprocessing.dataset_statistics import FieldStatistics
from openvla_ros.preprocessing.prompt import build_training_prompt
from openvla_ros.pretraining.auxiliary_losses import ThingsHead, Whereabouts, patch_targets
from openvla_ros.pretraining.frame_shards import FrameSet, FrameShards
from openvla_ros.pretraining.small_model import SmallSize, make_small_model, train_tokenizer
from openvla_ros.pretraining.snapshots import Photographer
from openvla_ros.pretraining.trainer import Pretraining, PretrainingOptions, SinglePrecisionAttention, Span
from openvla_ros.profile import load_profile
from openvla_ros.sim.labels import THINGS, asked_for
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.goal import Goal, Verb

SIZE = SmallSize(
    image_size=56, vision_width=32, vision_depth=2, vision_heads=2,
    text_width=32, text_depth=1, text_heads=2, text_inner=48,
)  # fmt: skip


def taken(seeds):
    with SimulatedRobot(load_profile("sim_widowx"), find_task("put")) as robot:
        photographer = Photographer(robot)
        return [photographer.take(seed) for seed in seeds]


@pytest.fixture(scope="module")
def snapshots():
    return taken(range(12))


def test_a_snapshot_is_drawn_again_from_its_seed(snapshots):
    (again,) = taken([7])
    np.testing.assert_array_equal(
        again.observation.images["primary"], snapshots[7].observation.images["primary"]
    )
    np.testing.assert_array_equal(again.chunk.actions, snapshots[7].chunk.actions)


def test_snapshots_differ_in_pose_opening_and_layout(snapshots):
    tools = np.array([shot.whereabouts.metres[THINGS.index("tool")] for shot in snapshots])
    assert np.ptp(tools, axis=0).min() > 0.03
    openings = np.array([shot.observation.gripper for shot in snapshots])
    assert (openings > 0.9).any()
    assert (openings < 0.1).any()
    for shot in snapshots:
        tool, item, destination = shot.asked
        assert THINGS[item] in shot.observation.instruction
        assert (THINGS[tool], THINGS[destination]) == ("tool", "plate")
        assert np.isfinite(shot.whereabouts.metres[list(shot.asked)]).all()


def test_asked_for_names_the_object_twice_where_there_is_no_destination():
    tool, item, destination = asked_for(Goal(Verb.LIFT, "red cube"))
    assert (THINGS[tool], THINGS[item]) == ("tool", "red cube")
    assert destination == item


def test_patch_targets_are_bilinear():
    weights = patch_targets(torch.tensor([[0.5, 0.5], [0.0, 0.0], [1.0, 0.625]]), side=4)
    assert weights.sum(dim=-1).tolist() == pytest.approx([1.0, 1.0, 1.0])
    middle = weights[0].reshape(4, 4)
    assert middle[1:3, 1:3].flatten().tolist() == pytest.approx([0.25] * 4)
    assert weights[1].argmax() == 0
    assert weights[2].reshape(4, 4)[2, 3] == pytest.approx(1.0)


def test_things_that_are_not_there_do_not_count():
    torch.manual_seed(0)
    head, patches = ThingsHead(8, 4, 3), torch.randn(2, 16, 8)
    uv, metres = torch.rand(2, 3, 2), torch.rand(2, 3, 3)
    few = Whereabouts(uv.clone(), metres.clone())
    few.uv[:, 1:], few.metres[:, 1:] = torch.nan, torch.nan
    moved = Whereabouts(few.uv.clone(), few.metres.clone())
    for a, b in zip(head(patches, few), head(patches, moved), strict=True):
        assert torch.isfinite(a)
        assert a == b
    assert head(patches, Whereabouts(uv, metres))[0] != head(patches, few)[0]


def test_shards_are_one_frame_set(frames):
    half = FrameShards([frames.take(np.arange(5)), frames.take(np.arange(5, len(frames)))])
    rows = np.array([4, 5, 0, len(frames) - 1])
    assert len(half) == len(frames)
    np.testing.assert_array_equal(half.take(rows).actions, frames.take(rows).actions)


@pytest.fixture(scope="module")
def frames():
    """Two things in a flat uv: a bright square to go to, and the words say nothing of it."""
    random = np.random.default_rng(0)
    count, side = 96, SIZE.image_size
    where = random.uniform(0.2, 0.8, (count, 2))
    images = np.full((count, side, side, 3), 90, np.uint8)
    for image, (u, v) in zip(images, where, strict=True):
        x, y = int(u * side), int(v * side)
        image[y - 6 : y + 6, x - 6 : x + 6] = (250, 40, 40)
    uv = np.full((count, 2, 2), 0.5)
    uv[:, 1] = where
    metres = np.zeros((count, 2, 3))
    metres[:, 1, :2] = (where - 0.5) * 0.2
    actions = np.zeros((count, 7), np.float32)
    actions[:, :2] = where - 0.5
    return FrameSet(
        images, actions, uv.astype(np.float32), metres.astype(np.float32),
        np.tile([0, 1, 1], (count, 1)), np.array(["go there"] * count, dtype="U64"),
    )  # fmt: skip


def make_run(half: bool = False) -> Pretraining:
    prompts = PromptTokenizer(train_tokenizer([build_training_prompt("go there")], 400), "test")
    ones = np.ones(7)
    mask = np.array([True] * 6 + [False])
    statistics = FieldStatistics(
        mean=0 * ones, std=ones, min=-0.5 * ones, max=0.5 * ones, q01=-0.5 * ones, q99=0.5 * ones, mask=mask
    )
    options = PretrainingOptions(
        batch_size=16, half=half, learning_rate=3e-3, warmup_steps=5, log_every_s=0.0
    )
    return Pretraining(make_small_model(SIZE, 0), prompts, statistics, 2, options)


@pytest.mark.parametrize("half", [False, True])
def test_it_learns_to_see_and_then_to_act(frames, half):
    run, reports = make_run(half), []
    run.see(frames, Span(steps=60), reports.append)
    seen = len(reports)
    assert reports[-1].numbers["things"] < 0.8 * reports[0].numbers["things"]
    run.act([(frames, 0.5), (frames, 0.5)], Span(steps=80, rates=(1.0, 0.5)), reports.append)
    acted = reports[seen:]
    assert acted[-1].numbers["action"] < 0.8 * acted[0].numbers["action"]
    assert acted[-1].numbers["distance"] < acted[0].numbers["distance"]


def test_a_run_goes_on_from_its_state(frames, tmp_path):
    run, other, reports = make_run(), make_run(), []
    run.see(frames, Span(steps=4), lambda _: None)
    torch.save(run.state(), tmp_path / "state.pt")
    other.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for a, b in zip(run.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other.see(frames, Span(steps=2), reports.append)
    assert (reports[-1].step, reports[-1].samples) == (6, 96)


def test_a_span_is_over_by_time_or_by_steps():
    assert Span(seconds=10.0).share(5.0, 10**6) == 0.5
    assert Span(seconds=10.0, steps=4).share(1.0, 3) == 0.75
    assert Span(rates=(1.0, 0.0)).rate(0.0) == 1.0
    assert Span(rates=(1.0, 0.2)).rate(1.0) == pytest.approx(0.2)


def test_attention_stays_in_single_precision():
    query = torch.randn(1, 2, 5, 8)
    with SinglePrecisionAttention(), torch.autocast("cpu", torch.bfloat16):
        attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        product = torch.nn.functional.linear(query, torch.eye(8))
    assert attended.dtype is torch.float32
    assert product.dtype is torch.bfloat16


def test_the_motion_tokens_that_are_read_are_blurred_and_the_targets_are_not(frames):
    run = make_run()
    ids = run.model.config.action_ids
    labels = torch.full((1, 12), -100)
    labels[0, 4:11] = torch.tensor([ids.start + 100] * 6 + [ids.stop - 1])
    token_ids = torch.where(labels == -100, torch.tensor(5), labels)
    torch.manual_seed(0)
    blurred = run._blurred(token_ids, labels)
    assert (blurred[0, :4] == 5).all()
    assert blurred[0, 10] == ids.stop - 1, "the gripper's token stays"
    shift = (blurred - token_ids)[0, 4:10]
    assert shift.abs().sum() > 0
    assert shift.abs().max() < 30
