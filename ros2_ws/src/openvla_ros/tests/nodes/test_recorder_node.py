"""The recorder node over DDS: what was published is what is in the bag, and the operator is told why not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rosbags.highlevel import AnyReader
from support.fake_robot import PretendedRobot, Spinning, call, init
from support.waiting import wait_until

from openvla_ros.data.bags.bag_reader import BagReader, read_metadata
from openvla_ros.data.datasets.listing import recorded_warnings
from openvla_ros.errors import DatasetError
from openvla_ros.nodes.recorder_node import RecorderNode
from openvla_ros.nodes.recorder_subscriptions import IMAGE_DEPTH
from openvla_ros.profile import dump_profile, load_profile

pytestmark = pytest.mark.ros


@pytest.fixture
def context(ros_domain):
    init()
    yield
    rclpy.try_shutdown()


def profile_file(tmp_path, image_format="raw") -> str:
    profile = load_profile("sim_widowx")
    profile = replace(profile, recording=replace(profile.recording, image_format=image_format))
    path = tmp_path / "robot.yaml"
    path.write_text(dump_profile(profile))
    return str(path)


def test_an_episode_from_start_to_reading(context, tmp_path):
    robot_file = profile_file(tmp_path)
    robot = PretendedRobot(load_profile(robot_file))
    recorder = RecorderNode(robot=robot_file, folder=str(tmp_path / "set"), operator="ada")
    with Spinning(robot, recorder):
        refused = call(robot, "recorder/start")
        assert not refused.success
        assert "an instruction" in refused.message
        robot.say("lift the cube")
        wait_until(lambda: not recorder.missing())
        assert call(robot, "recorder/start").success
        again = call(robot, "recorder/start")
        assert not again.success
        assert "already recording" in again.message
        before = max(robot.sent["images"])  # it may be older than the start
        wait_until(lambda: max(robot.sent["images"]) > before)
        first = max(robot.sent["images"])
        wait_until(lambda: len([s for s in robot.sent["images"] if s > first]) > 20)
        last = max(robot.sent["images"])
        # Some more: what was sent up to the last one has then arrived.
        wait_until(lambda: len([s for s in robot.sent["images"] if s > last]) > 5)
        done = call(robot, "recorder/stop_success")
        assert done.success, done.message
    folder = Path(done.message)
    assert folder.name == "episode_000000"
    metadata = read_metadata(folder)
    assert (metadata.operator, metadata.instruction, metadata.outcome) == ("ada", "lift the cube", "success")
    assert metadata.quality["camera primary rate_hz"]
    with BagReader(folder) as reader:
        for role, sent in (("camera/primary/image_raw", "images"), ("joint_states", "states")):
            stamps = set(reader.stream(role).stamps_ns.tolist())
            assert stamps <= set(robot.sent[sent])
            assert {s for s in robot.sent[sent] if first < s <= last} <= stamps, f"{role}: lost"
        episode = reader.episode()
        assert len(episode) >= 5
        for i in range(len(episode)):
            stamp = int(episode.stamps_ns[i])
            np.testing.assert_array_equal(episode.images["primary"][i], robot.sent["images"][stamp])
            np.testing.assert_array_equal(episode.actions[i], robot.sent["chunks"][stamp])
    with AnyReader([folder]) as bag:
        topics = {c.topic: c for c in bag.connections}
        assert topics["/instruction"].msgcount == 1
        assert topics["/camera/primary/camera_info"].msgcount == 1
        assert topics["/instruction"].ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"


def test_jpeg_discard_rerecord_and_failure(context, tmp_path):
    robot_file = profile_file(tmp_path, "jpeg")
    robot = PretendedRobot(load_profile(robot_file))
    recorder = RecorderNode(robot=robot_file, folder=str(tmp_path / "set"))
    root = tmp_path / "set"
    with Spinning(robot, recorder):
        robot.say("lift the cube")
        wait_until(lambda: not recorder.missing())
        assert not call(robot, "recorder/rerecord").success

        def shoot():
            before = len(robot.sent["chunks"])
            wait_until(lambda: len(robot.sent["chunks"]) > before + 3)

        assert call(robot, "recorder/start").success
        shoot()
        assert call(robot, "recorder/discard").success
        assert [p.name for p in root.iterdir()] == [".lock"]
        assert call(robot, "recorder/start").success
        shoot()
        assert call(robot, "recorder/stop_failure").message.endswith("episode_000000")
        assert call(robot, "recorder/rerecord").message.endswith("episode_000000.recording")
        shoot()
        robot.muted.add("primary")
        wait_until(lambda: any("silent" in w for w in recorder.warnings()))
        assert call(robot, "recorder/stop_success").message.endswith("episode_000000")
        refused = call(robot, "recorder/start") if wait_until(recorder.missing) else None
        assert "camera/primary/image_raw (/camera/primary/image_raw)" in refused.message
    with BagReader(root / "episode_000000") as reader:
        assert reader.metadata.outcome == "success"
        assert "camera primary: silent for" in reader.metadata.quality["warnings"]
        stream = reader.stream("camera/primary/image_raw")
        assert stream.channel.topic == "/camera/primary/image_raw/compressed"
        assert stream.channel.type == "sensor_msgs/msg/CompressedImage"
        episode = reader.episode()
        assert episode.images["primary"].encoded(0).startswith(b"\xff\xd8\xff")


def test_a_node_that_ends_finishes_its_episode_as_unknown(context, tmp_path):
    robot_file = profile_file(tmp_path)
    robot = PretendedRobot(load_profile(robot_file))
    recorder = RecorderNode(robot=robot_file, folder=str(tmp_path / "set"))
    with Spinning(robot, recorder):
        robot.say("lift the cube")
        wait_until(lambda: not recorder.missing())
        assert call(robot, "recorder/start").success
        before = len(robot.sent["chunks"])
        wait_until(lambda: len(robot.sent["chunks"]) > before + 3)
    assert read_metadata(tmp_path / "set" / "episode_000000").outcome == "unknown"


def spin_until(executor, condition, timeout_s=20.0):
    wait_until(condition, timeout_s, lambda: executor.spin_once(timeout_sec=0.05))


@pytest.fixture
def ready(context, tmp_path):
    """A robot and a recorder with an episode in progress, spun only while a test spins them."""
    robot_file = profile_file(tmp_path)
    robot = PretendedRobot(load_profile(robot_file))
    recorder = RecorderNode(robot=robot_file, folder=str(tmp_path / "set"))
    executor = SingleThreadedExecutor()
    for node in (robot, recorder):
        executor.add_node(node)
    robot.say("lift the cube")
    spin_until(executor, lambda: not recorder.missing())
    recorder.begin()
    yield robot, recorder, executor
    recorder.stop()
    executor.shutdown()
    for node in (robot, recorder):
        node.destroy_node()


def test_what_overflows_the_queue_is_counted_told_and_in_the_episode(ready):
    robot, recorder, executor = ready
    spin_until(executor, lambda: len(robot.sent["images"]) > 5)
    for _ in range(IMAGE_DEPTH + 40):  # the recorder stands still meanwhile
        robot.publish_image("primary")
    sent = len(robot.sent["images"])
    spin_until(executor, lambda: len(robot.sent["images"]) > sent)
    spin_until(executor, recorder.warnings)
    folder = recorder.finish("success")
    with BagReader(folder) as reader:
        stored = set(reader.stream("camera/primary/image_raw").stamps_ns.tolist())
        quality = reader.metadata.quality
        episode = reader.episode()
    between = [s for s in robot.sent["images"] if min(stored) <= s <= max(stored)]
    lost = len(between) - len(stored)
    assert lost >= 40
    assert quality["camera/primary/image_raw undelivered"] == str(lost)
    expected = f"{lost} messages undelivered: {lost} of camera/primary/image_raw"
    assert expected in json.loads(quality["warnings"])
    assert expected in list(recorded_warnings(episode))


def test_what_waits_for_the_executor_when_an_episode_ends_is_in_it(ready):
    robot, recorder, executor = ready
    spin_until(executor, lambda: len(robot.sent["images"]) > 5)
    last = [robot.publish_image("primary") or max(robot.sent["images"]) for _ in range(30)]
    folder = recorder.finish("success")
    with BagReader(folder) as reader:
        assert set(last) <= set(reader.stream("camera/primary/image_raw").stamps_ns.tolist())
        assert "undelivered" not in reader.metadata.quality["warnings"]


def test_recording_again_deletes_nothing_where_nothing_can_be_recorded(ready):
    robot, recorder, executor = ready
    kept = recorder.finish("success")
    robot.muted.add("primary")
    spin_until(executor, recorder.missing)
    with pytest.raises(DatasetError, match="missing camera/primary/image_raw"):
        recorder.rerecord()
    assert kept.is_dir()
