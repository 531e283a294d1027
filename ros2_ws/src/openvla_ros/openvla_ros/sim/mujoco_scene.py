"""The MuJoCo model of the work cell: the arm from its own URDF, a table, objects, cameras.

Everything about the arm (joint origins, inertias, limits, shapes) comes from the URDF that the controller's
kinematics reads. This module adds what a URDF does not have: position servos, contact properties, the table,
and the objects, whose poses and colours are set when an episode starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import ProfileError
from openvla_ros.integrity.text_file import read_text
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.urdf import find_urdf, read_urdf
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import transform_matrix_to_quaternion
from openvla_ros.values.scene import BOWL_FLOOR_M

PLATE_RADIUS_M, PLATE_HEIGHT_M = 0.045, 0.004
BOWL_RADIUS_M, BOWL_HEIGHT_M, BOWL_SIDES = 0.048, 0.024, 10
CUBE_DENSITY = 1000.0  # kg/m³, beech to acrylic
# Keep visual shapes and massless links: the tool and camera frames are massless links.
URDF_EXTENSION = '<mujoco><compiler discardvisual="false" fusestatic="false"/></mujoco>'
SKY = (0.70, 0.76, 0.82)


@dataclass(frozen=True)
class CameraPlacement:
    """A camera's pose in the base frame, or the link that it is mounted on, and its field of view.

    With ``fovx_deg`` the whole sensor fills the image whatever the image's shape, as when a
    640x480 image is squeezed into a square; without it pixels are square.
    """

    position: tuple[float, float, float]
    fovy_deg: float
    fovx_deg: float | None = None
    target: tuple[float, float, float] | None = None  # the point it looks at
    link: str | None = None  # whose optical axis it looks along


@dataclass(frozen=True)
class RobotModel:
    """What the simulator needs to know about an arm beyond its URDF."""

    stiffness: tuple[float, ...]  # N m/rad of each joint's position servo
    # Steady-state lag of a servo behind a ramp, seconds: damping over stiffness. At 0.1 m/s the tool is
    # then 2 to 3 mm behind, close enough for the image to show where the next delta starts.
    lag_s: float
    armature: float  # kg m², reflected rotor inertia
    gripper_stiffness: float  # N/m
    gripper_force: float  # N
    gripper_damping: float  # N s/m; with the force it bounds the closing speed
    hand_link: str
    finger_links: tuple[str, ...]
    cube_m: float  # edge of the cubes that fit this gripper
    area_lower: tuple[float, float]  # where objects are placed on the table, base frame x, y
    area_upper: tuple[float, float]
    cameras: dict[str, CameraPlacement]


WIDOWX = RobotModel(
    stiffness=(400.0, 400.0, 400.0, 120.0, 120.0, 60.0),
    lag_s=0.025,
    armature=0.01,
    gripper_stiffness=1500.0,
    gripper_force=8.0,
    gripper_damping=70.0,
    hand_link="gripper_bar_link",
    finger_links=("left_finger_link", "right_finger_link"),
    cube_m=0.03,
    area_lower=(0.23, -0.13),
    area_upper=(0.39, 0.12),
    cameras={
        # SimplerEnv's calibration of the BridgeData V2 evaluation camera over a flat table: a
        # Logitech C920, forward (0.635, 0.351, -0.689).
        "primary": CameraPlacement((0.0, -0.16, 0.36), 42.1, 54.3, target=(0.635, 0.191, -0.329)),
        "wrist": CameraPlacement((0.0, 0.0, 0.0), 70.0, link="wrist_camera_optical_frame"),
        "overview": CameraPlacement((0.95, -0.55, 0.55), 36.0, target=(0.22, 0.02, 0.10)),
    },
)
FRANKA = RobotModel(
    stiffness=(6000.0, 6000.0, 5000.0, 5000.0, 3000.0, 3000.0, 2000.0),
    lag_s=0.025,
    armature=0.1,
    gripper_stiffness=3000.0,
    gripper_force=30.0,
    gripper_damping=250.0,
    hand_link="fr3_hand",
    finger_links=("fr3_leftfinger", "fr3_rightfinger"),
    cube_m=0.04,
    area_lower=(0.40, -0.17),
    area_upper=(0.62, 0.19),
    cameras={
        # The same view as above, further away in proportion to the work area.
        "primary": CameraPlacement((0.08, -0.23, 0.58), 42.1, 54.3, target=(0.50, 0.01, 0.03)),
        "wrist": CameraPlacement((0.0, 0.0, 0.0), 70.0, link="fr3_wrist_camera_optical_frame"),
        "overview": CameraPlacement((1.5, -0.9, 0.95), 36.0, target=(0.35, 0.0, 0.2)),
    },
)


def robot_model(profile: RobotProfile) -> RobotModel:
    """Return the simulated robot for ``profile``; raises ``ProfileError`` if it has no simulation."""
    if profile.simulation is None:
        raise ProfileError(f"robot {profile.name!r} is not simulated: its profile has no 'simulation' entry")
    return {"widowx": WIDOWX, "franka": FRANKA}[profile.simulation.robot]


def table_height(profile: RobotProfile) -> float:
    """Return the height of the table top, metres: from the safety limits, else 0."""
    return profile.limits.table_height_m or 0.0


def build_model(profile: RobotProfile, cubes: int, receptacle: str) -> Any:
    """Return the compiled ``MjModel`` of ``profile``'s robot with ``cubes`` cubes and a plate or bowl.

    Bodies of objects are called ``cube_0``, ``cube_1``, …, ``plate`` or ``bowl``.
    """
    robot = robot_model(profile)
    spec = _load_urdf(profile)
    spec.modelname = profile.name
    _configure(spec, profile)
    _add_arm_properties(spec, profile, robot)
    _add_servos(spec, profile, robot)
    _add_mimics(spec, profile)
    _add_surroundings(spec, table_height(profile))
    for index in range(cubes):
        _add_cube(spec, f"cube_{index}", robot.cube_m)
    if receptacle == "plate":
        _add_plate(spec)
    else:
        _add_bowl(spec)
    for name, placement in robot.cameras.items():
        _add_camera(spec, name, placement)
    return spec.compile()


def _load_urdf(profile: RobotProfile) -> Any:
    """Return the ``MjSpec`` of the profile's URDF, its visual shapes and massless links kept."""
    text = read_text(find_urdf(profile.arm.urdf), ProfileError)
    return mujoco.MjSpec.from_string(text.replace("</robot>", f"{URDF_EXTENSION}</robot>"))


def _configure(spec: Any, profile: RobotProfile) -> None:
    assert profile.simulation is not None
    option = spec.option
    option.timestep = 1.0 / profile.simulation.physics_hz
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # Settings for stable grasps: elliptic friction cones, friction stiffer than the normal direction.
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0
    spec.visual.headlight.ambient = (0.35, 0.35, 0.35)
    spec.visual.headlight.diffuse = (0.25, 0.25, 0.25)
    spec.visual.headlight.specular = (0.0, 0.0, 0.0)
    # Rounded shapes are small in the images: a third of the default's triangles is enough.
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 12, 6


def _add_arm_properties(spec: Any, profile: RobotProfile, robot: RobotModel) -> None:
    world, base, turret, *_ = spec.bodies
    for link in (base, turret):  # the base stands on the table, and the turret's padded shape reaches into it
        exclude = spec.add_exclude()
        exclude.bodyname1, exclude.bodyname2 = world.name, link.name
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0  # the servos hold the arm's own weight
        finger, hand = body.name in robot.finger_links, body.name == robot.hand_link
        for geom in body.geoms:
            seen = geom.contype == 0  # the URDF's visual shapes; its collision shapes are not drawn
            geom.group = 0 if seen else 3
            # A hand's collision shapes are padded for planning and would leave no room for an
            # object between the fingers: it collides with its visual shapes instead.
            solid = seen == hand
            # Arm (2) against objects and table (1), never against itself: the controller prevents that.
            geom.contype, geom.conaffinity = (2, 1) if solid else (0, 0)
            if finger and solid:
                geom.condim, geom.friction = 4, (1.5, 0.02, 0.0005)
                geom.solref, geom.solimp = (0.004, 1.0), (0.95, 0.99, 0.001, 0.5, 2.0)
    commanded = {*profile.arm.joints, profile.gripper.joint}
    for joint in list(spec.joints):
        if joint.type == mujoco.mjtJoint.mjJNT_HINGE and joint.name not in commanded:
            spec.delete(joint)  # a free-spinning ornament such as the WidowX gripper's horn
        elif joint.type == mujoco.mjtJoint.mjJNT_HINGE:
            joint.armature = robot.armature
        else:
            joint.armature, joint.damping = 0.1, np.array([10.0, 0.0, 0.0])


def _add_servos(spec: Any, profile: RobotProfile, robot: RobotModel) -> None:
    for name, stiffness in zip(profile.arm.joints, robot.stiffness, strict=True):
        _add_servo(spec, name, stiffness, stiffness * robot.lag_s, spec.joint(name).actfrcrange[1])
    _add_servo(
        spec, profile.gripper.joint, robot.gripper_stiffness, robot.gripper_damping, robot.gripper_force
    )


def _add_mimics(spec: Any, profile: RobotProfile) -> None:
    for joint in read_urdf(find_urdf(profile.arm.urdf)).joints.values():
        if joint.mimic is not None:
            imitated, multiplier, offset = joint.mimic
            equality = spec.add_equality()
            equality.type = mujoco.mjtEq.mjEQ_JOINT
            equality.name1, equality.name2 = joint.name, imitated
            equality.data[:5] = (offset, multiplier, 0.0, 0.0, 0.0)
            equality.solref = (0.004, 1.0)


def _add_servo(spec: Any, joint: str, stiffness: float, damping: float, force: float) -> None:
    servo = spec.add_actuator()
    servo.name = servo.target = joint
    servo.trntype = mujoco.mjtTrn.mjTRN_JOINT
    servo.gaintype, servo.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    servo.gainprm[0] = stiffness
    servo.biasprm[1], servo.biasprm[2] = -stiffness, -damping
    servo.forcelimited, servo.forcerange = True, (-force, force)


def _add_surroundings(spec: Any, table_m: float) -> None:
    world = spec.worldbody
    sky = spec.add_texture()
    sky.name, sky.type, sky.builtin = (
        "sky",
        mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        mujoco.mjtBuiltin.mjBUILTIN_FLAT,
    )
    sky.rgb1, sky.rgb2, sky.width, sky.height = SKY, SKY, 8, 8
    light = world.add_light()
    light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    light.name, light.pos, light.dir = "lamp", (0.0, 0.0, 2.0), (-0.3, 0.4, -0.866)
    light.diffuse, light.castshadow = (0.55, 0.55, 0.55), False
    floor = world.add_geom()
    floor.name, floor.type, floor.size = "floor", mujoco.mjtGeom.mjGEOM_PLANE, (4.0, 4.0, 0.1)
    floor.pos, floor.rgba = (0.0, 0.0, table_m - 0.75), (0.45, 0.46, 0.48, 1.0)
    floor.contype, floor.conaffinity = 0, 0
    table = world.add_geom()
    table.name, table.type, table.size = "table", mujoco.mjtGeom.mjGEOM_BOX, (0.6, 0.6, 0.02)
    table.pos, table.rgba = (0.35, 0.0, table_m - 0.02), (0.72, 0.62, 0.49, 1.0)
    table.contype, table.conaffinity, table.condim = 1, 3, 4
    table.friction = (0.8, 0.01, 0.0005)
    if table_m < 0.0:
        plinth = world.add_geom()
        plinth.name, plinth.type = "plinth", mujoco.mjtGeom.mjGEOM_BOX
        plinth.size, plinth.pos = (0.13, 0.09, -table_m / 2.0), (-0.04, 0.0, table_m / 2.0)
        plinth.rgba, plinth.contype, plinth.conaffinity = (0.25, 0.25, 0.27, 1.0), 0, 0


def _add_cube(spec: Any, name: str, edge_m: float) -> None:
    body = spec.worldbody.add_body()
    body.name = name
    joint = body.add_freejoint()
    joint.name = name
    geom = body.add_geom()
    geom.name, geom.type, geom.size = name, mujoco.mjtGeom.mjGEOM_BOX, (edge_m / 2.0,) * 3
    geom.density, geom.condim, geom.friction = CUBE_DENSITY, 4, (0.8, 0.01, 0.0005)
    geom.contype, geom.conaffinity = 1, 3


def _add_plate(spec: Any) -> None:
    body = _add_receptacle(spec, "plate")
    disc = body.add_geom()
    disc.type, disc.size = mujoco.mjtGeom.mjGEOM_CYLINDER, (PLATE_RADIUS_M, PLATE_HEIGHT_M / 2.0, 0.0)
    _make_solid(disc)


def _add_bowl(spec: Any) -> None:
    body = _add_receptacle(spec, "bowl")
    floor = body.add_geom()
    floor.type, floor.size = mujoco.mjtGeom.mjGEOM_CYLINDER, (BOWL_RADIUS_M, BOWL_FLOOR_M / 2.0, 0.0)
    floor.pos = (0.0, 0.0, (BOWL_FLOOR_M - BOWL_HEIGHT_M) / 2.0)
    _make_solid(floor)
    for side in range(BOWL_SIDES):
        angle = 2.0 * math.pi * side / BOWL_SIDES
        wall = body.add_geom()
        wall.type = mujoco.mjtGeom.mjGEOM_BOX
        wall.size = (0.003, BOWL_RADIUS_M * math.tan(math.pi / BOWL_SIDES) + 0.002, BOWL_HEIGHT_M / 2.0)
        wall.pos = (BOWL_RADIUS_M * math.cos(angle), BOWL_RADIUS_M * math.sin(angle), 0.0)
        wall.quat = (math.cos(angle / 2.0), 0.0, 0.0, math.sin(angle / 2.0))
        _make_solid(wall)


def _add_receptacle(spec: Any, name: str) -> Any:
    body = spec.worldbody.add_body()
    body.name, body.mocap = name, True  # fixed in place: it cannot be pushed
    return body


def _make_solid(geom: Any) -> None:
    geom.contype, geom.conaffinity, geom.condim = 1, 3, 4
    geom.friction = (0.8, 0.01, 0.0005)


def _add_camera(spec: Any, name: str, placement: CameraPlacement) -> None:
    body = spec.worldbody if placement.link is None else spec.body(placement.link)
    camera = body.add_camera()
    camera.name, camera.pos, camera.fovy = name, placement.position, placement.fovy_deg
    if placement.fovx_deg is not None:
        # A sensor of 2 by 2 at these focal lengths; only their ratios matter.
        camera.sensor_size, camera.resolution = (2.0, 2.0), (2, 2)
        camera.focal_length = [
            1.0 / math.tan(math.radians(degrees) / 2.0)
            for degrees in (placement.fovx_deg, placement.fovy_deg)
        ]
    if placement.target is None:
        camera.quat = (0.0, 1.0, 0.0, 0.0)  # MuJoCo looks along -z; an optical frame along +z (REP-103)
    else:
        x, y, z, w = transform_matrix_to_quaternion(looking_at(placement.position, placement.target))
        camera.quat = (w, x, y, z)


def looking_at(position: ArrayLike, target: ArrayLike) -> Float:
    """Return the rotation (3, 3) of a MuJoCo camera (x right, y up, looks along -z) at ``position``."""
    back = np.asarray(position, dtype=np.float64) - np.asarray(target, dtype=np.float64)
    z = back / np.linalg.norm(back)
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)
