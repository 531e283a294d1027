"""One demonstration: its steps, its action space, and its provenance.

Every format (bag, RLDS, LeRobot, HDF5) is read into this value, and ``Episode.observation`` returns the same
``Observation`` as live code. Images stay encoded or on disk until they are accessed. Knows nothing of files
or formats; those are in ``openvla_ros.data``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, Protocol, cast, get_args

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Bool, Float, Image, Int, float_array, read_only
from openvla_ros.values.geometry import Pose, transform_matrix_to_euler, transform_matrix_to_rotvec
from openvla_ros.values.observation import Observation
from openvla_ros.values.time import seconds

Outcome = Literal["success", "failure", "unknown"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_GAP = 1.5  # steps: what is further apart is not consecutive


class ImageSequence(Protocol):
    """The images of one camera, decoded on access.

    A sequence of compressed images also has ``encoded(index) -> bytes``, so that a conversion can copy them
    unchanged (see ``openvla_ros.data.episodes.encoded_images``).
    """

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int) -> Image:
        """Return image ``index`` as uint8 (H, W, 3) RGB."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """One step of an episode: the observation, and the action commanded next."""

    observation: Observation
    action: Float  # (D,) in the episode's action space
    intervention: bool  # a person had taken over from a policy
    is_first: bool
    is_last: bool


@dataclass(frozen=True, eq=False)
class Episode:
    """One demonstration of T steps; ``actions[i]`` was commanded after ``observation(i)``.

    Actions are what was commanded; ``measured_deltas`` returns the differences of measured poses. An empty
    instruction means that the episode is not labelled.
    """

    id: str
    instruction: str
    space: ActionSpace
    rate_hz: float  # step rate, Hz
    stamps_ns: Int  # (T,) nanoseconds, increasing
    images: Mapping[str, ImageSequence]  # camera name → T images
    actions: Float  # (T, D) commanded
    joint_positions: Float | None = None  # (T, J) radians
    poses: Float | None = None  # (T, 4, 4) tool in the base frame, metres
    gripper: Float | None = None  # (T,) opening, 0 closed .. 1 open
    intervention: Bool = field(default_factory=lambda: np.zeros(0, bool))  # (T,); empty: none
    outcome: Outcome = "unknown"
    provenance: Mapping[str, str] = field(default_factory=dict)  # format, path, profile, operator, …

    def __post_init__(self) -> None:
        stamps = np.array(self.stamps_ns, dtype=np.int64)
        if stamps.ndim != 1 or not len(stamps):
            raise InvalidValueError(f"{self._name} has stamps of shape {stamps.shape}; it needs one per step")
        if np.any(np.diff(stamps) <= 0):
            late = int(np.argmax(np.diff(stamps) <= 0)) + 1
            raise InvalidValueError(f"{self._name}: the stamp of step {late} is not after the previous one")
        length = len(stamps)
        self._set("stamps_ns", read_only(stamps))
        self._set("actions", self._floats("actions", (length, self.space.width)))
        for name, shape in (
            ("joint_positions", (length, None)),
            ("poses", (length, 4, 4)),
            ("gripper", (length,)),
        ):
            if getattr(self, name) is not None:
                self._set(name, self._floats(name, shape))
        self._check_ranges()
        self._set("intervention", read_only(self._mask(length)))
        self._set("images", MappingProxyType(dict(self.images)))
        for camera, images in self.images.items():
            if len(images) != length:
                raise InvalidValueError(
                    f"{self._name}: camera {camera!r} has {len(images)} images for {length} steps"
                )
        self._set("provenance", MappingProxyType(dict(self.provenance)))

    @property
    def _name(self) -> str:
        return f"episode {self.id!r}"

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _floats(self, name: str, shape: tuple[int | None, ...]) -> Float:
        return float_array(f"{self._name}: {name}", getattr(self, name), shape)

    def _check_ranges(self) -> None:
        if not 0.0 < self.rate_hz <= 1000.0:
            raise InvalidValueError(f"{self._name}: rate is {self.rate_hz} Hz; it must lie within 0 .. 1000")
        if self.rate_hz != self.space.rate_hz:  # an adapter would learn deltas of one to move at the other
            raise InvalidValueError(
                f"{self._name}: steps at {self.rate_hz:g} Hz, but an action space for "
                f"{self.space.rate_hz:g} Hz"
            )
        if self.outcome not in OUTCOMES:
            raise InvalidValueError(f"{self._name}: outcome is {self.outcome!r}; choose from {OUTCOMES}")
        if self.gripper is not None and (self.gripper.min() < 0.0 or self.gripper.max() > 1.0):
            low, high = self.gripper.min(), self.gripper.max()
            raise InvalidValueError(f"{self._name}: gripper spans {low} .. {high}; it must lie within 0 .. 1")
        if self.poses is not None:
            rotation = self.poses[:, :3, :3]
            error = np.abs(rotation @ np.swapaxes(rotation, 1, 2) - np.eye(3)).max(axis=(1, 2))
            bad = (error > 1e-6) | (np.linalg.det(rotation) < 0)
            if bad.any():
                where = int(np.argmax(bad))
                raise InvalidValueError(f"{self._name}: poses[{where}] does not contain a rotation matrix")

    def _mask(self, length: int) -> Bool:
        mask = np.array(self.intervention, dtype=np.bool_)
        if not mask.size:
            return np.zeros(length, np.bool_)
        if mask.shape != (length,):
            raise InvalidValueError(
                f"{self._name}: intervention has shape {mask.shape}; it must be ({length},)"
            )
        return mask

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def __iter__(self) -> Iterator[Step]:
        return (self.step(i) for i in range(len(self)))

    @property
    def duration_s(self) -> float:
        """Seconds from the first observation to the end of the last step."""
        return seconds(int(self.stamps_ns[-1] - self.stamps_ns[0])) + 1.0 / self.rate_hz

    def observation(self, index: int) -> Observation:
        """Return the observation at a step, the same value that live code builds; decodes its images.

        Args:
            index: The step, 0 .. T-1.

        Raises:
            InvalidValueError: The episode has no instruction or no camera.
            DatasetError: An image is damaged.
        """
        return Observation(
            stamp_ns=int(self.stamps_ns[index]),
            images={camera: images[index] for camera, images in self.images.items()},
            instruction=self.instruction,
            joint_positions=None if self.joint_positions is None else self.joint_positions[index],
            pose=None if self.poses is None else Pose.from_matrix(self.poses[index]),
            gripper=None if self.gripper is None else float(self.gripper[index]),
        )

    def step(self, index: int) -> Step:
        """Return one step: its observation, and the action commanded after it.

        Args:
            index: The step, 0 .. T-1.

        Raises:
            InvalidValueError: The episode has no instruction or no camera.
            DatasetError: An image is damaged.
        """
        return Step(
            observation=self.observation(index),
            action=self.actions[index],
            intervention=bool(self.intervention[index]),
            is_first=index == 0,
            is_last=index == len(self) - 1,
        )

    def commanded_changes(self) -> Float:
        """Return what each action changes, the gripper left out (T, D - 1), number by number.

        Actions that state targets change them by the difference to the action before, the first by nothing.
        """
        motion = self.actions[:, :-1]
        if not self.space.is_absolute:
            return motion
        return np.diff(motion, axis=0, prepend=motion[:1])

    def measured_deltas(self) -> Float:
        """Return the arm's measured motion in each step, as actions (T-1, D) in ``space``.

        With tool poses (R, p) and (R', p') of consecutive steps: p' - p and R' Rᵀ along the base axes, or
        Rᵀ (p' - p) and Rᵀ R' along the tool's, as ``space.frame`` says. The gripper value stays the commanded
        one: a measured gripper stalls on the grasped object. The last step has no successor, hence no delta.

        Raises:
            InvalidValueError: The episode has no poses, the units of its space are not known, or its actions
                are no deltas of the tool.
        """
        if self.poses is None:
            raise InvalidValueError(f"{self._name} has no measured poses to compute deltas from")
        motion = pose_deltas(self.poses, self.space) / self.space.si_factors
        return np.concatenate([motion, self.actions[:-1, 6:]], axis=1)

    def with_measured_actions(self) -> Episode:
        """Return the episode with ``measured_deltas`` as its actions.

        The last step is left out, and each step before a gap: what the arm did meanwhile is no single step.

        Raises:
            InvalidValueError: No step is left, or there are no poses or known units.
        """
        near = np.diff(self.stamps_ns) <= _GAP * 1e9 / self.rate_hz
        if not near.any():
            raise InvalidValueError(f"{self._name} has no two consecutive steps to take differences of")
        return replace(self.take(np.flatnonzero(near)), actions=self.measured_deltas()[near])

    def with_cameras(self, cameras: Sequence[str]) -> Episode:
        """Return the episode with only some of its cameras; the others are never decoded.

        Args:
            cameras: Names of the cameras to keep.

        Raises:
            InvalidValueError: There is no such camera; lists the existing ones.
        """
        if missing := sorted(set(cameras) - set(self.images)):
            raise InvalidValueError(f"{self._name} has no camera {missing}; it has {sorted(self.images)}")
        return replace(self, images={camera: self.images[camera] for camera in cameras})

    def slice(self, start: int, stop: int) -> Episode:
        """Return consecutive steps as an episode; images stay lazy.

        Args:
            start: The first step.
            stop: The step after the last one. Negative numbers count from the end, as in a Python slice.

        Raises:
            InvalidValueError: No step lies between them.
        """
        return self.take(np.arange(len(self))[start:stop])

    def take(self, steps: Int) -> Episode:
        """Return some steps as an episode; images stay lazy.

        Args:
            steps: (N,) indices of steps, in rising order.

        Raises:
            InvalidValueError: There are none, or they do not rise.
        """

        def chosen(array: Float | None) -> Float | None:
            return None if array is None else array[steps]

        return replace(
            self,
            stamps_ns=self.stamps_ns[steps],
            images={camera: _Chosen(images, steps) for camera, images in self.images.items()},
            actions=self.actions[steps],
            joint_positions=chosen(self.joint_positions),
            poses=chosen(self.poses),
            gripper=chosen(self.gripper),
            intervention=self.intervention[steps],
        )


def pose_deltas(poses: Float, space: ActionSpace) -> Float:
    """Return the motions (T-1, 6) between consecutive ``poses`` (T, 4, 4) in ``space``'s convention, m, rad.

    Base frame: translation along the base axes, rotation R' Rᵀ about the tool point. Tool frame:
    both along the tool's axes, Rᵀ (p' - p) and Rᵀ R'. Raises ``InvalidValueError`` if ``space`` has other
    actions than deltas of the tool.
    """
    space.check_kind("tool_delta", "the difference of measured poses")
    rotation, position = poses[:, :3, :3], poses[:, :3, 3]
    before, after = rotation[:-1], rotation[1:]
    move = np.diff(position, axis=0)
    turn = after @ np.swapaxes(before, 1, 2)
    if space.frame == "tool":
        move = np.einsum("tji,tj->ti", before, move)
        turn = np.swapaxes(before, 1, 2) @ after
    angles = (
        transform_matrix_to_euler(turn) if space.rotation == "euler_xyz" else transform_matrix_to_rotvec(turn)
    )
    return np.concatenate([move, angles], axis=1)


class _Chosen:
    """Some images of a sequence, without touching the rest."""

    def __init__(self, images: ImageSequence, steps: Int) -> None:
        self._images = images
        self._steps = [int(step) for step in steps]

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> Image:
        return self._images[self._steps[index]]

    def encoded(self, index: int) -> bytes | None:
        """Return image ``index`` as stored, or None if the source has raw pixels."""
        encoded = getattr(self._images, "encoded", None)
        return None if encoded is None else cast("bytes | None", encoded(self._steps[index]))
