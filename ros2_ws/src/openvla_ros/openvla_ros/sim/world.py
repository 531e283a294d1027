"""One simulated robot at its table: commands in, joint states, images and ground truth out.

The simulated counterpart of a real robot's motor and camera drivers, used by the ROS node and the
in-process rollouts. The same seed and the same commands give the same states, bit for bit. Built on
``mujoco_scene`` (the MuJoCo model) and ``tasks`` (the layouts).
"""

from __future__ import annotations

from types import TracebackType

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.cameras.protocol import Intrinsics
from openvla_ros.errors import InvalidValueError, ProfileError
from openvla_ros.profile import RobotProfile
from openvla_ros.sim.mujoco_scene import (
    BOWL_HEIGHT_M,
    BOWL_RADIUS_M,
    PLATE_HEIGHT_M,
    PLATE_RADIUS_M,
    build_model,
    robot_model,
    table_height,
)
from openvla_ros.sim.opengl import Kind
from openvla_ros.sim.renderer import Renderer, focal_lengths, make_renderer
from openvla_ros.sim.tasks import Layout, Placement, SuccessDetector, Task, WorkArea, sample_layout
from openvla_ros.values.arrays import Float, Image, float_array, read_only
from openvla_ros.values.geometry import Pose, transform_euler_to_matrix, transform_matrix_to_quaternion
from openvla_ros.values.goal import Goal
from openvla_ros.values.scene import Scene, SceneObject, Shape
from openvla_ros.values.time import nanoseconds

DETECTION_PERIOD_S = 0.05
SETTLE_S = 0.1  # objects are placed slightly above the table, to avoid penetration
PLACE_GAP_M = 0.0005
OVERVIEW_SIZE = (640, 480)  # the largest image other than the profile's


class SimulatedRobot:
    """The robot of a profile, in MuJoCo, with one task on its table."""

    def __init__(
        self, profile: RobotProfile, task: Task, seed: int = 0, renderer_kind: Kind | None = None
    ) -> None:
        """Build the scene of ``task`` and start episode ``seed``.

        Args:
            profile: A profile with a part ``simulation``, such as ``sim_widowx``.
            task: What stands on the table and what is asked for; see ``find_task``.
            seed: Determines everything random: colours, positions, words, light.
            renderer_kind: ``egl``, ``osmesa`` or ``rays``; by default the best one that works here, chosen
                for the first image.

        Raises:
            ProfileError: The profile has no simulation.
        """
        robot = robot_model(profile)
        self.profile = profile
        self.task = task
        self._cube_m = robot.cube_m
        self._area = WorkArea(robot.area_lower, robot.area_upper, table_height(profile), robot.cube_m)
        self._model = build_model(profile, task.family.cubes, task.family.receptacle)
        self._data = mujoco.MjData(self._model)
        self._renderer: Renderer | None = None
        self._renderer_kind = renderer_kind
        joints = [self._model.joint(name).id for name in profile.arm.joints]
        self._joint_qpos = self._model.jnt_qposadr[joints]
        self._joint_dof = self._model.jnt_dofadr[joints]
        self._gripper = self._model.joint(profile.gripper.joint).id
        self._fingers = [
            i for i in range(self._model.njnt) if self._model.jnt_type[i] == mujoco.mjtJoint.mjJNT_SLIDE
        ]
        self._tool = self._model.body(profile.arm.tool_link).id
        for camera in profile.cameras:
            self._camera_id(camera.name)
        self._lamp = np.array(self._model.light("lamp").diffuse)
        self.reset(seed)

    # -- episodes

    def reset(self, seed: int, start: ArrayLike | None = None, opening: float = 1.0) -> None:
        """Start an episode at time 0.

        Args:
            seed: Which episode: colours, positions, words and light follow from it.
            start: (J,) rad, where the arm begins; neutral by default.
            opening: Of the gripper, 0 closed .. 1 open.

        Raises:
            InvalidValueError: ``start`` is not (J,), or not finite.
        """
        joints = float_array("start joints", self.profile.arm.neutral if start is None else start,
                             (len(self.profile.arm.joints),))  # fmt: skip
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[self._joint_qpos] = joints
        gripper = self.profile.gripper
        for finger in self._fingers:
            address = self._model.jnt_qposadr[finger]
            side = np.sign(self._model.jnt_range[finger].sum())  # a mimic joint may run backwards
            position = gripper.closed_m + opening * (gripper.open_m - gripper.closed_m)
            self._data.qpos[address] = side * abs(position)
        self.command_joints(joints)
        self.command_gripper(opening)
        self._arrange(seed)
        for _ in range(round(SETTLE_S / self._model.opt.timestep)):
            mujoco.mj_step(self._model, self._data)
        self._data.time, self._steps = 0.0, 0
        mujoco.mj_forward(self._model, self._data)
        self.pursue(self._layout.goal)

    def rearrange(self, seed: int) -> None:
        """Place the objects for episode ``seed``; time, arm and gripper continue, as on a real robot."""
        self._arrange(seed)
        mujoco.mj_forward(self._model, self._data)
        self.pursue(self._layout.goal)

    def pursue(self, goal: Goal) -> None:
        """Judge success by ``goal`` from now on; raises ``InvalidValueError`` if its objects are missing."""
        start = self.scene()
        for name in (goal.object, goal.destination):
            if name is not None:
                start[name]
        self._goal, self._detector, self._success = goal, SuccessDetector(goal, start), False

    def _arrange(self, seed: int) -> None:
        self._layout = sample_layout(self.task, self._area, seed)
        self._place_objects()

    def _place_objects(self) -> None:
        for index, placement in enumerate(self._layout.placements):
            x, y, z, w = transform_matrix_to_quaternion(transform_euler_to_matrix([0, 0, placement.yaw]))
            if placement.shape == "cube":
                address = self._model.joint(f"cube_{index}").qposadr[0]
                lifted = placement.position + np.array([0.0, 0.0, PLACE_GAP_M])
                self._data.qpos[address : address + 7] = [*lifted, w, x, y, z]
                velocity = self._model.joint(f"cube_{index}").dofadr[0]
                self._data.qvel[velocity : velocity + 6] = 0.0
                self._model.geom(f"cube_{index}").rgba[:3] = placement.colour
            else:
                body = self._model.body(placement.shape)
                height = self._size(placement)[2]
                self._data.mocap_pos[body.mocapid[0]] = placement.position + np.array(
                    [0.0, 0.0, height / 2.0]
                )
                self._data.mocap_quat[body.mocapid[0]] = (w, x, y, z)
                first = body.geomadr[0]
                self._model.geom_rgba[first : first + body.geomnum[0], :3] = placement.colour
        self._model.geom("table").rgba[:3] = self._layout.table_colour
        self._model.light("lamp").diffuse[:] = self._lamp * self._layout.light

    def _size(self, placement: Placement) -> tuple[float, float, float]:
        match placement.shape:
            case "cube":
                return (self._cube_m, self._cube_m, self._cube_m)
            case "plate":
                return (2.0 * PLATE_RADIUS_M, 2.0 * PLATE_RADIUS_M, PLATE_HEIGHT_M)
            case "bowl":
                return (2.0 * BOWL_RADIUS_M, 2.0 * BOWL_RADIUS_M, BOWL_HEIGHT_M)

    @property
    def coordinates(self) -> Float:
        """All joint coordinates of arm, gripper and objects (Q,), enough to render this moment elsewhere."""
        return read_only(np.array(self._data.qpos))

    def show(self, seed: int, coordinates: ArrayLike) -> None:
        """Set the scene to ``coordinates`` (Q,) of another instance of the same task, without physics."""
        if seed != self._layout.seed:
            self._arrange(seed)
        self._data.qpos[:] = float_array("coordinates", coordinates, (self._model.nq,))
        mujoco.mj_forward(self._model, self._data)

    @property
    def layout(self) -> Layout:
        """How the running episode started."""
        return self._layout

    @property
    def instruction(self) -> str:
        """The instruction of the running episode."""
        return self._layout.instruction

    @property
    def goal(self) -> Goal:
        """The goal that defines success."""
        return self._goal

    @property
    def success(self) -> bool:
        """Whether the goal has been reached."""
        return self._success

    # -- commands

    def command_joints(self, positions: ArrayLike) -> None:
        """Set the arm servos' targets (J,) in radians."""
        count = len(self._joint_qpos)
        self._data.ctrl[:count] = float_array("joint command", positions, (count,))

    def command_gripper_joint(self, position_m: float) -> None:
        """Set the gripper servo's target, metres of the profile's gripper joint."""
        lower, upper = sorted((self.profile.gripper.open_m, self.profile.gripper.closed_m))
        if not np.isfinite(position_m):
            raise InvalidValueError(f"gripper command is {position_m}; it must be finite")
        self._data.ctrl[len(self._joint_qpos)] = np.clip(position_m, lower, upper)

    def command_gripper(self, opening: float) -> None:
        """Set the gripper servo's target as an opening, 0 closed .. 1 open."""
        gripper = self.profile.gripper
        self.command_gripper_joint(gripper.closed_m + opening * (gripper.open_m - gripper.closed_m))

    def step(self, duration_s: float) -> None:
        """Advance the physics by ``duration_s``, rounded to whole physics steps in the long run."""
        timestep = self._model.opt.timestep
        period = max(1, round(DETECTION_PERIOD_S / timestep))
        for _ in range(round((self._data.time + duration_s) / timestep) - self._steps):
            mujoco.mj_step(self._model, self._data)
            self._steps += 1
            if self._steps % period == 0:
                self._success = self._detector.update(self.scene())

    # -- what the robot reports

    @property
    def time_s(self) -> float:
        """Simulated seconds since the episode started."""
        return float(self._data.time)

    @property
    def joint_positions(self) -> Float:
        """The arm's joint positions (J,), radians."""
        return read_only(self._data.qpos[self._joint_qpos])

    @property
    def joint_velocities(self) -> Float:
        """The arm's joint velocities (J,), rad/s."""
        return read_only(self._data.qvel[self._joint_dof])

    @property
    def joint_efforts(self) -> Float:
        """The arm servos' torques (J,), N m; the weight of the arm itself is not in them."""
        return read_only(self._data.actuator_force[: len(self._joint_qpos)].copy())

    @property
    def gripper_joint(self) -> tuple[float, float, float]:
        """Position (m), velocity (m/s) and effort (N) of the profile's gripper joint."""
        return (
            float(self._data.qpos[self._model.jnt_qposadr[self._gripper]]),
            float(self._data.qvel[self._model.jnt_dofadr[self._gripper]]),
            float(self._data.actuator_force[len(self._joint_qpos)]),
        )

    @property
    def gripper_opening(self) -> float:
        """The gripper's opening, 0 closed .. 1 open."""
        gripper = self.profile.gripper
        opening = (self.gripper_joint[0] - gripper.closed_m) / (gripper.open_m - gripper.closed_m)
        return float(np.clip(opening, 0.0, 1.0))

    @property
    def tool(self) -> Pose:
        """The tool point in the base frame."""
        return Pose(self._data.xpos[self._tool], self._data.xmat[self._tool].reshape(3, 3))

    # -- ground truth and images

    def scene(self) -> Scene:
        """Return the ground truth of the scene, which only a simulator has."""
        return Scene(
            stamp_ns=nanoseconds(self._data.time),
            objects=tuple(
                self._scene_object(index, placement)
                for index, placement in enumerate(self._layout.placements)
            ),
            tool=self.tool,
            gripper=self.gripper_opening,
            table_m=self._area.table_m,
        )

    def _scene_object(self, index: int, placement: Placement) -> SceneObject:
        body = self._model.body(f"cube_{index}" if placement.shape == "cube" else placement.shape).id
        shape: Shape = placement.shape
        pose = Pose(self._data.xpos[body], self._data.xmat[body].reshape(3, 3))
        return SceneObject(placement.name, shape, pose, np.array(self._size(placement)), placement.colour)

    @property
    def renderer_in_use(self) -> Kind | None:
        """The kind of renderer in use; None before the first image."""
        return None if self._renderer is None else self._renderer.kind

    @property
    def renderer_kind(self) -> Kind:
        """The kind of renderer: "egl", "osmesa" or "rays"."""
        return self._open_renderer().kind

    def render(self, camera: str, width: int | None = None, height: int | None = None) -> Image:
        """Return what a camera sees now, uint8 (H, W, 3) RGB.

        Args:
            camera: Its name in the profile.
            width: Of the image, pixels; by default as in the profile, like ``height``.
            height: Of the image, pixels.

        Raises:
            ProfileError: There is no such camera; lists the existing ones.
        """
        if width is None or height is None:
            of_profile = self.profile.camera(camera)
            width, height = of_profile.width, of_profile.height
        return self._open_renderer().render(self._data, self._camera_id(camera), width, height)

    def focal_lengths(self, camera: str, width: int, height: int) -> tuple[float, float]:
        """Return fx, fy in pixels of ``camera``'s images of that size."""
        return focal_lengths(self._model, self._camera_id(camera), width, height)

    def intrinsics(self, camera: str) -> Intrinsics:
        """Return the lens of ``camera`` for images of its profile's size: a pinhole without distortion."""
        of_profile = self.profile.camera(camera)
        width, height = of_profile.width, of_profile.height
        fx, fy = self.focal_lengths(camera, width, height)
        matrix = np.array([[fx, 0.0, width / 2.0], [0.0, fy, height / 2.0], [0.0, 0.0, 1.0]])
        return Intrinsics(width, height, matrix, "plumb_bob", np.zeros(5))

    def project(self, camera: str, points: ArrayLike) -> Float:
        """Return where points appear in an image: u = 1/2 + f_x x / z and v = 1/2 + f_y y / z.

        x, y, z are the point in the optical frame, f the focal lengths in images. u runs to the right and v
        down; values outside 0 .. 1 are out of the image.

        Args:
            camera: Its name in the profile.
            points: (N, 3) metres, base frame.

        Returns:
            (N, 3): u, v, and the depth z in metres.
        """
        number = self._camera_id(camera)
        rotation = self._data.cam_xmat[number].reshape(3, 3)
        local = (np.atleast_2d(np.asarray(points, float)) - self._data.cam_xpos[number]) @ rotation
        fx, fy = focal_lengths(self._model, number, 1, 1)
        depth = -local[:, 2]
        return np.stack([0.5 + fx * local[:, 0] / depth, 0.5 - fy * local[:, 1] / depth, depth], axis=1)

    def camera_pose(self, camera: str) -> Pose:
        """Return the optical frame of ``camera`` (x right, y down, z forward; REP-103) in the base frame."""
        number = self._camera_id(camera)
        # MuJoCo's camera has y up and looks along -z.
        rotation = self._data.cam_xmat[number].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
        return Pose(self._data.cam_xpos[number], rotation)

    def camera_stands(self, camera: str) -> bool:
        """Return whether ``camera`` is fixed in the work cell, rather than on a link of the arm."""
        return int(self._model.cam_bodyid[self._camera_id(camera)]) == 0

    def _camera_id(self, camera: str) -> int:
        number = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if number < 0:
            known = ", ".join(self._model.camera(i).name for i in range(self._model.ncam))
            raise ProfileError(f"the simulation has no camera {camera!r}; its cameras: {known}")
        return int(number)

    def _open_renderer(self) -> Renderer:
        if self._renderer is None:
            sizes = [(camera.width, camera.height) for camera in self.profile.cameras] + [OVERVIEW_SIZE]
            width, height = (max(size[i] for size in sizes) for i in (0, 1))
            self._renderer = make_renderer(self._model, width, height, self._renderer_kind)
        return self._renderer

    def close(self) -> None:
        """Close the renderer. Safe to call twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> SimulatedRobot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
