"""Conversion: every format into every other, resumed, in processes, with damaged episodes left out."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from support.fake_recording import steady_run
from support.full_disk import files_of_at_most
from support.generated_episodes import assert_same_episode, make_episode

from openvla_ros.data.datasets import conversion
from openvla_ros.data.datasets.conversion import PARTS, REPORT, STATISTICS, ConversionRequest, convert
from openvla_ros.data.datasets.open_dataset import SourceRequest, detect_format
from openvla_ros.data.episodes.encoded_images import EncodedFrames
from openvla_ros.data.formats.rlds_reader import RldsSource
from openvla_ros.data.formats.rlds_writer import (
    VERSION,
    describe_features,
    shard_name,
    write_description,
    write_shard,
)
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.errors import DatasetError
from openvla_ros.preprocessing.dataset_statistics import read_statistics

TARGETS = ("bag", "rlds", "lerobot", "hdf5")


def request(source, destination, target, **options):
    options = {"storage": "image", "group_size": 2, **options}
    return ConversionRequest(SourceRequest(source), destination, target, **options)


def result_path(destination, target):
    return destination / f"{destination.name}.hdf5" if target == "hdf5" else destination


def write_hdf5(path, episodes):
    with Hdf5Writer(path) as writer:
        for episode in episodes:
            writer.add(episode)
    return path


@pytest.fixture
def source(tmp_path):
    return write_hdf5(tmp_path / "source.hdf5", [make_episode(i, 3 + i) for i in range(5)])


def read(path):
    dataset = SourceRequest(path).open()
    return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(TARGETS, 2)])
def test_every_format_converts_into_every_other(source, tmp_path, first, second):
    convert(request(source, tmp_path / "one", first))
    middle = result_path(tmp_path / "one", first)
    assert detect_format(middle) == first
    report = convert(request(middle, tmp_path / "two", second))
    assert (report.episodes, report.steps, report.skipped) == (5, sum(range(3, 8)), ())
    for got, want in zip(read(result_path(tmp_path / "two", second)), read(source), strict=True):
        assert_same_episode(got, want)


@pytest.mark.parametrize("target", TARGETS)
def test_the_bridge_episodes_convert_to_and_fro(bridge_folder, tmp_path, target):
    convert(request(bridge_folder, tmp_path / "out", target, group_size=10))
    episodes = [*RldsSource(bridge_folder)]
    for got, want in zip(read(result_path(tmp_path / "out", target)), episodes, strict=True):
        assert_same_episode(got, want)
    convert(request(result_path(tmp_path / "out", target), tmp_path / "back", "rlds"))
    for got, want in zip(read(tmp_path / "back"), episodes, strict=True):
        assert_same_episode(got, want)


@pytest.mark.parametrize("target", [*TARGETS, "videos"])
def test_a_full_disk_is_one_line_and_the_conversion_goes_on_once_there_is_room(source, tmp_path, target):
    options = {"target": "lerobot", "storage": "av1"} if target == "videos" else {"target": target}
    asked = request(source, tmp_path / "out", **options)
    line = r"^cannot write \S+: File too large \(\S+ of \S+ MB are free in \S+\)$"
    with files_of_at_most(4000), pytest.raises(DatasetError, match=line):
        convert(asked)
    assert convert(asked).episodes == 5


def test_statistics_are_those_of_all_frames(source, tmp_path):
    convert(request(source, tmp_path / "out", "rlds"))
    (found,) = read_statistics(tmp_path / "out" / STATISTICS).values()
    actions = np.concatenate([episode.actions for episode in read(source)])
    np.testing.assert_allclose(found.action.mean, actions.mean(axis=0))
    np.testing.assert_allclose(found.action.q99, np.quantile(actions, 0.99, axis=0))
    assert found.action.mask.tolist() == [True] * 6 + [False]
    assert (found.num_trajectories, found.num_transitions) == (5, 25)


def test_processes_give_the_same_files_as_one(source, tmp_path):
    convert(request(source, tmp_path / "a" / "d", "rlds"))
    convert(request(source, tmp_path / "b" / "d", "rlds"), workers=2)
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(names) == 3 + 5
    for name in names:
        if name.name != REPORT:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def truncated_rlds(tmp_path):
    episodes = write_hdf5(tmp_path / "s.hdf5", [make_episode(i) for i in range(4)])
    convert(request(episodes, tmp_path / "whole", "rlds"))
    shard = sorted((tmp_path / "whole").rglob("*.tfrecord*"))[1]
    shard.write_bytes(shard.read_bytes()[:-40])
    return tmp_path / "whole"


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_episode_is_left_out_and_reported(tmp_path, target):
    report = convert(request(truncated_rlds(tmp_path), tmp_path / "out", target))
    assert report.episodes == 3
    (skipped,) = report.skipped
    assert skipped.index == 3
    assert "truncated" in skipped.reason
    saved = json.loads((tmp_path / "out" / REPORT).read_text())
    assert saved["skipped"][0] == {"index": 3, "reason": skipped.reason}
    for got, seed in zip(read(result_path(tmp_path / "out", target)), (0, 1, 2), strict=True):
        assert_same_episode(got, make_episode(seed))


def test_another_size_of_images_is_left_out(tmp_path):
    episodes = [make_episode(i, size=48 if i == 2 else 32) for i in range(4)]
    report = convert(request(write_hdf5(tmp_path / "mixed.hdf5", episodes), tmp_path / "out", "rlds"))
    assert [entry.index for entry in report.skipped] == [2]
    assert "(48, 48)" in report.skipped[0].reason


@pytest.mark.parametrize("cut", [2, 60, 700])
def test_a_broken_image_is_left_out(tmp_path, cut):
    frames = [make_episode(1, jpeg=True).images["wrist"].encoded(i) for i in range(6)]
    frames[4] = frames[4][: len(frames[4]) - cut]
    broken = make_episode(1, images={name: EncodedFrames(frames, name) for name in ("primary", "wrist")})
    out = tmp_path / "broken" / VERSION
    out.mkdir(parents=True)
    size = write_shard(out / shard_name("d", 0, 1), [make_episode(0, jpeg=True), broken])
    write_description(out, "d", describe_features(broken), [2], [size])
    report = convert(request(tmp_path / "broken", tmp_path / "out", "lerobot"))
    assert [entry.index for entry in report.skipped] == [1]
    assert "JPEG of" in report.skipped[0].reason


def test_an_interrupted_conversion_goes_on(source, tmp_path, monkeypatch):
    job = request(source, tmp_path / "out", "rlds")
    real = conversion.convert_group

    def failing(work, group):
        if group.start == 2:
            raise KeyboardInterrupt
        return real(work, group)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "convert_group", failing)
    with pytest.raises(KeyboardInterrupt):
        convert(job)
    finished = tmp_path / "out" / PARTS / "00000000" / "result.json"
    before = finished.stat().st_mtime_ns
    leftover = tmp_path / "out" / PARTS / "00000002.999"
    leftover.mkdir()
    monkeypatch.setattr(conversion, "convert_group", real)
    monkeypatch.setattr(conversion, "merge", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(job)
    assert finished.stat().st_mtime_ns == before
    monkeypatch.undo()
    convert(job)
    assert not (tmp_path / "out" / PARTS).exists()
    for got, want in zip(read(tmp_path / "out"), read(source), strict=True):
        assert_same_episode(got, want)


def test_a_destination_in_use_is_refused(source, tmp_path):
    convert(request(source, tmp_path / "out", "rlds"))
    with pytest.raises(DatasetError, match="not empty"):
        convert(request(source, tmp_path / "out", "rlds"))
    (tmp_path / "begun" / PARTS).mkdir(parents=True)
    (tmp_path / "begun" / PARTS / "plan.json").write_text("{}")
    with pytest.raises(DatasetError, match="unfinished conversion with other options"):
        convert(request(source, tmp_path / "begun", "rlds"))


def test_measured_actions_can_be_asked_for(source, tmp_path):
    convert(request(source, tmp_path / "out", "rlds", actions="measured"))
    for got, want in zip(read(tmp_path / "out"), read(source), strict=True):
        np.testing.assert_array_equal(got.actions, want.measured_deltas())


def test_nothing_readable_is_an_error(tmp_path):
    whole = truncated_rlds(tmp_path)
    for shard in whole.rglob("*.tfrecord*"):
        shard.write_bytes(b"")
    with pytest.raises(DatasetError, match="none of 4 episodes can be read; the first: "):
        convert(request(whole, tmp_path / "out", "hdf5"))


@pytest.mark.parametrize("jpeg", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_a_recorded_bag_survives_export_and_import(tmp_path, target, jpeg):
    bags = tmp_path / "bags"
    for i in range(2):
        steady_run(1.0, seed=i).write(bags / f"episode_{i:06d}", jpeg=jpeg)
    recorded = read(bags)
    assert [len(episode) for episode in recorded] == [5, 5]
    convert(request(bags, tmp_path / "out", target))
    for got, want in zip(read(result_path(tmp_path / "out", target)), recorded, strict=True):
        assert_same_episode(got, want)
        assert got.provenance["operator"] == "ada"


@pytest.mark.slow
def test_ray_gives_the_same_files(source, tmp_path):
    ray = pytest.importorskip("ray", reason="needs ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        convert(request(source, tmp_path / "a" / "d", "rlds"), backend="ray")
    finally:
        ray.shutdown()
    convert(request(source, tmp_path / "b" / "d", "rlds"))
    shards = sorted((tmp_path / "a").rglob("*.tfrecord*"))
    assert len(shards) == 3
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "b" / shard.relative_to(tmp_path / "a")).read_bytes()


def test_odd_images_become_av1_and_h264_is_refused_by_what_works(tmp_path):
    """CASES 24 and 65: AV1 takes odd sizes, H.264 refuses them; the message names what takes them."""
    path = tmp_path / "set.hdf5"
    write_hdf5(path, [make_episode(0, size=33)])
    with pytest.raises(
        DatasetError, match=r"33×33, and H\.264 needs even sizes; --images av1 .*--images image"
    ):
        convert(request(path, tmp_path / "h264", "lerobot", storage="h264"))
    assert not (tmp_path / "h264").exists()
    convert(request(path, tmp_path / "av1", "lerobot", storage="av1"))
    assert SourceRequest(tmp_path / "av1").open()[0].images["primary"][3].shape == (33, 33, 3)


def test_episodes_whose_actions_mean_something_else_are_left_out(tmp_path):
    """A dataset has one action space: in LeRobot it stands once, in the entry of `action`."""
    first, second = make_episode(0), make_episode(1)
    other = replace(second, space=replace(second.space, frame="tool"))
    path = tmp_path / "set.hdf5"
    write_hdf5(path, [first, other])
    report = convert(request(path, tmp_path / "d", "lerobot"))
    assert report.episodes == 1
    assert "frame: 'base' here, 'tool' there" in report.skipped[0].reason
