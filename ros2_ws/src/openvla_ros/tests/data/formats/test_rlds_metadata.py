"""What RLDS records say of themselves: origin and rate."""

from __future__ import annotations

import numpy as np
import pytest
from support.foreign_rlds import LENGTH, images, write_rlds
from support.generated_episodes import make_episode

from openvla_ros.data.formats.rlds_reader import RldsSource
from openvla_ros.data.formats.rlds_writer import describe_features, shard_name, write_description, write_shard
from openvla_ros.errors import DatasetError

COLUMNS = {  # the convention dobbe is for 3.75 Hz
    "action": np.zeros((LENGTH, 7), np.float32),
    "language_instruction": ["open it"] * LENGTH,
    "observation/wrist_image": images(),
    "is_first": np.arange(LENGTH) == 0,
}


def read(folder, metadata=None, **columns):
    more = {path.replace("__", "/"): column for path, column in columns.items()}
    return RldsSource(write_rlds(folder, "dobbe", [{**COLUMNS, **more}], metadata))[0]


def test_metadata_of_others_is_kept(tmp_path):
    said = {
        "episode_metadata/file_path": "home/3/labels.json",
        "episode_metadata/episode_id": np.int64(17),
        "attributes/location_name": "kitchen",
        "success": np.bool_(True),
        "episode_metadata/embedding": np.zeros(512, np.float32),
    }
    found = read(tmp_path, said).provenance
    assert found["file_path"] == "home/3/labels.json"
    assert found["episode_metadata/episode_id"] == "17"
    assert (found["attributes/location_name"], found["success"]) == ("kitchen", "True")
    assert "episode_metadata/embedding" not in found


@pytest.mark.parametrize("name", ["control_frequency", "control_hz", "fps", "rate_hz"])
def test_another_rate_in_the_metadata_is_refused_with_both(tmp_path, name):
    metadata = {f"episode_metadata/{name}": np.float32(30.0)}
    with pytest.raises(DatasetError, match=rf"{name} is 30; convention dobbe is for 3.75 Hz"):
        read(tmp_path / "other", metadata)
    assert read(tmp_path / "same", {f"episode_metadata/{name}": np.float32(3.75)}).rate_hz == 3.75
    assert read(tmp_path / "text", {f"episode_metadata/{name}": "unknown"}).rate_hz == 3.75


def test_times_of_another_rate_are_refused_with_both(tmp_path):
    thirtieths = (np.arange(LENGTH) / 30.0).astype(np.float32)
    with pytest.raises(DatasetError, match=r"advances by 0.03333 s in a step, which is 30 Hz; .*3.75 Hz"):
        read(tmp_path / "other", observation__timestamp=thirtieths)
    assert read(tmp_path / "same", observation__timestamp=thirtieths * np.float32(8)).rate_hz == 3.75
    # Milliseconds, or a counter: no seconds.
    assert read(tmp_path / "counter", observation__timestamp=np.arange(LENGTH)).rate_hz == 3.75
    assert read(tmp_path / "still", observation__timestamp=np.zeros(LENGTH, np.float32)).rate_hz == 3.75


def test_an_export_names_where_its_episodes_came_from(tmp_path):
    recorded = make_episode(0, provenance={"path": "/recordings/episode_000000"})
    foreign = make_episode(1, provenance={"imported_path": "/b.tfrecord at byte 0", "file_path": "/raw/7"})
    generated = make_episode(2, provenance={})
    out = tmp_path / "demo" / "1.0.0"
    out.mkdir(parents=True)
    episodes = [recorded, foreign, generated]
    size = write_shard(out / shard_name("demo", 0, 1), episodes)
    write_description(out, "demo", describe_features(recorded), [3], [size])
    source = RldsSource(out)
    stored = [source.record(i)[1].text("episode_metadata/file_path") for i in range(3)]
    assert stored == ["/recordings/episode_000000", "/raw/7", "episode_0002"]
