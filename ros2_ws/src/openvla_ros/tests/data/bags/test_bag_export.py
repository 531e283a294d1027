"""Episodes as rosbag2 folders: the same numbers back, and a bag that rosbags opens."""

import numpy as np
import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from support.generated_episodes import assert_same_episode, make_episode

from openvla_ros.data.bags.bag_export import ExportedBagSource, write_episode
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.errors import DatasetError


@pytest.mark.parametrize("jpeg", [False, True])
def test_export_and_import_give_the_same_numbers(tmp_path, jpeg):
    episodes = [make_episode(i, 4 + i, jpeg=jpeg) for i in range(3)]
    for index, episode in enumerate(episodes):
        write_episode(tmp_path / f"episode_{index:06d}", episode)
    source = SourceRequest(tmp_path).open()
    assert (source.format, len(source)) == ("bag", 3)
    for index, episode in enumerate(episodes):
        assert_same_episode(source[index], episode)
        if jpeg:
            assert source[index].images["wrist"].encoded(2) == episode.images["wrist"].encoded(2)


def test_rosbags_reads_the_steps(tmp_path):
    episode = make_episode(0, 5)
    write_episode(tmp_path / "episode_000000", episode)
    store = get_typestore(Stores.ROS2_KILTED)
    seen = {}
    with Reader(tmp_path / "episode_000000") as reader:
        for connection, stamp, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            seen.setdefault(connection.topic, []).append((stamp, message))
    assert {topic: len(messages) for topic, messages in seen.items()} == {
        "/instruction": 1, "/joint_states": 5, "/controller/current_pose": 5, "/policy/action_chunk": 5,
        "/camera/primary/image_raw": 5, "/camera/wrist/image_raw": 5,
    }  # fmt: skip
    assert seen["/instruction"][0][1].data == episode.instruction
    for index, (stamp, chunk) in enumerate(seen["/policy/action_chunk"]):
        assert stamp == episode.stamps_ns[index]
        assert tuple(chunk.joint_names) == episode.space.names
        np.testing.assert_array_equal(chunk.points[0].positions, episode.actions[index])
    image = seen["/camera/wrist/image_raw"][3][1]
    np.testing.assert_array_equal(image.data.reshape(32, 32, 3), episode.images["wrist"][3])


def test_a_cut_off_bag_is_a_dataset_error(tmp_path):
    write_episode(tmp_path / "episode", make_episode(0))
    (path,) = (tmp_path / "episode").glob("*.mcap")
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DatasetError):
        ExportedBagSource(tmp_path / "episode")[0].images["wrist"][5]
