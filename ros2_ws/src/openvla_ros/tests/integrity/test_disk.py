"""A full disk is one clear line, whichever library writes."""

import errno
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from support.full_disk import files_of_at_most

from openvla_ros.data.episodes.video_files import VideoWriter
from openvla_ros.errors import CheckpointError, DatasetError
from openvla_ros.integrity.disk import free_space, writing
from openvla_ros.sim.video import VideoWriter as SimulationVideo

NOISE = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3)).astype(np.uint8)


def write_video(path):
    with VideoWriter(path, 5.0, "h264") as video:
        for image in NOISE:
            video.add(image)


def write_simulation_video(path):
    video = SimulationVideo(path, 64, 64, 5.0)
    try:
        for image in NOISE:
            video.write(image)
    finally:
        video.close()


WRITERS = {
    "safetensors": lambda path: save_file({"noise": NOISE}, path),
    "parquet": lambda path: pq.write_table(pa.table({"noise": NOISE.reshape(-1)}), path),
    "numpy": lambda path: np.savez(path, noise=NOISE),
    "text": lambda path: path.write_text("x" * 100_000, encoding="utf-8"),
    "video": write_video,
    "simulation video": write_simulation_video,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_library_that_meets_a_full_disk_gives_one_line(tmp_path, name):
    path = tmp_path / ("file.mp4" if "video" in name else "file.npz")
    refused = pytest.raises(DatasetError, match=r"File too large \(\d+\.\d of \d+\.\d MB are free in /")
    with refused as caught, files_of_at_most(20_000), writing(path):
        WRITERS[name](path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["I/O error: No space left on device (os error 28)", "(errno = 28, error ...)"]
)
def test_the_reason_is_found_in_the_text_of_a_library(tmp_path, text):
    with pytest.raises(CheckpointError, match="new/weights: No space left on device"):  # noqa: SIM117
        with writing(tmp_path / "new/weights", CheckpointError):
            raise RuntimeError(text)


@pytest.mark.parametrize("name", ["file", "file.part", "folder/file"])
def test_a_path_that_cannot_be_made_is_one_line(tmp_path, name):
    (tmp_path / "blocked").write_text("a file, not a folder")
    path = tmp_path / "blocked" / name
    refused = pytest.raises(
        DatasetError, match=f"cannot write {re.escape(str(path))}: (Not a dir|File exists)"
    )
    with refused, writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with refused, writing(path):
        path.with_name(f"{path.name}.part").write_text("x")


def test_other_errors_pass_as_they_are(tmp_path):
    for error in (
        ValueError("of 28 values"),
        FileNotFoundError(errno.ENOENT, "no"),
        DatasetError("errno 28"),
    ):
        with pytest.raises(type(error), match=re.escape(str(error))) as caught, writing(tmp_path):
            raise error
        assert caught.value is error


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path):
    assert free_space(tmp_path / "a" / "b").endswith(f"MB are free in {tmp_path}")
