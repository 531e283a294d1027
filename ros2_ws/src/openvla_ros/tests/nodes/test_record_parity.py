"""A recorded run and the live run are the same: observations and actions, to the last bit.

Real nodes in processes of their own: simulated robot, controller, recorder, and the policy node with
a policy that remembers everything it saw and answered.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")

from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.node_processes import Listener, NodeProcess
from support.waiting import wait_until

from openvla_ros.data.bags.bag_reader import BagReader
from openvla_ros.profile import dump_profile, load_profile
from openvla_ros.ros import qos

pytestmark = pytest.mark.ros

POLICY = """
import os, sys
from pathlib import Path
import numpy as np
import openvla_ros.nodes.policy_node as module
from openvla_ros.values.action import ActionChunk

class Remembers:
    description = "random steps, all remembered"

    def __init__(self, space):
        self.space = space
        self.rng = np.random.default_rng(0)
        self.folder = Path(os.environ["REMEMBER_IN"])

    def infer(self, o):
        action = self.rng.uniform(self.space.lower, self.space.upper) * 0.1
        action[-1] = self.rng.integers(2)
        np.savez(self.folder / "part.tmp.npz", image=o.images["primary"], joints=o.joint_positions,
            pose=o.pose.matrix, gripper=o.gripper, instruction=o.instruction, action=action)
        (self.folder / "part.tmp.npz").rename(self.folder / f"{o.stamp_ns}.npz")
        return ActionChunk(action[None], o.stamp_ns, self.space)

    def reset(self):
        pass

    def close(self):
        pass

module.load_policy = lambda options, profile, scene: Remembers(profile.space())
module.main()
"""


JOINTS = load_profile("sim_widowx").arm.joints


def patient_robot(folder: Path) -> Path:
    """The simulated WidowX with generous ages: the machine that runs the tests may be busy."""
    sim = load_profile("sim_widowx")
    profile = replace(
        sim,
        cameras=(replace(sim.cameras[0], max_age_s=5.0),),
        state=replace(sim.state, max_age_s=5.0),
        control=replace(sim.control, chunk_max_age_s=5.0, hold_after_s=5.0),
        recording=replace(sim.recording, image_format="raw"),
    )
    path = folder / "patient.yaml"
    path.write_text(dump_profile(profile))
    return path


def call(listener: Listener, name: str) -> Trigger.Response:
    client = listener.node.create_client(Trigger, name)
    assert listener.spin_until(client.service_is_ready, 30), name
    future = client.call_async(Trigger.Request())
    assert listener.spin_until(future.done, 30), name
    return future.result()


@pytest.mark.timeout(400)
def test_a_recorded_run_reads_back_as_the_policy_saw_it(ros_domain, tmp_path, monkeypatch):
    remembered = tmp_path / "remembered"
    remembered.mkdir()
    monkeypatch.setenv("REMEMBER_IN", str(remembered))
    robot = {"robot": patient_robot(tmp_path)}
    with (
        NodeProcess("openvla_ros.nodes.simulation_node", robot) as simulation,
        NodeProcess("openvla_ros.nodes.controller_node", robot) as controller,
        NodeProcess("openvla_ros.nodes.recorder_node", {**robot, "folder": tmp_path / "set"}) as recorder,
        NodeProcess(POLICY, robot) as policy,
        Listener("operator") as listener,
    ):
        log = lambda: "".join(node.output for node in (simulation, controller, recorder, policy))  # noqa: E731
        words = listener.node.create_publisher(String, "instruction", qos.LATCHED)
        idle = listener.collect(String, "policy/instruction", qos.LATCHED)
        assert listener.spin_until(lambda: idle, 120), log()  # what is said before it listens is ignored
        words.publish(String(data="lift the red cube"))
        started = lambda: call(listener, "recorder/start").success  # noqa: E731
        wait_until(started, 60.0, lambda: listener.spin_for(0.5), log)
        seen = lambda: len(list(remembered.glob("[0-9]*.npz")))  # noqa: E731
        before = seen()
        assert listener.spin_until(lambda: seen() >= before + 15, 90), log()
        done = call(listener, "recorder/stop_success")
        assert done.success, log()
        for node in (policy, recorder, controller, simulation):
            assert node.stop() == 0, node.output
    with BagReader(Path(done.message)) as reader:
        episode = reader.episode()
        assert "steps_left_out" not in episode.provenance
        assert len(episode) >= 8
        states, late = {}, 0  # the joints of each state → its stamp
        for message in reader.messages("joint_states"):
            by_name = dict(zip(message.value.name, message.value.position, strict=True))
            states[tuple(by_name[name] for name in JOINTS)] = message.stamp_ns
        for i, stamp in enumerate(episode.stamps_ns):
            live, read = np.load(remembered / f"{stamp}.npz"), episode.observation(i)
            np.testing.assert_array_equal(read.images["primary"], live["image"])
            if states.get(tuple(live["joints"]), stamp) < stamp and tuple(live["joints"]) != tuple(
                read.joint_positions
            ):
                late += 1  # on a busy machine the state beside the image had not arrived at the policy yet
            else:
                np.testing.assert_array_equal(read.joint_positions, live["joints"])
                np.testing.assert_array_equal(read.pose.matrix, live["pose"])
                assert read.gripper == live["gripper"]
            assert read.instruction == str(live["instruction"])
            np.testing.assert_array_equal(episode.actions[i], live["action"])
        assert late <= len(episode) // 4
        # Every chunk that was published in between is a step, unless the controller refused it.
        inferred = {int(path.stem) for path in remembered.glob("[0-9]*.npz")}
        within = {s for s in inferred if episode.stamps_ns[0] <= s <= episode.stamps_ns[-1]}
        refused = {
            int(pair.value)
            for verdict in reader.messages("controller/verdict", stamped=False)
            for pair in verdict.value.values
            if pair.key == "chunk_stamp_ns"
        }
        published = {chunk.stamp_ns for chunk in reader.chunks()}
        assert (within & published) - refused == set(episode.stamps_ns.tolist())
        assert np.ptp(episode.joint_positions, axis=0).max() > 0.01, "the arm did not move"
        assert reader.metadata.quality
        target = reader.episode("target")
        assert len(target) > 5
