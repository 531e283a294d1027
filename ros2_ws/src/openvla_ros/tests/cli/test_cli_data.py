"""``openvla convert``, ``episodes`` and ``show``, as a user calls them."""

import json

import h5py
import pytest
from support.fake_recording import steady_run
from support.foreign_lerobot import write_foreign
from support.generated_episodes import make_episode
from support.openvla_program import run

from openvla_ros.data.datasets.conversion import REPORT
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.errors import DatasetError


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.hdf5"
    with Hdf5Writer(path) as writer:
        for i in range(3):
            writer.add(make_episode(i, jpeg=True, size=64))
    return path


@pytest.mark.parametrize("target", ["bag", "rlds", "lerobot", "hdf5"])
def test_convert_and_list(source, tmp_path, target):
    done = run("convert", source, tmp_path / "out", "--to", target, "--images", "h264", "--workers", 1)
    assert f"3 episodes, 18 steps, as {target}" in done.stdout
    assert (tmp_path / "out" / REPORT).is_file()
    out = tmp_path / "out"
    found = json.loads(run("episodes", out, "--json").stdout)
    assert [entry["id"] for entry in found] == [f"episode_{i:04d}" for i in range(3)]
    assert [entry["outcome"] for entry in found] == ["success", "failure", "unknown"]
    assert {entry["steps"] for entry in found} == {6}
    assert found[1]["instruction"] == "put the block 1 on the plate"


def test_the_table_names_a_damaged_episode(source, tmp_path):
    run("convert", source, tmp_path / "out", "--to", "rlds", "--group-size", 1)
    shard = sorted((tmp_path / "out").rglob("*.tfrecord*"))[1]
    shard.write_bytes(shard.read_bytes()[:500])
    listed = run("episodes", tmp_path / "out", code=2).stdout
    assert "cannot be read: episode 1: " in listed
    assert "2 episodes, 12 steps" in listed
    left = run("convert", tmp_path / "out", tmp_path / "again", "--to", "hdf5", code=2)
    assert "skipped: episode 1:" in left.output


def test_a_folder_of_several_hdf5_files_asks_for_one(source, tmp_path):
    (tmp_path / "second.hdf5").write_bytes(source.read_bytes())
    with pytest.raises(DatasetError, match=r"several datasets; choose one: second.hdf5, source.hdf5"):
        run("episodes", tmp_path)


def test_what_endangered_a_recording_and_what_is_unfinished_is_listed(tmp_path):
    steady_run().write(tmp_path / "episode_000000", disk_full="true", clock_jumps="1:5 9:-5")
    (tmp_path / "episode_000001.recording").mkdir()
    listed = run("episodes", tmp_path).stdout
    assert "episode_000000: the disk was full before the end" in listed
    assert "episode_000000: the clock jumped 2 times while recording" in listed
    assert (
        f"unfinished: episode_000001.recording; unless it is being recorded, run: openvla recover {tmp_path}"
        in listed
    )


def test_show_writes_one_self_contained_page(source, tmp_path):
    page = tmp_path / "page.html"
    assert str(page) in run("show", source, "--episode", 2, "--output", page).stdout
    text = page.read_text()
    assert "put the block 2 on the plate" in text
    for needed in (
        "data:image/jpeg;base64",
        "<svg",
        "data:video/mp4;base64",
        "generated",
    ):
        assert needed in text
    assert 'src="http' not in text
    with pytest.raises(DatasetError, match=r"no episode 9; choose 0 \.\. 2"):
        run("show", source, "--episode", 9)


def test_the_bridge_data_is_listed_and_shown(bridge_folder, tmp_path):
    found = json.loads(run("episodes", bridge_folder, "--json").stdout)
    assert (len(found), sum(entry["steps"] for entry in found)) == (25, 225)
    assert found[0]["cameras"] == ["primary", "secondary"]
    run("show", bridge_folder, "--episode", 3, "--output", tmp_path / "b.html", "--no-video")
    assert (tmp_path / "b.html").stat().st_size > 20_000


def test_warnings_of_the_recording_go_with_the_episode(tmp_path):
    odd = {"quality_warnings": '["camera primary was black for 3.0 s"]', "recovered": "true"}
    path = tmp_path / "odd.hdf5"
    space = make_episode(0).space
    actions = make_episode(0).actions.copy()
    actions[2, 0] = 2 * space.upper[0]
    actions[4, :6] = 0.0
    with Hdf5Writer(path) as writer:
        writer.add(make_episode(0, provenance=odd, actions=actions, instruction=""))
    (found,) = json.loads(run("episodes", path, "--json").stdout)
    assert found["warnings"] == [
        "camera primary was black for 3.0 s",
        "recovered: the recorder was killed before the end",
        "no instruction",
        "1 actions beyond the bounds of x",
        "1 of 6 steps command no motion",
    ]
    run("show", path, "--output", tmp_path / "odd.html", "--no-video")
    assert "was black for 3.0 s" in (tmp_path / "odd.html").read_text()


def test_a_rate_must_be_asked_for_and_reaches_what_is_written(tmp_path):
    """CASES 17: 10 Hz deltas through a 5 Hz profile were taken as they are; exit code 1 is CASES 22."""
    folder = write_foreign(tmp_path / "d", fps=10)
    refused = run("episodes", folder, "--profile", "franka", code=1).output
    assert "recorded at 10 Hz; the profile's actions are for 5 Hz" in " ".join(refused.split())
    with pytest.raises(DatasetError, match="recorded at 10 Hz"):
        run("convert", folder, tmp_path / "c", "--to", "rlds", "--profile", "franka")
    run(
        "convert",
        folder,
        tmp_path / "e",
        "--to",
        "lerobot",
        "--images",
        "image",
        "--profile",
        "franka",
        "--rate",
        5,
    )
    (first, second) = json.loads(run("episodes", tmp_path / "e", "--json").stdout)
    assert [first["rate_hz"], first["steps"], second["steps"]] == [5.0, 3, 4]
    assert run("episodes", folder, "--profile", "franka", "--rate", 3, code=1)
    for rate in ("0", "nan", "-1"):
        with pytest.raises(DatasetError, match=f"--rate is {rate}; it must be a rate above 0 Hz"):
            run("episodes", folder, "--profile", "franka", "--rate", rate)


def test_a_dataset_without_episodes_is_no_success(tmp_path):
    """CASES 22: `openvla episodes` exited 0 although there was nothing to read."""
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file.create_group("data").attrs["total"] = 0
    assert "0 episodes" in run("episodes", tmp_path / "set.hdf5", code=1).output
