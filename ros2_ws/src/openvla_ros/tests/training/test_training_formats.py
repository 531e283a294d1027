"""Every format that demonstrations come in trains directly, and a base of 4 bits carries an adapter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.fake_recording import steady_run
from support.generated_episodes import make_episode
from support.tiny_training_run import PROFILE, QUICK, Notes, make_request, write_data
from typer.testing import CliRunner

from openvla_ros.cli.program import app
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.encoded_images import EncodedFrames
from openvla_ros.data.formats.rlds_writer import (
    VERSION,
    describe_features,
    shard_name,
    write_description,
    write_shard,
)
from openvla_ros.errors import DatasetError
from openvla_ros.manifest import read_manifest
from openvla_ros.model.checkpoints.lora_adapters import read_adapter
from openvla_ros.profile import load_profile
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.distributed import Processes
from openvla_ros.training.finetune import Run, finetune
from openvla_ros.training.metrics import read_records
from openvla_ros.training.request import WeightedData

pytestmark = pytest.mark.usefixtures("no_report")

ALL = Selection(validation_share=0.0, keep_policy_steps=True, keep_failures=True)


def test_recordings_train_directly_and_name_their_robot(base, tmp_path):
    steady_run().write(tmp_path / "bags" / "episode_000000")
    recipe = replace(QUICK, steps=2)
    finetune(make_request(base, tmp_path / "bags", tmp_path / "run", recipe, selection=ALL), Notes())
    manifest = read_manifest(tmp_path / "run")
    assert manifest.robot == "sim_widowx"
    manifest.check(load_profile("sim_widowx"))


def test_real_bridge_data_trains_directly(base, bridge_folder, tmp_path):
    request = make_request(base, bridge_folder, tmp_path, replace(QUICK, steps=1), robot="widowx")
    run = Run(request, Notes(), Processes())
    assert len(run.store.spans) + len(run.store.skipped) == 25
    assert run.store.space.differences(PROFILE.space()) == []
    assert np.abs(run.maker.normalised).max() <= 1.0
    run.train()
    assert read_manifest(tmp_path).robot == "widowx"


def test_an_episode_with_a_broken_image_is_left_out_and_named(base, tmp_path):
    frames = [make_episode(1, jpeg=True).images["primary"].encoded(i) for i in range(6)]
    frames[4] = frames[4][:-60]
    broken = make_episode(1, images={name: EncodedFrames(frames, name) for name in ("primary", "wrist")})
    folder = tmp_path / "set" / VERSION
    folder.mkdir(parents=True)
    size = write_shard(folder / shard_name("d", 0, 1), [make_episode(0, jpeg=True), broken])
    write_description(folder, "d", describe_features(broken), [2], [size])
    request = make_request(
        base, tmp_path / "set", tmp_path / "run", replace(QUICK, steps=1), selection=ALL, robot="widowx"
    )
    store = Run(request, Notes(), Processes()).store
    assert [span.id for span in store.spans] == ["episode_0000"]
    (skipped,) = store.skipped
    assert "episode 'episode_0001'" in skipped
    assert "truncated" in skipped


def test_data_of_another_action_space_is_refused_and_named(base, tmp_path):
    other = replace(PROFILE.space(), frame="tool")
    first, second = write_data(tmp_path / "a.hdf5", 1), write_data(tmp_path / "b.hdf5", 1, space=other)
    request = make_request(base, first, tmp_path / "run")
    request = replace(request, data=(*request.data, *make_request(base, second, tmp_path).data))
    with pytest.raises(DatasetError, match=r"b.hdf5: the action space of episode 'episode_0000'.*frame"):
        finetune(request, Notes())


def test_datasets_are_drawn_by_their_weights(base, tmp_path):
    first, second = write_data(tmp_path / "a.hdf5", 2), write_data(tmp_path / "b.hdf5", 2)
    data = (WeightedData(SourceRequest(first), 3.0), WeightedData(SourceRequest(second), 1.0))
    request = replace(make_request(base, first, tmp_path / "run", selection=ALL), data=data)
    run = Run(request, Notes(), Processes())
    places = [place for step in range(12) for place in run.order.batch(step)]  # one pass: 12 steps x (3 + 1)
    counts = np.bincount(run.store.sources()[[place.row for place in places]])
    assert counts.tolist() == [36, 12]


def test_a_base_of_four_bits_carries_an_adapter(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    recipe = replace(QUICK, method="qlora", steps=3, learning_rate=1e-3)
    notes = Notes()
    data = write_data(tmp_path / "demos.hdf5", 3)
    run = Run(make_request(base, data, tmp_path / "run", recipe), notes, Processes())
    quantised = {n for n, p in run.trainer.network.named_parameters() if p.dtype == torch.uint8}
    assert any(name.endswith("q_proj.base.weight") for name in quantised)
    run.train()
    assert all(np.isfinite(step.scores.loss) and step.gradient_norm > 0.0 for step in notes.steps)
    adapter = read_adapter(tmp_path / "run")
    assert any(bool((update.up != 0).any()) for update in adapter.updates.values())


def test_the_verb_trains_resumes_and_says_what_is_wrong(base, tmp_path):
    data, run = write_data(tmp_path / "demos.hdf5", 3), tmp_path / "run"
    arguments = ["finetune", str(base), f"{data}=2", "--output", str(run), "--rank", "2", "--batch-size", "2"]
    for steps in ("1", "3"):
        result = CliRunner().invoke(app, [*arguments, "--steps", steps, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        assert "report.html" in result.stdout
    assert "resumed after step 1" in result.stderr
    steps = [record["step"] for record in read_records(run) if record["kind"] == "training"]
    assert steps == [1, 2, 3]
    assert read_adapter(run).config.r == 2
    wrong = CliRunner().invoke(app, [*arguments[:2], f"{data}=much", *arguments[3:]])
    assert "'much' is not a number" in str(wrong.exception)
