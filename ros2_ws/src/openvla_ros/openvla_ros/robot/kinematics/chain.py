"""Forward kinematics and the Jacobian of one serial chain, read from a URDF.

Radians and metres; everything is in the base link's frame. Designed for a 100 Hz loop: the transforms of
all joints are computed in one numpy expression, then multiplied along the chain. Limits are only reported
as in the URDF, not enforced. A joint with ``<mimic>`` is not one of the chain's joints: it moves with its
leader, and its limits narrow the leader's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from openvla_ros.errors import KinematicsError
from openvla_ros.profile import ArmProfile
from openvla_ros.robot.kinematics.joint_coupling import JointCoupling
from openvla_ros.robot.kinematics.urdf import MANY_POSITIONS, Joint, RobotDescription, find_urdf, read_urdf
from openvla_ros.values.arrays import Float, read_only
from openvla_ros.values.geometry import Pose, skew, transform_rotvec_to_matrix

# For each of x, y, z the two others, in the order of the cross product.
_NEXT, _LAST = np.array([1, 2, 0]), np.array([2, 0, 1])


@dataclass(frozen=True, eq=False)
class KinematicChain:
    """The moving joints between a base link and a tool link, base first.

    J of them have positions of their own; with those that mimic them there are F moving frames.
    """

    description: RobotDescription
    base_link: str
    tool_link: str
    joints: tuple[str, ...]
    _moving: tuple[str, ...]  # the joint of each moving frame
    _coupling: JointCoupling
    lower: Float  # (J,) as the URDF states them, narrowed by the limits of joints that mimic them
    upper: Float
    velocity: Float
    # Joint i's transform is constant + sin(q) sine + (1 - cos(q)) cosine + q linear, (F, 4, 4) each.
    _constant: Float
    _sine: Float
    _cosine: Float
    _linear: Float
    _axes: Float  # (F, 3) in the joint's own frame
    _revolute: Float  # (F, 1) 1 for revolute, 0 for prismatic
    _tool: Float  # (4, 4) tool frame in the last moving frame

    @classmethod
    def from_urdf(
        cls, path: str | Path, base_link: str, tool_link: str, joints: Sequence[str]
    ) -> KinematicChain:
        """Return the chain from ``base_link`` to ``tool_link`` whose moving joints are ``joints``.

        Args:
            path: A URDF file, or the name of one of the package's own.
            base_link: The link in whose frame all poses are.
            tool_link: The link whose pose is controlled.
            joints: Names of the J moving joints between them, base first.

        Raises:
            KinematicsError: A link is missing, or the moving joints are not ``joints``; names them.
        """
        description = read_urdf(find_urdf(str(path)))
        chain = cls.between(description, base_link, tool_link)
        if chain.joints != tuple(joints):
            raise KinematicsError(
                f"{description.source}: from {base_link!r} to {tool_link!r} the moving joints are "
                f"{', '.join(chain.joints) or 'none'}; the profile lists {', '.join(joints) or 'none'}"
            )
        return chain

    @classmethod
    def between(cls, description: RobotDescription, base_link: str, tool_link: str) -> KinematicChain:
        """Return the chain from ``base_link`` to ``tool_link`` with all moving joints that lie between.

        Args:
            description: The URDF, as ``read_urdf`` returns it.
            base_link: The link in whose frame all poses are.
            tool_link: The link whose pose is controlled.

        Raises:
            KinematicsError: A link is missing, or a joint is of a kind that a chain cannot have; names it.
        """
        along = description.path(base_link, tool_link)
        for joint in along:
            if joint.kind in MANY_POSITIONS:
                raise KinematicsError(
                    f"{description.source}: joint {joint.name!r} between {base_link!r} and {tool_link!r} is "
                    f"{joint.kind}; a chain's joints must be revolute, continuous, prismatic or fixed"
                )
        return cls._from_joints(description, base_link, tool_link, along)

    @classmethod
    def from_profile(cls, arm: ArmProfile) -> KinematicChain:
        """Return the chain of a robot.

        Args:
            arm: The part ``arm`` of its profile.

        Raises:
            KinematicsError: The URDF cannot be read, or does not have the profile's links and joints.
        """
        return cls.from_urdf(arm.urdf, arm.base_link, arm.tool_link, arm.joints)

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of each of the J positions: ``rad``, or ``m`` for a joint that slides."""
        known = self.description.joints
        return tuple("m" if known[name].kind == "prismatic" else "rad" for name in self.joints)

    @classmethod
    def _from_joints(
        cls, description: RobotDescription, base_link: str, tool_link: str, along: list[Joint]
    ) -> KinematicChain:
        offset = np.eye(4)
        origins, moving = [], []
        for joint in along:
            offset = offset @ joint.origin
            if joint.kind != "fixed":
                origins.append(offset)
                moving.append(joint)
                offset = np.eye(4)
        count = len(moving)
        sine, cosine, linear = (np.zeros((count, 4, 4)) for _ in range(3))
        for i, (origin, joint) in enumerate(zip(origins, moving, strict=True)):
            if joint.kind == "prismatic":
                linear[i, :3, 3] = origin[:3, :3] @ joint.axis
            else:  # Rodrigues: R = I + sin(q) K + (1 - cos(q)) K²
                k = skew(joint.axis)
                sine[i, :3, :3] = origin[:3, :3] @ k
                cosine[i, :3, :3] = origin[:3, :3] @ k @ k
        revolute = np.array([float(joint.kind != "prismatic") for joint in moving]).reshape(-1, 1)
        coupling = JointCoupling(description, moving)
        arrays = (
            *coupling.limits(),
            np.array(origins).reshape(-1, 4, 4),
            sine,
            cosine,
            linear,
            np.array([joint.axis for joint in moving]).reshape(-1, 3),
            revolute,
            offset,
        )
        return cls(
            description,
            base_link,
            tool_link,
            coupling.joints,
            tuple(joint.name for joint in moving),
            coupling,
            *(read_only(array) for array in arrays),
        )

    def frames(self, q: ArrayLike) -> Float:
        """Return the frames of the moving joints and of the tool, in the base frame.

        T_i = T_{i-1} (A_i + sin(q_i) B_i + (1 - cos(q_i)) C_i + q_i D_i): Rodrigues' formula for a revolute
        joint (A, B, C), a translation for a prismatic one (A, D).

        Args:
            q: (..., J) joint positions; rad for revolute joints, m for prismatic ones.

        Returns:
            (..., F + 1, 4, 4), base first, the tool last. F counts J and the joints that mimic them.

        Raises:
            KinematicsError: The last axis of ``q`` is not J long.
        """
        angles = np.asarray(q, dtype=np.float64)
        if angles.shape[-1:] != (len(self.joints),):
            raise KinematicsError(
                f"joint positions have shape {angles.shape}; they must end in {len(self.joints)}"
            )
        if not self._coupling.plain:
            angles = self._coupling.positions(angles)
        part = angles[..., None, None]
        local = self._constant + np.sin(part) * self._sine + (1.0 - np.cos(part)) * self._cosine
        local += part * self._linear
        count = len(self._moving)
        out = np.empty((*angles.shape[:-1], count + 1, 4, 4))
        if not count:
            out[..., 0, :, :] = self._tool
            return out
        # Views with the frames first; for one configuration, as in the control loop, they are first already.
        placed, moved = (out, local) if angles.ndim == 1 else (np.moveaxis(x, -3, 0) for x in (out, local))
        placed[0] = moved[0]
        for i in range(1, count):
            np.matmul(placed[i - 1], moved[i], out=placed[i])
        np.matmul(placed[count - 1], self._tool, out=placed[count])
        return out

    @cached_property
    def _slides(self) -> bool:
        """Whether any joint is prismatic."""
        return not self._revolute.all()

    def forward(self, q: ArrayLike) -> Pose:
        """Return the tool's pose in the base frame.

        Args:
            q: (J,) joint positions, rad or m.

        Raises:
            KinematicsError: ``q`` is not (J,).
        """
        return Pose.from_matrix(self.frames(q)[-1])

    def jacobian(self, q: ArrayLike) -> Float:
        """Return the geometric Jacobian at the tool point.

        (v, ω) = J(q) q̇, with the tool point's velocity v in m/s and the tool's angular velocity ω in rad/s,
        both along the base axes. Column i is (z_i × (p - p_i), z_i) for a revolute joint with axis z_i
        through p_i, and (z_i, 0) for a prismatic one.

        Args:
            q: (J,) joint positions, rad or m.

        Returns:
            (6, J), linear rows first.

        Raises:
            KinematicsError: ``q`` is not (J,).
        """
        return self.jacobian_of(self.frames(q))

    def jacobian_of(self, frames: Float) -> Float:
        """Return the Jacobian from frames that are there already; see ``jacobian``.

        Args:
            frames: (F + 1, 4, 4), the result of ``frames`` for one configuration.

        Returns:
            (6, J), linear rows first.
        """
        axes = (frames[:-1, :3, :3] @ self._axes[:, :, None])[:, :, 0]
        arms = frames[-1, :3, 3] - frames[:-1, :3, 3]
        out = np.empty((6, len(self._moving)))
        # The cross product written out: np.cross costs several times as much on arrays this small.
        cross = axes.take(_NEXT, 1) * arms.take(_LAST, 1) - axes.take(_LAST, 1) * arms.take(_NEXT, 1)
        out[:3] = cross.T
        if self._slides:
            out[:3] = np.where(self._revolute.T > 0, out[:3], axes.T)
            axes = axes * self._revolute
        out[3:] = axes.T
        return out if self._coupling.plain else out @ self._coupling.follow

    def lever_arms(self, anchor: int, frame: int, points: Float) -> Float:
        """Return how far each joint can move each of ``points``, seen from the frame ``anchor``, per radian.

        A joint moves what it carries along arcs around its axis, and an arc is no longer than its radius
        times the angle. The radius is at most the sum of the distances from one origin to the next and on to
        the point, of which the first counts only as far as it leads away from the axis. So the bound holds
        in every configuration, and from any of them to any other: joints may turn one after the other.

        Args:
            anchor: The moving frame that the points are seen from; -1 is the base.
            frame: The moving frame that they are fixed to, not below ``anchor``.
            points: (N, 3) in ``frame``, metres.

        Returns:
            (N, J) metres per radian; 0 for a joint that is not between the two frames. Infinite, all of them,
            if a joint between them slides: then the distances have no such bound.
        """
        if not self._revolute[anchor + 1 : frame + 1].all():
            return np.full((len(points), len(self.joints)), np.inf)
        levers, beyond, way = np.zeros((len(points), len(self._moving))), np.zeros(len(points)), points
        for i in range(frame, anchor, -1):
            across = way @ skew(self._axes[i])  # as long as the distance from the axis
            levers[:, i] = np.linalg.norm(across, axis=-1) + beyond
            beyond += np.linalg.norm(way, axis=-1)
            way = self._constant[i, :3, 3]  # from the frame before, whatever the joint's position
        followed: Float = levers @ np.abs(self._coupling.follow)
        return followed

    def tool_lever_arms(self) -> tuple[Float, Float]:
        """Return how far each joint can move the tool point, and how much it can turn the tool.

        Returns:
            (J,) metres per radian, as ``lever_arms``; (J,) radians per radian.
        """
        moved = self.lever_arms(-1, len(self._moving) - 1, self._tool[None, :3, 3])[0]
        turned: Float = self._revolute[:, 0] @ np.abs(self._coupling.follow)
        return moved, turned

    def link_offsets(self, others: Mapping[str, float] | None = None) -> dict[str, tuple[int, Float]]:
        """Return, for each link, the moving frame that it is attached to and its pose (4, 4) in that frame.

        Frame -1 is the base. Links whose place is unknown are left out; ``link_covers`` reports them.

        Args:
            others: Positions of joints outside the chain (a gripper's fingers) by name, rad or m. Those that
                are not named are at the position nearest to 0 within their limits.
        """
        placed: dict[str, tuple[int, Float]] = {self.base_link: (-1, np.eye(4))}
        pending = [self.base_link]
        while pending:
            parent = pending.pop()
            frame, pose = placed[parent]
            for joint in self.description.joints.values():
                if joint.parent != parent:
                    continue
                if joint.name in self._moving:
                    placed[joint.child] = (self._moving.index(joint.name), np.eye(4))
                else:
                    position = self._position(joint, others or {})
                    if position is None:
                        continue
                    placed[joint.child] = (frame, pose @ joint.origin @ _motion(joint, position))
                pending.append(joint.child)
        return placed

    def link_poses(self, q: ArrayLike, others: Mapping[str, float] | None = None) -> dict[str, Pose]:
        """Return the pose of every link below the base link, in the base frame, by the link's name.

        Args:
            q: (J,) joint positions, rad or m.
            others: Positions of joints outside the chain, as for ``link_offsets``.

        Raises:
            KinematicsError: ``q`` is not (J,).
        """
        frames = self.frames(q)
        return {
            link: Pose.from_matrix(offset if frame < 0 else frames[frame] @ offset)
            for link, (frame, offset) in self.link_offsets(others).items()
        }

    def _position(self, joint: Joint, others: Mapping[str, float]) -> float | None:
        """Return where a joint outside the chain stands; None where nobody can say."""
        if joint.name in others:
            return others[joint.name]
        if joint.kind in MANY_POSITIONS:
            return None
        try:
            leader, multiplier, offset = self.description.leader(joint)
        except KinematicsError:
            return None
        if leader.name in self._moving:
            return None  # moves with the arm, in a branch of its own
        position = others.get(leader.name, min(max(0.0, leader.lower), leader.upper))
        return multiplier * position + offset


def _motion(joint: Joint, position: float) -> Float:
    matrix = np.eye(4)
    if joint.kind == "prismatic":
        matrix[:3, 3] = joint.axis * position
    elif joint.kind != "fixed":
        matrix[:3, :3] = transform_rotvec_to_matrix(joint.axis * position)
    return matrix
