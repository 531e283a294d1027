"""Videos of others: a first image that is not at 0, sizes that are odd, key frames far apart."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from openvla_ros.data.episodes import video_files
from openvla_ros.data.episodes.video_files import VideoFrames, VideoWriter, check_length
from openvla_ros.errors import InvalidValueError


def late_video(path, first_pts, count=6, rate=5):
    """A video whose first image has the time first_pts / rate (torchcodec's pull request 1209)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "2", "bf": "0", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index * 40, np.uint8), format="rgb24")
            frame.pts = index + first_pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        return float(first.time)


@pytest.mark.parametrize("first_pts", [0, 1, 2, 7])
def test_images_are_counted_from_the_first_one(tmp_path, first_pts):
    """CASES 21: with a first image at one step every image was that of the step before, without a word."""
    path = tmp_path / "a.mp4"
    assert late_video(path, first_pts) == pytest.approx(first_pts / 5)
    check_length(path, 0.0, 6, 5)
    for start, count in ((0.0, 6), (0.4, 4)):
        frames = VideoFrames(path, start, count, 5)
        for index in (2, 0, 3, 1):
            shown = round(float(frames[index].mean()) / 40)
            assert shown == index + round(start * 5), (start, index)


@pytest.mark.parametrize(("height", "width"), [(96, 127), (95, 127), (33, 32)])
def test_av1_takes_odd_sizes(tmp_path, height, width):
    """CASES 65; H.264 in 4:2:0 is what refuses them."""
    with VideoWriter(tmp_path / "a.mp4", 5, "av1") as writer:
        for value in (0, 100, 200):
            writer.add(np.full((height, width, 3), value, np.uint8))
    image = VideoFrames(tmp_path / "a.mp4", 0.0, 3, 5)[1]
    assert image.shape == (height, width, 3)
    assert abs(float(image.mean()) - 100) < 3
    with (
        VideoWriter(tmp_path / "b.mp4", 5, "h264") as writer,
        pytest.raises(InvalidValueError, match=r"H\.264 needs even sizes.*AV1 takes them"),
    ):
        writer.add(np.zeros((height, width, 3), np.uint8))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("every", "between"), [(2, 0), (7, 2), (60, 0)])
def test_any_order_gives_the_images_of_reading_in_order(tmp_path, monkeypatch, every, between, known):
    path, count = tmp_path / "a.mp4", 60
    with av.open(str(path), "w") as container:
        options = {"g": str(every), "bf": str(between), "crf": "10"}
        stream = container.add_stream("libx264", rate=5, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index * 4, np.uint8), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if not known:  # as in older versions of PyAV
        timeline = video_files._timeline(path, path.stat().st_mtime_ns)
        unknown = replace(timeline, keys_s=np.zeros(0))
        monkeypatch.setattr(video_files, "_timeline", lambda *_: unknown)
    frames = VideoFrames(path, 0.0, count, 5)
    for index in np.random.default_rng(0).integers(0, count, 150):
        np.testing.assert_array_equal(frames[int(index)], shown[index])


def test_a_key_frame_on_the_way_is_where_decoding_begins(tmp_path):
    path, count = tmp_path / "a.mp4", 40
    with VideoWriter(path, 5, "h264") as writer:  # a key frame every 2 images
        for value in range(count):
            writer.add(np.full((64, 64, 3), value * 5, np.uint8))
    frames, began = VideoFrames(path, 0.0, count, 5), []
    frames._seek = lambda index, seek=frames._seek: began.append(index) or seek(index)
    for index in (0, 1, 2, 7, 8, 9, 39, 38):
        assert round(float(frames[index].mean()) / 5) == index
    assert began == [0, 7, 39, 38]  # the others follow the image before


def encoded(path, codec, options, times, rate=10):
    """Write an image a time (in steps of 1 / ``rate``), each of a grey of its own."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times):
            grey = np.full((64, 64, 3), 10 + index * 3, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time / rate), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("stride", [2, 3, 6])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"g": "2", "crf": "10", "x265-params": "log-level=none"}),  # as LeRobot writes "hevc"
        ("libx265", {"g": "12", "crf": "10", "x265-params": "log-level=none"}),
        ("libx264", {"g": "30", "crf": "10", "x264-params": "intra-refresh=1"}),
        ("mpeg4", {"g": "12", "bf": "2", "q": "2"}),
    ],
)
def test_key_frames_that_are_decoded_before_they_are_shown_are_found(tmp_path, codec, options, stride):
    path = encoded(tmp_path / "a.mp4", codec, options, range(60))
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == 60
    order = [*range(0, 60, stride), *np.random.default_rng(0).permutation(60)]
    frames = VideoFrames(path, 0.0, 60, 10)
    for index in order:
        np.testing.assert_array_equal(frames[int(index)], shown[index], err_msg=str(index))


@pytest.mark.parametrize("times", [np.arange(60) * 0.5, np.array([0, 0.6, 1, 1.6, 2, 2.6, 3, 3.6, 4])])
def test_in_any_order_an_image_is_the_one_shown_nearest_to_its_time(tmp_path, times):
    """A video of twice the dataset's rate, and one of a varying rate."""
    path = encoded(tmp_path / "a.mp4", "libx264", {"g": "2", "bf": "0", "crf": "1"}, times)
    count = round(times[-1]) + 1
    for order in (range(count), np.random.default_rng(0).permutation(count)):
        frames = VideoFrames(path, 0.0, count, 10)
        for index in order:
            nearest = int(np.argmin(np.abs(times - index)))
            assert round((float(frames[int(index)].mean()) - 10) / 3) == nearest, index
