"""What crosses DDS between processes is, to the bit, what the same model gives offline on the same frames.

Three processes: the camera node plays real BridgeData V2 episodes at 5 Hz (in lock step, because the
machine that runs the tests may be busy), the policy node runs the reference checkpoint, this one
listens, publishes joint states and compares.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from PIL import Image as PILImage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from support.golden_checkpoints import REFERENCE
from support.node_processes import Listener, NodeProcess
from support.waiting import wait_until
from trajectory_msgs.msg import JointTrajectory

from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.model.inference.options import LoadOptions
from openvla_ros.model.inference.predictor import load_predictor
from openvla_ros.profile import dump_profile, load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import from_image
from openvla_ros.ros.messages import from_chunk_message, from_stamp, to_image

pytestmark = pytest.mark.ros

CHECKPOINT = REFERENCE / "checkpoint"
KEY = "bridge_orig"
SIM = load_profile("sim_widowx")
# The episodes' own rate; generous ages, because the machine that runs the tests may be busy.
CAMERA = replace(SIM.cameras[0], rate_hz=5.0, max_age_s=5.0)
PROFILE = replace(SIM, cameras=(CAMERA,), state=replace(SIM.state, max_age_s=5.0))


class Watcher(Listener):
    """Says what to do, publishes joint states, keeps images and chunks by their stamps."""

    def __init__(self, namespace=""):
        super().__init__("watcher", namespace)
        self.received, self.chunks = {}, {}
        subscribe = self.node.create_subscription
        subscribe(Image, "camera/primary/image_raw", self._image, qos.COMMAND)
        subscribe(JointTrajectory, "policy/action_chunk", self._chunk, qos.COMMAND)
        self.current = self.collect(String, "policy/instruction", qos.LATCHED)
        self.words = self.node.create_publisher(String, "instruction", qos.LATCHED)
        self.images = self.node.create_publisher(Image, "camera/primary/image_raw", qos.STREAM_OUT)
        self.states = self.node.create_publisher(JointState, "joint_states", qos.STREAM_OUT)
        self.node.create_timer(0.05, self._state)

    def _image(self, message):
        self.received[from_stamp(message.header.stamp)] = from_image(message)

    def _chunk(self, message):
        chunk = from_chunk_message(message, PROFILE.space(), PROFILE.action_frame_id())
        self.chunks[chunk.observation_stamp_ns] = chunk

    def _state(self):
        names = [*PROFILE.arm.joints, PROFILE.gripper.joint]
        message = JointState(name=names, position=[0.0] * len(names))
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.states.publish(message)

    def tell(self, instruction):
        assert self.spin_until(lambda: self.words.get_subscription_count() >= 2, 120)
        self.words.publish(String(data=instruction))
        assert self.spin_until(lambda: self.current and self.current[-1].data == instruction, 120)
        self.received.clear()
        self.chunks.clear()


@pytest.fixture(scope="module")
def profile_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "bridge.yaml"
    path.write_text(dump_profile(PROFILE))
    return path


def policy_node(profile_file, remaps=(), **parameters):
    parameters = {
        "robot": profile_file, "policy": "openvla", "checkpoint": CHECKPOINT, "unnorm_key": KEY,
        "device": "cpu", "dtype": "fp32", "offline": "true", **parameters,
    }  # fmt: skip
    return NodeProcess("openvla_ros.nodes.policy_node", parameters, remaps)


@pytest.fixture(scope="module")
def live(ros_domain, profile_file, bridge_folder):
    with Watcher() as watcher, policy_node(profile_file) as node:
        assert watcher.spin_until(lambda: watcher.node.count_publishers("policy/action_chunk"), 120), (
            node.output
        )
        offline = load_predictor(CHECKPOINT, LoadOptions(unnorm_key=KEY, dtype=torch.float32))
        episodes = SourceRequest(bridge_folder).open()
        yield SimpleNamespace(
            watcher=watcher, node=node, offline=offline, episodes=episodes, path=bridge_folder,
            profile_file=profile_file,
        )  # fmt: skip


def play_and_compare(live, index):
    watcher, episode = live.watcher, live.episodes[index]
    frames = [episode.images["primary"][i] for i in range(len(episode.actions))]
    watcher.tell(episode.instruction)
    camera = {
        "robot": live.profile_file, "source": "episode", "path": live.path, "episode": index,
        "wait_for_subscribers": 2, "lock_step": "true",
    }  # fmt: skip
    with NodeProcess("openvla_ros.nodes.camera_node", camera) as node:
        complete = watcher.spin_until(lambda: len(watcher.chunks) == len(frames), 120)
        assert complete, f"{len(watcher.chunks)} of {len(frames)} chunks\n{node.output}\n{live.node.output}"
        assert node.stop() == 0
    stamps = sorted(watcher.received)
    assert sorted(watcher.chunks) == stamps
    assert np.diff(stamps).min() >= 200_000_000
    for frame, stamp in zip(frames, stamps, strict=True):
        np.testing.assert_array_equal(watcher.received[stamp], frame)
        expected, chunk = live.offline.predict([frame], episode.instruction), watcher.chunks[stamp]
        np.testing.assert_array_equal(chunk.actions, expected.actions)
        np.testing.assert_array_equal(chunk.probability, expected.probability)
        np.testing.assert_array_equal(chunk.entropy, expected.entropy)
    return np.concatenate([watcher.chunks[stamp].actions for stamp in stamps])


def test_real_frames_through_three_processes_give_the_offline_actions(live):
    actions = [play_and_compare(live, index) for index in (0, 1)]
    # A policy that ignored its images would pass with the same action at every step.
    assert len(np.unique(np.concatenate(actions), axis=0)) > 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_step_of_all_episodes(live):
    for index in range(len(live.episodes)):
        play_and_compare(live, index)


@pytest.mark.parametrize(("case", "center_crop"), [(0, False), (1, True)])
def test_the_golden_images_give_the_golden_actions(ros_domain, profile_file, case, center_crop):
    path = REFERENCE / f"case_{case:02d}.npz"
    if not path.is_file():
        pytest.skip("this case is not in the committed part of the reference data")
    description = json.loads((REFERENCE / "cases.json").read_text())[case]
    assert description["center_crop"] == center_crop
    with np.load(path) as numbers:
        golden = numbers[f"actions::{KEY}"]
    image = np.asarray(PILImage.open(REFERENCE / "images" / description["image"]).convert("RGB"))
    # In a namespace of its own: the node of the other tests may still be running.
    options = {"remaps": [f"__ns:=/case_{case}"], "center_crop": str(center_crop).lower()}
    with Watcher(f"case_{case}") as watcher, policy_node(profile_file, **options) as node:
        watcher.tell(description["instruction"])
        assert watcher.spin_until(lambda: watcher.images.get_subscription_count() >= 2), node.output

        def show():
            watcher.images.publish(to_image(image, watcher.node.get_clock().now().nanoseconds, "lens"))
            watcher.spin_for(0.3)

        wait_until(lambda: watcher.chunks, 120.0, show, lambda: node.output)
        for chunk in watcher.chunks.values():
            np.testing.assert_allclose(chunk.actions[0], golden, rtol=0, atol=1e-12)
