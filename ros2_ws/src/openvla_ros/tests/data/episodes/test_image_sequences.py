"""Images of an episode: a loop over them ends, and kept ones are decoded once."""

import numpy as np
import pytest
from support.generated_episodes import make_episode

from openvla_ros.data.bags.bag_export import write_episode
from openvla_ros.data.datasets.conversion import ConversionRequest, convert
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.encoded_images import KeptFrames, encoded_frame


@pytest.mark.parametrize(
    ("target", "storage"),
    [("bag", "image"), ("rlds", "image"), ("hdf5", "image"), ("lerobot", "image"), ("lerobot", "av1")],
)
def test_a_loop_over_the_images_ends_after_the_last(tmp_path, target, storage):
    write_episode(tmp_path / "bags" / "episode_000000", make_episode(steps=5, jpeg=True))
    request = ConversionRequest(SourceRequest(tmp_path / "bags"), tmp_path / "out", target, storage=storage)
    convert(request)
    images = SourceRequest(tmp_path / "out").open()[0].images["primary"]
    looped = list(images)
    assert len(looped) == len(images) == 5
    np.testing.assert_array_equal(looped[4], images[-1])
    with pytest.raises(IndexError):
        images[5]


class CountedFrames:
    """Images (4, 4, 3) that count how often each is decoded."""

    def __init__(self, count):
        self.decoded = [0] * count

    def __len__(self):
        return len(self.decoded)

    def __getitem__(self, index):
        self.decoded[index] += 1
        return np.full((4, 4, 3), index, np.uint8)

    def encoded(self, index):
        return bytes([index])


def test_kept_images_are_decoded_once_as_far_as_they_fit():
    counted = CountedFrames(5)
    kept = KeptFrames(counted, most_bytes=3 * 48)
    for _ in range(3):
        assert [int(image[0, 0, 0]) for image in kept] == [0, 1, 2, 3, 4]
    assert counted.decoded == [1, 1, 1, 3, 3]
    assert encoded_frame(kept, 3) == b"\x03"
