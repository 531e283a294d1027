"""Records numbered messages without end, to be killed: ``python recorder_process.py FOLDER EPISODE_S``."""

import sys
import time
from pathlib import Path

from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.bags.recording_folder import Recordings
from openvla_ros.data.bags.rosbag2_writer import Topic
from openvla_ros.data.recording.episode_recorder import EpisodeRecorder, RecordedTopic

TYPE = "std_msgs/msg/String"
NAMES = ("/counted", "/large")
SIZES = (40, 300_000)


def payload(number: int, size: int) -> bytes:
    """A std_msgs/String in CDR whose text is its number, padded to ``size`` characters."""
    text = f"{number:<{size}}".encode() + b"\0"
    return b"\x00\x01\x00\x00" + len(text).to_bytes(4, "little") + text


def number_of(data: bytes) -> int:
    return int(bytes(data[8:]).rstrip(b"\0 "))


def recorder(root: Path, alarm=lambda level, text: None, **options) -> EpisodeRecorder:
    definition = message_definition(TYPE)
    topics = [RecordedTopic(Topic(name, TYPE, definition)) for name in NAMES]
    return EpisodeRecorder(Recordings(root), topics, alarm, **options)


def main(root: Path, episode_s: float) -> None:
    recording = recorder(root)
    sys.stdout.write("READY\n")
    sys.stdout.flush()
    while True:
        recording.start({"openvla_ros.episode": {"instruction": "count"}})
        number, end = 0, time.monotonic() + episode_s
        while time.monotonic() < end:
            for name, size in zip(NAMES, SIZES, strict=True):
                recording.write(name, payload(number, size), time.time_ns())
            number += 1
            time.sleep(0.005)
        recording.stop("success")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
