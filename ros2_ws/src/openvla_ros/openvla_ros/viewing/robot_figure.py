"""The arm as a viewer draws it: what each link occupies, and where the links are for measured joints.

The shapes are those of the controller's own collision check (``link_covers``), so that a person sees what
the arm is held to. Knows no messages and no viewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from openvla_ros.errors import KinematicsError
from openvla_ros.profile import RobotProfile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.link_covers import LinkCovers, cover_links
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose
from openvla_ros.viewing.shown import Stage


@dataclass(frozen=True, eq=False)
class RobotFigure:
    """The links of one arm and its gripper."""

    chain: KinematicChain
    finger: str  # the gripper's joint; fingers that mimic it follow
    covers: LinkCovers

    @classmethod
    def of(cls, profile: RobotProfile) -> RobotFigure:
        """Return the figure of a robot; reads its URDF and the meshes that this names.

        Raises ``KinematicsError`` if the URDF cannot be read, or is another robot's.
        """
        chain = KinematicChain.from_profile(profile.arm)
        finger = profile.gripper.joint
        return cls(chain, finger, cover_links(chain, {finger: profile.gripper.open_m}))

    def tool(self, positions: Float) -> Pose:
        """Return the tool's pose in the base frame for joint ``positions`` (J,), rad."""
        return self.chain.forward(positions)

    def poses(self, positions: Float, finger_m: float) -> dict[str, Pose]:
        """Return the pose of every link in the base frame.

        ``positions`` (J,) are the arm's in rad, ``finger_m`` the position of the gripper's joint.
        """
        return self.chain.link_poses(positions, {self.finger: finger_m})


def figure_of(profile: RobotProfile) -> tuple[RobotFigure | None, str]:
    """Return the robot's figure, or None and why its URDF cannot be used here."""
    try:
        return RobotFigure.of(profile), ""
    except KinematicsError as error:
        return None, str(error)


def stage_of(profile: RobotProfile, figure: RobotFigure | None, title: str) -> Stage:
    """Return what does not change of a robot."""
    arm = profile.arm
    return Stage(
        title=title,
        base_frame=f"{arm.frame_prefix}{arm.base_link}",
        frame_prefix=arm.frame_prefix,
        shapes={} if figure is None else figure.covers.shapes,
        cameras=tuple(camera.name for camera in profile.cameras),
        joints=arm.joints,
        actions=profile.space().names,
    )
