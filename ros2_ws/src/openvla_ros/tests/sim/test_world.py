"""The simulated robots: deterministic, stiff enough, and drawn the same by whatever can draw."""

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError, MissingDependencyError, ProfileError
from openvla_ros.profile import load_profile
from openvla_ros.sim import opengl, renderer
from openvla_ros.sim.mujoco_scene import build_model, robot_model
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot

ROBOTS = ("sim_widowx", "sim_franka")


@pytest.fixture(params=ROBOTS)
def profile(request):
    return load_profile(request.param)


@pytest.fixture
def robot(profile):
    with SimulatedRobot(profile, find_task("lift"), seed=3, renderer_kind="rays") as world:
        yield world


def wander(world, seconds=1.5):
    """Move every joint and the gripper, and return all that the robot then reports."""
    random = np.random.default_rng(0)
    target = np.array(world.profile.arm.neutral)
    for _ in range(round(seconds * 100)):
        target = target + random.uniform(-0.005, 0.005, len(target))
        world.command_joints(target)
        world.command_gripper(float(random.uniform(0.0, 1.0)))
        world.step(0.01)
    objects = [item.pose.matrix for item in world.scene().objects]
    return np.concatenate(
        [world.joint_positions, world.joint_velocities, world.joint_efforts, *np.ravel(objects)[None]]
    )


def test_the_same_seed_and_commands_give_the_same_states(profile):
    with SimulatedRobot(profile, find_task("put"), seed=11) as first:
        states = wander(first)
    with SimulatedRobot(profile, find_task("put"), seed=11) as second:
        assert np.array_equal(wander(second), states)
        second.reset(12)
        assert not np.array_equal(wander(second), states)
        second.reset(11)
        assert np.array_equal(wander(second), states), "a reset forgets what was before it"


def test_the_tool_is_where_the_controllers_kinematics_says(robot):
    expected = {"sim_widowx": (0.1202, -0.0191, 0.2467), "sim_franka": (0.3069, 0.0, 0.4869)}
    # [KINEMATICS] forward kinematics of the neutral poses, four digits.
    assert np.allclose(robot.tool.position, expected[robot.profile.name], atol=1e-4)


def test_the_arm_holds_still_and_objects_rest(robot):
    before, objects = robot.joint_positions.copy(), robot.scene().objects
    robot.step(2.0)
    assert np.abs(robot.joint_positions - before).max() < 1e-3
    for was, now in zip(objects, robot.scene().objects, strict=True):
        assert np.linalg.norm(was.position - now.position) < 5e-4
    assert robot.time_s == pytest.approx(2.0)
    assert not robot.success


def test_the_tool_follows_a_ramp_closely(robot):
    # Target-delta labels are ambiguous if the arm lags far behind its commands.
    target, lags = robot.joint_positions.copy(), []
    data = mujoco.MjData(robot._model)
    for i in range(100):
        target[0] += 0.5 * 0.01  # rad: about 0.1 m/s at the tool
        robot.command_joints(target)
        robot.step(0.01)
        if i > 30:
            data.qpos[robot._joint_qpos] = target
            mujoco.mj_kinematics(robot._model, data)
            lags.append(np.linalg.norm(data.xpos[robot._tool] - robot.tool.position))
    assert max(lags) < 0.006


def test_the_gripper_opens_and_closes(robot):
    robot.command_gripper(0.0)
    robot.step(1.0)
    assert robot.gripper_opening < 0.05
    assert robot.gripper_joint[0] == pytest.approx(robot.profile.gripper.closed_m, abs=0.002)
    robot.command_gripper(1.0)
    robot.step(1.0)
    assert robot.gripper_opening > 0.95


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_commands_that_are_no_numbers_are_refused(robot, bad):
    with pytest.raises(InvalidValueError, match="must be finite"):
        robot.command_joints(np.full(len(robot.profile.arm.joints), bad))
    with pytest.raises(InvalidValueError, match="must be finite"):
        robot.command_gripper_joint(bad)
    with pytest.raises(InvalidValueError, match="joint command has shape"):
        robot.command_joints([0.0])


def test_a_real_robot_is_not_simulated():
    with pytest.raises(ProfileError, match="'widowx' is not simulated"):
        build_model(load_profile("widowx"), 3, "plate")


def test_an_unknown_camera_is_refused_with_those_there_are(robot):
    with pytest.raises(ProfileError, match=r"no camera 'side'; its cameras: .*primary"):
        robot.render("side", 64, 64)


def test_objects_appear_where_they_are_projected_and_in_their_colours(robot):
    for seed in range(6):
        robot.reset(seed)
        image = robot.render("primary").astype(int)
        for item in robot.scene().objects:
            # From just above the object: the point that the camera sees first.
            ((u, v, _),) = robot.project("primary", item.position + np.array([0, 0, item.size[2] / 2]))
            if not (0.05 < u < 0.95 and 0.05 < v < 0.95):
                continue
            pixel = image[int(v * image.shape[0]), int(u * image.shape[1])]
            if pixel.max() < 60:
                continue  # the dark arm is in front
            # Same hue: the shading scales all three channels.
            cosine = pixel @ item.colour / np.linalg.norm(pixel) / np.linalg.norm(item.colour)
            assert cosine > 0.97, (item.name, pixel)


def test_the_bridge_camera_has_the_calibrated_pose_and_lens():
    world = SimulatedRobot(load_profile("sim_widowx"), find_task("lift"))
    camera = world._model.camera("primary")
    published = np.array([0.79147, 0.339913, -0.200454, -0.466746])  # SimplerEnv, flat table
    assert abs(camera.quat @ published) > 1.0 - 1e-6
    fx, fy = world.focal_lengths("primary", 640, 480)
    assert (fx, fy) == pytest.approx((623.588, 623.588), rel=2e-3)  # its C920 at 640x480


IMAGE = """
import sys, numpy as np
from openvla_ros.profile import load_profile
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot
world = SimulatedRobot(load_profile(sys.argv[1]), find_task("lift"), 5)
np.savez(sys.argv[2], kind=world.renderer_kind, primary=world.render("primary"),
         wrist=world.render("wrist", 128, 128), overview=world.render("overview", 320, 240))
"""


def images(tmp_path, name, mujoco_gl):
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    path = tmp_path / f"{mujoco_gl}.npz"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMAGE, name, str(path)],
        env={**environment, "MUJOCO_GL": mujoco_gl}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == "", "the drawing context is given back without complaint"
    return dict(np.load(path))


@pytest.mark.parametrize("gl", opengl.GL_KINDS)
@pytest.mark.parametrize("name", ROBOTS)
def test_opengl_and_rays_draw_the_same_scene(tmp_path, name, gl):
    if not opengl.works_here(gl):
        pytest.skip(f"{gl} is not installed here")
    drawn, traced = images(tmp_path, name, gl), images(tmp_path, name, "disable")
    assert (str(drawn["kind"]), str(traced["kind"])) == (gl, "rays")
    for camera in ("primary", "wrist", "overview"):
        assert drawn[camera].shape == traced[camera].shape
        assert drawn[camera].std() > 20
        # The lighting differs; the outlines do not: a few pixels at the edges.
        apart = np.abs(drawn[camera].astype(int) - traced[camera].astype(int)).max(axis=-1) > 70
        assert apart.mean() < 0.03, camera


def test_a_renderer_that_does_not_work_here_names_the_package(monkeypatch):
    model = build_model(load_profile("sim_widowx"), 3, "plate")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(opengl, "works_here", lambda kind: False)
    with pytest.raises(MissingDependencyError, match="apt install libosmesa6"):
        renderer.make_renderer(model, 64, 64, "osmesa")
    with pytest.raises(InvalidValueError, match="the kinds are egl, osmesa, rays"):
        renderer.make_renderer(model, 64, 64, "vulkan")


def test_models_differ_only_where_they_should():
    profile = load_profile("sim_franka")
    plate, bowl = build_model(profile, 3, "plate"), build_model(profile, 3, "bowl")
    assert plate.nq == bowl.nq == len(profile.arm.joints) + 2 + 3 * 7
    assert plate.nu == len(profile.arm.joints) + 1
    assert robot_model(profile).cube_m == 0.04


@pytest.mark.parametrize("name", ["sim_widowx", "sim_franka"])
def test_a_camera_s_optical_frame_sees_along_its_z_with_y_down(name):
    with SimulatedRobot(load_profile(name), find_task("lift"), seed=0) as robot:
        for camera, stands in (("primary", True), ("wrist", False)):
            pose = robot.camera_pose(camera)
            ahead, right, below = (
                pose.position + pose.rotation @ np.array(p)
                for p in ([0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.0, 0.1, 1.0])
            )
            seen = robot.project(camera, [ahead, right, below])
            np.testing.assert_allclose(seen[0], [0.5, 0.5, 1.0], atol=1e-9)
            assert seen[1, 0] > 0.5
            assert seen[2, 1] > 0.5
            assert robot.camera_stands(camera) is stands
