"""The recorder node over DDS: what was published is what is in the bag, and the operator is told why not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import rclpy
from ros_robot import PretendedRobot, Spinning, call, init, wait_for
from rosbags.highlevel import AnyReader

from openvla_ros.data.bag_reader import BagReader, read_metadata
from openvla_ros.nodes.recorder_node import RecorderNode
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
        wait_for(lambda: not recorder.missing())
        assert call(robot, "recorder/start").success
        again = call(robot, "recorder/start")
        assert not again.success
        assert "is being recorded; stop it first" in again.message
        first = max(robot.sent["images"])
        wait_for(lambda: len([s for s in robot.sent["images"] if s > first]) > 20)
        last = max(robot.sent["images"])
        wait_for(lambda: max(robot.sent["images"]) > last)
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
        wait_for(lambda: not recorder.missing())
        assert not call(robot, "recorder/rerecord").success

        def shoot():
            before = len(robot.sent["chunks"])
            wait_for(lambda: len(robot.sent["chunks"]) > before + 3)

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
        wait_for(lambda: any("silent" in w for w in recorder.warnings()))
        assert call(robot, "recorder/stop_success").message.endswith("episode_000000")
        refused = call(robot, "recorder/start") if wait_for(recorder.missing) else None
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
        wait_for(lambda: not recorder.missing())
        assert call(robot, "recorder/start").success
        before = len(robot.sent["chunks"])
        wait_for(lambda: len(robot.sent["chunks"]) > before + 3)
    assert read_metadata(tmp_path / "set" / "episode_000000").outcome == "unknown"
