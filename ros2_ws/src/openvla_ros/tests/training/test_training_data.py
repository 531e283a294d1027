"""What a run learns from: frames and words in their order and shares, corrections, statistics."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.generated_episodes import make_episode
from support.tiny_training_run import QUICK, Notes, make_request, write_data

from openvla_ros.data.hdf.hdf5_source import Hdf5Source
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.manifest import read_manifest
from openvla_ros.preprocessing.image_transform import crop_center
from openvla_ros.training.data.batch_order import BatchOrder, Order, part_of
from openvla_ros.training.data.frame_cache import steps_to_learn
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.distributed import Processes
from openvla_ros.training.finetune import Run, finetune

pytestmark = pytest.mark.usefixtures("no_report")


def test_words_are_trained_beside_actions_in_the_stated_ratio(base, data, tmp_path):
    Image.new("RGB", (40, 30), (200, 0, 0)).save(tmp_path / "red.png")
    pair = {"image": "red.png", "question": "What colour is this?", "answer": "red"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(pair) + "\n")
    recipe = replace(
        QUICK, words_share=0.25, steps=40, learning_rate=3e-3, validate_every=100, save_every=100
    )
    notes = Notes()
    request = make_request(base, data, tmp_path / "run", recipe, questions=(tmp_path / "questions.jsonl",))
    finetune(request, notes)
    first, last = notes.steps[0].scores, notes.steps[-1].scores
    assert last.words_loss < 0.5 * first.words_loss
    assert last.action_loss < first.action_loss
    assert all(np.isfinite(r.scores.action_loss) and np.isfinite(r.scores.words_loss) for r in notes.steps)
    order = BatchOrder(Order(np.arange(9), np.ones(9), 0), Order(np.arange(2), np.ones(2), 1), 0.3, 10)
    kinds = [place.is_action for step in range(10) for place in order.batch(step)]
    assert (len(kinds), kinds.count(False)) == (100, 30)


def test_words_without_a_share_are_refused(base, data, tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        finetune(make_request(base, data, tmp_path, questions=(tmp_path / "none.jsonl",)), Notes())
    with pytest.raises(InvalidValueError, match="share"):
        BatchOrder(Order(np.arange(2), np.ones(2), 0), None, 0.5, 4)


def test_frames_are_what_the_live_transform_makes(base, data, tmp_path):
    run = Run(make_request(base, data, tmp_path, replace(QUICK, augment=False)), Notes(), Processes())
    source, transform = Hdf5Source(data), run.maker.transform
    spans = {span.id: span for span in run.store.spans}
    for index in range(len(source)):
        episode = source[index]
        rows = range(spans[episode.id].start, spans[episode.id].stop)
        batch = run.maker.validation_batch(list(rows))
        for row, step in enumerate(steps_to_learn(episode, Selection())):
            live = episode.observation(int(step)).images["primary"]
            np.testing.assert_array_equal(batch.pixels[row], transform(live))
    cropped = replace(run.maker, augmentation=object())
    batch = cropped.validation_batch([0])
    np.testing.assert_array_equal(batch.pixels[0], transform(crop_center(run.store.images[0])))


def test_corrections_are_drawn_more_often_and_the_policy_s_own_steps_not_at_all(base, tmp_path):
    mask = np.array([0, 0, 1, 1, 0, 0], bool)
    corrected = make_episode(3, intervention=mask, outcome="failure")
    np.testing.assert_array_equal(steps_to_learn(corrected, Selection()), [2, 3])
    assert len(steps_to_learn(corrected, Selection(keep_policy_steps=True))) == 6
    failed = make_episode(3, intervention=np.zeros(6, bool), outcome="failure")
    assert len(steps_to_learn(failed, Selection())) == 0
    assert len(steps_to_learn(failed, Selection(keep_failures=True))) == 6
    write_data(tmp_path / "a.hdf5", intervention=mask)
    recipe = replace(QUICK, intervention_weight=3.0)
    run = Run(make_request(base, tmp_path / "a.hdf5", tmp_path / "run", recipe,
                           selection=Selection(keep_policy_steps=True, validation_share=0.0)),
              Notes(), Processes())  # fmt: skip
    rows = [place.row for step in range(30) for place in run.order.batch(step)][: 6 * 10]
    corrections = sum(run.store.intervention[row] for row in rows)
    assert corrections == 3 * 12  # in one pass of 6 episodes: 2 corrected steps each, thrice; 4 others, once


def test_an_order_shares_one_pass_among_processes_without_repeats():
    order = BatchOrder(Order(np.arange(24), np.ones(24), 5), None, 0.0, 8)
    for world in (1, 2, 4):
        seen = [
            p.row
            for step in range(3)
            for rank in range(world)
            for p in part_of(order.batch(step), rank, world)
        ]
        assert sorted(seen) == list(range(24))
    again = BatchOrder(Order(np.arange(24), np.ones(24), 5), None, 0.0, 8)
    assert order.batch(7) == again.batch(7)


def test_statistics_come_from_the_data_or_stay_the_base_s(base, data, tmp_path):
    recipe = replace(QUICK, steps=1)
    finetune(make_request(base, data, tmp_path / "own", recipe), Notes())
    finetune(make_request(base, data, tmp_path / "kept", recipe, keep_statistics="base"), Notes())
    own, kept = read_manifest(tmp_path / "own"), read_manifest(tmp_path / "kept")
    assert (own.dataset_key, kept.dataset_key) == ("finetuned", "base")
    source = Hdf5Source(data)
    run = Run(make_request(base, data, tmp_path / "own", recipe), Notes(), Processes())
    held = run.store.spans
    actions = np.concatenate([source[i].actions for i in range(len(source)) if not held[i].held_out])
    np.testing.assert_allclose(own.statistics.action.mean, actions.mean(axis=0), atol=1e-9)
    assert kept.statistics.action.q99[0] == pytest.approx(0.05, abs=0.002)
