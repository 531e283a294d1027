"""Fine-tuning from end to end on a tiny base: what it writes, and that nothing is ever lost."""

import random
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.full_disk import files_of_at_most
from support.generated_episodes import make_episode
from support.tiny_training_run import PROFILE, QUICK, WHOLE, Notes, make_request, start_run, write_data

from openvla_ros.errors import TrainingError
from openvla_ros.manifest import read_manifest
from openvla_ros.model.checkpoints.adapter_config import read_adapter_config
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.policy.openvla_policy import load_openvla_policy
from openvla_ros.training.distributed import Processes
from openvla_ros.training.finetune import Run, finetune
from openvla_ros.training.metrics import read_records
from openvla_ros.training.run_state import STATE, read_state

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def unbroken(base, data, tmp_path_factory):
    """One run for the whole file; it is made before ``no_report`` and draws its report."""
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
