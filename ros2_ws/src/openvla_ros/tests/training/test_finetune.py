"""Fine-tuning from end to end on a tiny base: what it writes, and that nothing is ever lost."""

import json
import random
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.full_disk import files_of_at_most
from support.generated_episodes import make_episode
from support.tiny_training_run import (
    PROFILE,
    QUICK,
    SIZE,
    WHOLE,
    Notes,
    make_base,
    make_request,
    start_run,
    write_data,
)

from openvla_ros.data.hdf.hdf5_source import Hdf5Source
from openvla_ros.errors import CheckpointError, DatasetError, InvalidValueError, TrainingError
from openvla_ros.manifest import read_manifest
from openvla_ros.model.checkpoints.adapter_config import read_adapter_config
from openvla_ros.model.checkpoints.safetensors import load_model, stored_tensors
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.policy.openvla_policy import load_openvla_policy
from openvla_ros.preprocessing.image_transform import crop_center
from openvla_ros.profile import dump_profile
from openvla_ros.training.data.batch_order import BatchOrder, Order, part_of
from openvla_ros.training.data.frame_cache import steps_to_learn
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.distributed import Processes
from openvla_ros.training.finetune import Run, finetune
from openvla_ros.training.metrics import read_records
from openvla_ros.training.recipe import Recipe
from openvla_ros.training.run_state import STATE, read_state
from openvla_ros.training.trainable import make_trainable, trained_parameters


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "demos.hdf5")


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Drawing takes longer than these runs; the fixture below draws once."""
    monkeypatch.setattr("openvla_ros.training.finetune.Run._report", lambda run: None)


@pytest.fixture(scope="module")
def unbroken(base, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "unbroken"
    notes = Notes()
    finetune(make_request(base, data, output), notes)
    return output, notes


def losses(folder):
    return {r["step"]: r["loss"] for r in read_records(folder) if r["kind"] == "training"}


def test_a_run_leaves_an_adapter_that_the_robot_accepts(base, unbroken):
    output, notes = unbroken
    assert len(notes.steps) == QUICK.steps
    assert len(notes.validations) == 2
    policy = load_openvla_policy(base, PROFILE, adapter=output, options=LoadOptions(dtype=torch.float32))
    episode = make_episode(1)
    chunk = policy.infer(episode.observation(0))
    assert chunk.actions.shape == (1, 7)
    manifest = read_manifest(output)
    assert (manifest.center_crop, manifest.cameras, manifest.robot) == (True, ("primary",), "widowx")
    assert manifest.adapter_config == read_adapter_config(output).meaning()
    assert "Open loop" in (output / "report.html").read_text()
    assert list((output / "tensorboard").iterdir())
    assert not list(output.glob("*.part"))


def test_it_learns(base, data, tmp_path):
    notes = Notes()
    recipe = replace(WHOLE, method="full", learning_rate=3e-3, steps=60, augment=False, save_every=1000)
    finetune(make_request(base, data, tmp_path, recipe), notes)
    first = np.mean([r.scores.loss for r in notes.steps[:5]])
    last = np.mean([r.scores.loss for r in notes.steps[-5:]])
    assert last < 0.75 * first


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_steps_it_gives_the_losses_of_an_unbroken_run(base, data, unbroken, tmp_path, kills):
    request = make_request(base, data, tmp_path)
    generator = random.Random(kills)
    killed = 0
    while killed < kills:
        process = start_run(request)
        lines = generator.randrange(QUICK.steps)
        while len(losses(tmp_path)) < lines and process.is_alive():
            time.sleep(0.001)
        time.sleep(generator.uniform(0.0, 0.05))
        killed += process.is_alive()
        process.kill()
        process.join()
        if len(losses(tmp_path)) == QUICK.steps:  # it came to its end: begin anew for the kills that are left
            for path in ("state.safetensors", "metrics.jsonl"):
                (tmp_path / path).unlink()
    finetune(request, Notes())
    assert losses(tmp_path) == losses(unbroken[0])
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (tmp_path, unbroken[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_dropout_and_whole_models_resume_bit_for_bit_too(base, data, tmp_path):
    for recipe in (replace(QUICK, dropout=0.3, steps=6), replace(WHOLE, method="full", steps=6)):
        whole, halved = tmp_path / f"{recipe.method}_whole", tmp_path / f"{recipe.method}_halved"
        finetune(make_request(base, data, whole, recipe), Notes())
        finetune(make_request(base, data, halved, replace(recipe, steps=2)), Notes())
        notes = Notes()
        finetune(make_request(base, data, halved, recipe), notes)
        assert notes.lines[0] == "resumed after step 2"
        assert losses(halved) == losses(whole)


def test_a_full_disk_is_one_line_and_the_run_resumes_once_there_is_room(base, data, unbroken, tmp_path):
    output = tmp_path / "run"
    request = make_request(base, data, output)
    with (
        files_of_at_most(100),
        pytest.raises(TrainingError, match=r"^cannot write \S+run: File too large \("),
    ):
        finetune(request, Notes())
    saved = []

    class Filling(Notes):
        def stepped(self, step, total, result):
            if step == 5:
                saved.append((output / STATE).read_bytes())
                stack.enter_context(files_of_at_most(20_000))

    with (
        ExitStack() as stack,
        pytest.raises(TrainingError, match=r"state\.safetensors: File too large .*resumes"),
    ):
        finetune(request, Filling())
    assert [path.read_bytes() for path in output.glob(f"{STATE}*")] == saved
    finetune(request, Notes())
    assert losses(output) == losses(unbroken[0])


def test_another_run_s_folder_is_refused(base, data, unbroken):
    request = make_request(base, data, unbroken[0], replace(QUICK, rank=8))
    with pytest.raises(TrainingError, match=r"other settings \(rank 4, now 8; alpha 4.0, now 8.0\)"):
        finetune(request, Notes())


def test_a_run_does_not_go_on_over_data_that_changed(base, tmp_path):
    demos, output = write_data(tmp_path / "demos.hdf5", 3), tmp_path / "run"
    finetune(make_request(base, demos, output, replace(QUICK, steps=1)), Notes())
    before = (output / "openvla_manifest.json").read_bytes(), (output / "frames" / "frames.npz").read_bytes()
    demos.unlink()
    write_data(demos, 4)
    with pytest.raises(TrainingError, match="other data"):
        finetune(make_request(base, demos, output, replace(QUICK, steps=2)), Notes())
    after = (output / "openvla_manifest.json").read_bytes(), (output / "frames" / "frames.npz").read_bytes()
    assert after == before


def test_data_that_names_no_robot_is_refused_before_training(base, tmp_path):
    demos = write_data(tmp_path / "demos.hdf5", 2, provenance={})
    notes = Notes()
    with pytest.raises(TrainingError, match="give --robot"):
        finetune(make_request(base, demos, tmp_path / "run"), notes)
    assert not notes.steps
    finetune(make_request(base, demos, tmp_path / "run", replace(QUICK, steps=1), robot="widowx"), notes)
    assert read_manifest(tmp_path / "run").robot == "widowx"


def test_a_robot_that_does_not_match_the_data_is_refused_before_training(base, data, tmp_path):
    text = dump_profile(PROFILE)
    for number, (old, new, line) in enumerate(
        (
            (
                "gripper_open: 1",
                "gripper_open: 0",
                r"action_space\.gripper_open: data 1\.0, robot widowx 0\.0",
            ),
            ("- name: primary", "- name: wrist", r"cameras: data \('primary',\), robot widowx \('wrist',\)"),
        )
    ):
        assert old in text
        other = tmp_path / f"{number}.yaml"
        other.write_text(text.replace(old, new, 1))
        with pytest.raises(TrainingError, match=rf"with widowx\) does not match --robot .*\n  {line}"):
            finetune(make_request(base, data, tmp_path / "run", robot=str(other)), Notes())
    same, notes = tmp_path / "mine.yaml", Notes()
    same.write_text(text.replace("name: widowx", "name: mine", 1))
    request = make_request(base, data, tmp_path / "run", replace(QUICK, steps=1), robot=str(same))
    finetune(request, notes)
    assert read_manifest(tmp_path / "run").robot == "mine"
    assert "the data was recorded with widowx; the result is for mine" in notes.lines


def test_two_runs_cannot_share_a_folder(base, data, tmp_path):
    request = make_request(base, data, tmp_path / "run", replace(QUICK, steps=1))

    class Second(Notes):
        def stepped(self, step, total, result):
            with pytest.raises(TrainingError, match="another process trains into"):
                finetune(request, Notes())
            super().stepped(step, total, result)

    first = Second()
    finetune(request, first)
    assert len(first.steps) == 1


def test_a_loss_that_is_no_number_stops_and_keeps_batch_and_state(base, data, tmp_path):
    run = Run(make_request(base, data, tmp_path, replace(QUICK, steps=4)), Notes(), Processes())
    good = run.trainer.losses
    calls = []

    def poisoned(batch):
        calls.append(batch)
        out = good(batch)
        return replace(out, cross_entropy=out.cross_entropy * (float("nan") if len(calls) == 4 else 1.0))

    run.trainer.losses = poisoned
    with pytest.raises(TrainingError, match=r"step 3: loss nan.*bad_batch"):
        run.train()
    saved = load_file(tmp_path / "bad_batch.safetensors")
    assert torch.equal(saved["pixels"], calls[-1].pixels)
    state, position = read_state(tmp_path)
    assert position.step == 2
    assert all(bool(torch.isfinite(value).all()) for name, value in state.items() if "parameter" in name)


def test_out_of_memory_names_a_setting_that_was_tried_and_fits(base, data, tmp_path):
    run = Run(make_request(base, data, tmp_path, replace(QUICK, batch_size=16)), Notes(), Processes())
    good = run.trainer.losses

    def limited(batch):
        if len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return good(batch)

    run.trainer.losses = limited
    with pytest.raises(TrainingError, match=r"16 examples at once, but 4 fit: add --micro-batch 4"):
        run.train()


def test_a_run_goes_on_with_the_smaller_pieces_that_were_advised(base, data, tmp_path):
    finetune(make_request(base, data, tmp_path, replace(QUICK, steps=2)), Notes())
    notes = Notes()
    finetune(make_request(base, data, tmp_path, replace(QUICK, steps=4, micro_batch=2)), notes)
    assert notes.lines == ["resumed after step 2"]
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4]


def test_micro_batches_give_the_same_losses(base, data, unbroken, tmp_path):
    finetune(make_request(base, data, tmp_path, replace(QUICK, micro_batch=3)), Notes())
    ours, theirs = losses(tmp_path), losses(unbroken[0])
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-4)


def parts_trained(method):
    from openvla_ros.model.network.config_file import parse_config
    from openvla_ros.model.network.openvla import OpenVLA
    from openvla_ros.pretraining.small_model import small_config

    model = OpenVLA(parse_config(small_config(SIZE), "test"))
    make_trainable(model, Recipe(method=method))
    return set(trained_parameters(model)), set(dict(model.named_parameters()))


def test_each_method_of_the_paper_trains_what_it_says():
    last = "language_model.model.layers.1."
    for method, trained, frozen in (
        ("last-layer", [last, "lm_head", "embed_tokens"], ["vision", "projector", "layers.0", "model.norm"]),
        ("frozen-vision", [last, "layers.0", "projector", "lm_head"], ["vision_backbone"]),
        ("sandwich", [last, "vision_backbone", "projector", "lm_head"], ["layers.0"]),
    ):
        names, everything = parts_trained(method)
        for part in trained:
            assert {n for n in everything if part in n} <= names, (method, part)
        for part in frozen:
            assert not [n for n in names if part in n], (method, part)
    names, everything = parts_trained("full")
    assert names == everything


def test_a_whole_checkpoint_loads_like_any_other_and_holds_what_was_trained(base, data, tmp_path):
    recipe = replace(WHOLE, method="sandwich", steps=3, learning_rate=1e-3)
    run = Run(make_request(base, data, tmp_path, recipe), Notes(), Processes())
    run.train()
    assert stored_tensors(tmp_path).keys() == stored_tensors(base).keys()
    loaded, before = (dict(load_model(f, dtype=torch.float32).named_parameters()) for f in (tmp_path, base))
    for name, value in run.trainer.network.named_parameters():
        assert torch.equal(loaded[name], value), name
        assert torch.equal(loaded[name], before[name]) == (not value.requires_grad), name
    policy = load_openvla_policy(tmp_path, PROFILE, options=LoadOptions(dtype=torch.float32))
    assert policy.infer(make_episode(0).observation(0)).actions.shape == (1, 7)


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


def test_bad_requests_say_what_is_wrong(base, data, tmp_path):
    with pytest.raises(InvalidValueError, match="nonsense"):
        finetune(make_request(base, data, tmp_path / "a", replace(QUICK, targets=("nonsense",))), Notes())
    with pytest.raises(CheckpointError):
        finetune(make_request(tmp_path / "nowhere", data, tmp_path / "b"), Notes())
    with pytest.raises(InvalidValueError, match="targets: only for lora and qlora"):
        Recipe(method="full", targets=("q_proj",))
    with pytest.raises(InvalidValueError, match="clip_norm is 0"):
        replace(QUICK, clip_norm=0.0)
    with pytest.raises(InvalidValueError, match="validation_share is 1"):
        Selection(validation_share=1.0)
    request = make_request(base, data, tmp_path / "c", selection=Selection(camera="left"))
    with pytest.raises(DatasetError, match="no camera 'left'"):
        finetune(request, Notes())
