"""The simulated robot over real DDS: a robot's topics at a robot's rates, and a table that is laid anew."""

import signal
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

import av
from diagnostic_msgs.msg import DiagnosticArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from support.node_processes import Listener, NodeProcess
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from openvla_ros.profile import load_profile
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import from_image
from openvla_ros.ros.messages import from_stamp, joint_values, to_joint_trajectory
from openvla_ros.ros.scene_messages import from_markers, to_markers
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.goal import parse_goal

pytestmark = pytest.mark.ros
NODE = "openvla_ros.nodes.simulation_node"
START_S = 120.0  # a busy machine imports slowly


def test_a_scene_survives_being_markers():
    with SimulatedRobot(load_profile("sim_widowx"), find_task("bowl"), seed=5) as robot:
        scene = robot.scene()
    back = from_markers(to_markers(scene, scene.stamp_ns, "base"))
    assert (back.stamp_ns, back.gripper, back.table_m) == (scene.stamp_ns, scene.gripper, scene.table_m)
    assert np.allclose(back.tool.matrix, scene.tool.matrix)
    assert [item.name for item in back.objects] == [item.name for item in scene.objects]
    for a, b in zip(back.objects, scene.objects, strict=True):
        assert a.shape == b.shape
        assert np.allclose(a.pose.matrix, b.pose.matrix)
        assert np.allclose(a.size, b.size)
        assert np.allclose(a.colour, b.colour)


class Robot:
    """The test's side of the robot's topics."""

    def __init__(self, ear: Listener, profile) -> None:
        self.ear, self.profile = ear, profile
        self.states = ear.collect(JointState, "joint_states", qos.EVERY_IN)
        self.images = ear.collect(Image, "camera/primary/image_raw", qos.EVERY_IN)
        self.infos = ear.collect(CameraInfo, "camera/primary/camera_info", qos.EVERY_IN)
        self.scenes = ear.collect(MarkerArray, "simulation/scene", qos.EVERY_IN)
        self.done = ear.collect(Bool, "task/success", qos.EVERY_IN)
        self.diagnostics = ear.collect(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        self.arm = ear.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", qos.COMMAND)
        self.hand = ear.node.create_publisher(
            JointTrajectory, "gripper_controller/joint_trajectory", qos.COMMAND
        )
        self.words = ear.node.create_publisher(String, "instruction", qos.LATCHED)
        self.resetting = ear.node.create_client(Trigger, "simulation/reset")

    def is_up(self) -> bool:
        return bool(
            self.states and self.images and self.infos and self.scenes and self.done
            and self.arm.get_subscription_count() and self.hand.get_subscription_count()
            and self.words.get_subscription_count() and self.resetting.service_is_ready()
        )  # fmt: skip

    def joints(self):
        return joint_values(self.states[-1], self.profile.arm.joints)

    def rests_at(self, goal) -> bool:
        """Whether the arm is at ``goal`` and stays: where a line ends, it is overshot first."""
        still = np.abs(joint_values(self.states[-1], self.profile.arm.joints, "velocity")).max() < 5e-3
        return bool(still) and np.allclose(self.joints(), goal, atol=5e-3)

    def objects(self) -> list[str]:
        """The names of what lies on the table, as last heard."""
        return [item.name for item in from_markers(self.scenes[-1]).objects] if self.scenes else []

    def move(self, names, positions, seconds, publisher=None) -> None:
        message = to_joint_trajectory(names, np.array([positions]), [seconds], 0)
        (publisher or self.arm).publish(message)

    def reset(self) -> str:
        future = self.resetting.call_async(Trigger.Request())
        assert self.ear.spin_until(future.done)
        assert future.result().success
        return future.result().message

    def status(self, name: str) -> dict:
        for message in reversed(self.diagnostics):
            for status in message.status:
                if status.name == f"simulation: {name}":
                    return {"message": status.message} | {v.key: v.value for v in status.values}
        return {}


@pytest.mark.parametrize("name", ["sim_widowx", "sim_franka"])
def test_it_is_a_robot_to_whoever_listens(ros_domain, name, tmp_path):
    profile = load_profile(name)
    video = tmp_path / "demo.mp4"
    parameters = {"robot": name, "task": "reach", "seed": 3, "record_video": video}
    with Listener() as ear, NodeProcess(NODE, parameters) as node:
        robot = Robot(ear, profile)
        assert ear.spin_until(robot.is_up, START_S), node.output

        # Rates, names, sizes, the lens.
        robot.states.clear(), robot.images.clear()
        assert ear.spin_until(lambda: len(robot.states) >= 150 and len(robot.images) >= 15, START_S)
        assert 4.0 < len(robot.states) / len(robot.images) < 25.0
        # Late ticks are caught up on, so single intervals vary; a busy machine misses the rate from below.
        span_ns = from_stamp(robot.states[-1].header.stamp) - from_stamp(robot.states[0].header.stamp)
        assert (len(robot.states) - 1) / span_ns * 1e9 < 120.0
        assert robot.states[-1].name == [*profile.arm.joints, profile.gripper.joint]
        assert from_image(robot.images[-1]).shape == (224, 224, 3)
        assert robot.images[-1].header.frame_id == profile.cameras[0].frame_id
        assert robot.infos[-1].k[0] == pytest.approx(224 / 2 / np.tan(np.radians(54.3 / 2)), rel=1e-3)
        with SimulatedRobot(profile, find_task("reach"), seed=3) as same:
            seen, expected = from_markers(robot.scenes[-1]), same.scene()
            assert [o.name for o in seen.objects] == [o.name for o in expected.objects]
            assert np.allclose(seen.objects[0].position, expected.objects[0].position, atol=1e-3)
            instruction = same.instruction

        # It moves only when it is told to.
        assert np.allclose(robot.joints(), profile.arm.neutral, atol=2e-3)
        goal = np.array(profile.arm.neutral) + 0.1
        robot.move(profile.arm.joints, goal, 0.5)
        robot.move([profile.gripper.joint], [profile.gripper.closed_m], 0.5, robot.hand)
        assert ear.spin_until(lambda: robot.rests_at(goal)), robot.joints() - goal
        closed = profile.gripper.closed_m
        assert ear.spin_until(lambda: abs(robot.states[-1].position[-1] - closed) < 2e-3)

        # Nonsense is counted, and changes nothing.
        robot.move(["elbow"], [0.0], 0.5)
        robot.words.publish(String(data="dance"))
        assert ear.spin_until(lambda: robot.status("commands").get("instruction") == "1")
        assert robot.status("commands")["refused"] == "1"
        assert np.allclose(robot.joints(), goal, atol=5e-3)

        # A new table: other objects, the arm where it was, and the words for it.
        words = robot.reset()
        assert words != instruction
        named = parse_goal(words).object
        robot.scenes.clear()
        assert ear.spin_until(lambda: named in robot.objects())
        assert np.allclose(robot.joints(), goal, atol=5e-3)
        assert ear.spin_until(lambda: robot.status("speed").get("seed") == "4")
        assert robot.status("speed")["renderer"] in ("egl", "osmesa", "rays")
        assert not robot.done[-1].data

        assert node.stop(signal.SIGINT) == 0
    assert "Traceback" not in node.output
    with av.open(str(video)) as film:
        frames = list(film.decode(video=0))
    assert len(frames) > 20
    assert (frames[0].width, frames[0].height) == (640, 480)
    assert frames[0].to_ndarray(format="rgb24").std() > 20


def test_success_is_judged_by_the_newest_instruction(ros_domain):
    """Without a policy: the arm is sent to where kinematics says the named cube is."""
    from openvla_ros.robot.kinematics.chain import KinematicChain
    from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics
    from openvla_ros.values.geometry import Pose, transform_euler_to_matrix

    profile = load_profile("sim_widowx")
    limits = profile.limits
    inverse = InverseKinematics(
        KinematicChain.from_profile(profile.arm),
        limits.joint_lower,
        limits.joint_upper,
        limits.joint_velocity,
    )
    with Listener() as ear, NodeProcess(NODE, {"task": "lift", "seed": 2}) as node:
        robot = Robot(ear, profile)
        assert ear.spin_until(robot.is_up, START_S), node.output
        item = from_markers(robot.scenes[-1]).objects[1]
        robot.words.publish(String(data=f"go to the {item.name}"))
        above = item.position + np.array([0.0, 0.0, 0.035])
        down = transform_euler_to_matrix(profile.arm.state_rotation_offset)
        robot.move(profile.arm.joints, inverse.solve(Pose(above, down), profile.arm.neutral), 1.5)
        assert ear.spin_until(lambda: robot.done[-1].data)
        told = f"go to the {item.name}"  # as it was said, not the usual way to say it
        assert ear.spin_until(lambda: robot.status("speed").get("instruction") == told)
        robot.words.publish(String(data=f"lift the {item.name}"))
        assert ear.spin_until(lambda: not robot.done[-1].data)


def test_simulated_time_runs_at_the_factor_that_was_asked_for(ros_domain):
    parameters = {"publish_clock": True, "real_time_factor": 0.1}  # so slow that any machine keeps up
    with Listener() as ear, NodeProcess(NODE, parameters) as node:
        robot = Robot(ear, load_profile("sim_widowx"))
        clocks = ear.collect(Clock, "/clock", qos.EVERY_IN)
        assert ear.spin_until(lambda: robot.is_up() and bool(clocks), START_S), node.output
        speeds = []
        for _ in range(4):
            first = from_stamp(clocks[-1].clock)
            started = time.monotonic()
            ear.spin_for(0.75)
            wall = time.monotonic() - started
            speeds.append((from_stamp(clocks[-1].clock) - first) * 1e-9 / wall)
        assert np.median(speeds) == pytest.approx(0.1, abs=0.04)
        assert from_stamp(robot.states[-1].header.stamp) < 600 * 10**9, "stamps are simulated time"
        assert abs(from_stamp(robot.states[-1].header.stamp) - from_stamp(clocks[-1].clock)) < 2 * 10**8


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"robot": "widowx"}, "robot 'widowx' is not simulated"),
        ({"task": "fly"}, "no task 'fly'; the tasks are reach"),
        ({"lock_step": True}, "lock_step holds the published clock back; it needs publish_clock"),
    ],
)
def test_what_cannot_be_simulated_is_one_line_and_exit_code_1(ros_domain, parameters, words):
    with NodeProcess(NODE, parameters) as node:
        assert node.process.wait(START_S) == 1
        node.stop()
    assert words in node.output
    assert "Traceback" not in node.output
