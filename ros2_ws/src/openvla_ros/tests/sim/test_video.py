"""Videos of the simulation: the caption is what the robot was told, and all of it is in the image."""

import av
import numpy as np
import pytest

from openvla_ros.sim.video import Caption, VideoWriter

WIDTH, HEIGHT = 640, 480


def test_the_caption_is_the_words_that_were_said():
    told = Caption("go to the red cube")
    assert told.text(success=False) == "go to the red cube"
    assert told.text(success=True) == "go to the red cube  [done]"
    # What is done is an earlier instruction, not this one.
    assert Caption("dance", understood=False).text(success=True) == "dance  [not understood]"


def written(path, caption):
    writer = VideoWriter(path, WIDTH, HEIGHT, 5.0)
    for _ in range(3):
        writer.write(np.zeros((HEIGHT, WIDTH, 3), np.uint8), caption)
    writer.close()
    with av.open(str(path)) as film:
        return next(film.decode(video=0)).to_ndarray(format="rgb24").max(axis=2)


@pytest.mark.parametrize("words", ["lift it", "put the cube on the plate; " * 4])
def test_a_caption_of_any_length_ends_within_the_image(tmp_path, words):
    image = written(tmp_path / "video.mp4", words)
    columns = np.flatnonzero(image.max(axis=0) > 100)
    assert 5 <= columns.min() < 20
    assert columns.max() <= WIDTH - 5
    assert columns.max() > 40
    assert not written(tmp_path / "none.mp4", "")[: HEIGHT - 30].max() > 100
