"""Video files as cameras: any codec, upright, and an error where no image comes."""

import os
import struct

import av
import cv2
import numpy as np
import pytest
from support.real_time import real_time_threads

from openvla_ros.cameras.video_file import VideoFileCamera
from openvla_ros.data.episodes.video_files import VideoWriter
from openvla_ros.errors import DeviceError

LEVELS = range(0, 250, 50)
TURNED = struct.pack(">9I", 0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000)  # of an MP4: by 90 degrees
UNTURNED = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def image_of(level):
    image = np.full((48, 64, 3), (250 - level, 0, level), np.uint8)
    image[:24, :32] = 255  # a bright corner
    return image


def write(path, codec="av1", rate_hz=12.0):
    with VideoWriter(path, rate_hz, codec) as writer:
        for level in LEVELS:
            writer.add(image_of(level))
    return path


def play(path):
    camera = VideoFileCamera(path)
    camera.open()
    frames = []
    while (frame := camera.read(1.0)) is not None:
        frames.append(frame.rgb)
    assert camera.read(1.0) is None
    camera.close()
    return camera.playback_rate_hz, frames


def motion_jpeg(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG")
    for level in LEVELS:
        writer.write(cv2.cvtColor(image_of(level), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.mark.parametrize("kind", ["av1", "h264", "mjpeg"])
def test_every_image_at_the_files_own_rate(tmp_path, kind):
    """OpenCV 5.0.0.93 opens AV1, reports its rate and length, and reads nothing."""
    path = motion_jpeg(tmp_path / "a.avi") if kind == "mjpeg" else write(tmp_path / "a.mp4", kind)
    rate_hz, frames = play(path)
    assert rate_hz == 12.0
    assert len(frames) == len(LEVELS)
    for level, frame in zip(LEVELS, frames, strict=True):
        assert np.abs(frame.astype(int) - image_of(level)).mean() < 6


def test_a_video_can_be_played_again_from_the_start(tmp_path):
    camera = VideoFileCamera(write(tmp_path / "a.mp4"))
    firsts = []
    for _ in range(2):
        camera.open()
        firsts.append(camera.read(1.0).rgb)
        camera.read(1.0)
    camera.close()
    assert np.array_equal(*firsts)
    with pytest.raises(DeviceError, match="not open"):
        camera.read(1.0)


def test_a_turned_video_is_shown_as_opencv_shows_it(tmp_path):
    path = write(tmp_path / "a.mp4", "h264")
    data = path.read_bytes()
    at = data.rindex(UNTURNED)  # the track's matrix; the first one is the film's
    path.write_bytes(data[:at] + TURNED + data[at + len(TURNED) :])
    done, theirs = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).read()
    assert done
    frame = play(path)[1][0]
    assert frame.shape == (64, 48, 3)
    assert np.abs(frame.astype(int) - theirs[..., ::-1]).mean() < 6


def test_files_without_an_image_are_errors(tmp_path):
    with pytest.raises(DeviceError, match="no such file"):
        VideoFileCamera(tmp_path / "none.mp4").open()
    (tmp_path / "bad.mp4").write_bytes(b"rubbish")
    with pytest.raises(DeviceError, match="not a video that can be played"):
        VideoFileCamera(tmp_path / "bad.mp4").open()
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(DeviceError, match="contains no video"):
        VideoFileCamera(tmp_path / "sound.wav").open()


def test_a_video_whose_images_cannot_be_decoded_is_an_error(tmp_path):
    path = write(tmp_path / "a.mp4", "h264")
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    path.write_bytes(data[:start] + bytes(length) + data[start + length :])
    with pytest.raises(DeviceError, match=r"a\.mp4: (holds no image \(codec h264\)|not a video that)"):
        VideoFileCamera(path).open()


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="needs Linux's scheduling policies")
def test_decoding_leaves_the_scheduling_policy_alone(tmp_path):
    """Unlike the AV1 encoder (``data.episodes.scheduling``), the decoder starts ordinary threads."""
    camera = VideoFileCamera(write(tmp_path / "a.mp4"))
    before = real_time_threads()
    camera.open()
    camera.read(1.0)
    assert not real_time_threads().items() - before.items()
    camera.close()
