"""Reads a recorded episode: any moment of it as an ``Observation``, the whole as an ``Episode``.

Opening reads stamps and states, but no images; those are decoded on access. ``streams.sampling``, which
also runs live, decides what was observed at a stamp.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.bag_folder import mcap_in, open_verified
from openvla_ros.data.bags.bag_metadata import EpisodeMetadata, parse_metadata
from openvla_ros.data.bags.bag_topic import BagFrames, RecordedMessage, Stream
from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.resampling import (
    OwnerChange,
    RecordedChunk,
    Steps,
    commanded_steps,
    executed,
    grid,
    measured_steps,
    newest_before,
    target_steps,
)
from openvla_ros.data.episodes.frame_instructions import LEFT_OUT, most_frequent
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.profile import CameraProfile
from openvla_ros.robot.authority import PERSON
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.streams.sampling import JointSample, arm_sample, observe, proprioception
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Bool, Float, Image, Int
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation
from openvla_ros.values.time import NS_PER_S

ActionSource = Literal["commanded", "target", "measured"]
ACTION_SOURCES: tuple[ActionSource, ...] = get_args(ActionSource)


class BagReader:
    """One episode folder (or MCAP file), open for reading. Close it, or use it in ``with``.

    All checksums of a finished one are verified first. Raises ``DatasetError`` if it is damaged or was not
    recorded by this package. Implements ``streams.sampling.Streams``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_verified(path, unfinished=True)
        self.metadata: EpisodeMetadata = parse_metadata(self._file.metadata, str(path))
        self.profile = self.metadata.profile
        self.space = self.profile.space()
        self._decode = cdr.MessageDecoder({c.type: c.definition for c in self._file.channels})
        self._streams: dict[str, Stream | None] = {}

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; images of an episode that is still in use keep it mapped."""
        self._streams.clear()
        self._file.close()

    @property
    def finished(self) -> bool:
        """Whether the file is complete; that of an episode in progress is not."""
        return self._file.finished

    def stream(self, role: str, stamped: bool = True) -> Stream | None:
        """Return the stream that plays ``role`` (see ``EpisodeMetadata``), or ``None``."""
        if role not in self._streams:
            channel = self._file.channel(self.metadata.topics.get(role, ""))
            self._streams[role] = Stream(self._file, channel, stamped) if channel else None
        return self._streams[role]

    def messages(self, role: str, stamped: bool = True) -> Iterator[RecordedMessage]:
        """Yield a whole stream in order of its stamps; nothing if the bag does not have it."""
        stream = self.stream(role, stamped)
        for i in range(len(stream) if stream else 0):
            assert stream is not None
            message = self._decode(stream.channel.type, stream.data(i))
            yield RecordedMessage(int(stream.stamps_ns[i]), stream.received_ns(i), message)

    def image(self, camera: str, stamp_ns: int) -> tuple[int, Image] | None:
        """Return stamp and image of ``camera`` at ``stamp_ns``."""
        stream = self.stream(f"camera/{camera}/image_raw")
        index = stream.at(stamp_ns) if stream else -1
        if stream is None or index < 0:
            return None
        return int(stream.stamps_ns[index]), cdr.decode_image(stream.channel.type, stream.data(index))

    def joints(self, stamp_ns: int) -> tuple[int, JointSample] | None:
        """Return stamp and joint state at ``stamp_ns``."""
        stream = self.stream("joint_states")
        index = stream.at(stamp_ns) if stream else -1
        if stream is None or index < 0:
            return None
        return self._joint_sample(stream, index)

    def instruction(self, stamp_ns: int) -> str | None:
        """Return the instruction that was active at ``stamp_ns``; before the first, that of the metadata."""
        heard = [text for stamp, text in self._instructions if stamp <= stamp_ns]
        return heard[-1] if heard else self.metadata.instruction or None

    def observation(self, stamp_ns: int) -> Observation:
        """Return the observation at ``stamp_ns``; raises as ``streams.sampling.observe``."""
        return observe(self.profile, self, stamp_ns, self._forward)

    def episode(self, actions: ActionSource = "commanded") -> Episode:
        """Return the whole recording as an ``Episode``.

        ``commanded``: the actions of the chunks that were executed, or, where the recording was imported
        without any, what ``from_joint_states`` computes; ``target``: differences of the controller's target
        poses at the action space's rate; ``measured``: differences of measured poses. Steps without a fresh
        image of every camera and a fresh state are left out and counted in the provenance. Raises
        ``DatasetError`` if no step is left.
        """
        gaps = 0
        match actions:
            case "commanded" | "measured" if self.metadata.actions == "joint_states":
                steps, gaps = self.from_joint_states()
            case "commanded" | "measured":
                steps = self.commanded()
            case "target":
                steps = self.targets()
            case _:
                raise DatasetError(f"actions {actions!r}: choose from {', '.join(ACTION_SOURCES)}")
        episode = self._episode(steps, gaps)
        return episode.with_measured_actions() if actions == "measured" else episode

    def chunks(self) -> list[RecordedChunk]:
        """Return every chunk that was published, those of a policy first."""
        found = []
        for role, person in (("policy/action_chunk", False), ("teleop/action_chunk", True)):
            for item in self.messages(role):
                message = item.value
                rows = np.array([point.positions[: self.space.width] for point in message.points])
                if tuple(message.joint_names[: self.space.width]) != self.space.names:
                    raise DatasetError(
                        f"{self.path}: a chunk on {role} has the dimensions {list(message.joint_names)}; the "
                        f"profile has {list(self.space.names)}"
                    )
                chunk = ActionChunk(rows, item.stamp_ns, self.space)
                found.append(RecordedChunk(chunk, person, item.received_ns))
        return found

    def commanded(self) -> Steps:
        """Return the steps of the chunks that were executed."""
        chunks = self.chunks()
        owners, refused = self._verdicts
        taken = executed(chunks, owners, refused)
        try:
            return commanded_steps(taken, has_policy=not all(chunk.by_person for chunk in chunks))
        except DatasetError as error:
            raise DatasetError(f"{self.path}: {error}") from error

    def targets(self) -> Steps:
        """Return steps at the action space's rate, from the controller's target poses."""
        stream = self.stream("controller/target_pose")
        if stream is None or len(stream) < 2:
            raise DatasetError(f"{self.path} contains no target poses")
        stamps = grid(int(stream.stamps_ns[0]), int(stream.stamps_ns[-1]), self.space.rate_hz)
        if len(stamps) < 2:
            raise DatasetError(f"{self.path} is shorter than one step")
        kind = stream.channel.type
        poses = [_pose(self._decode(kind, stream.data(i))) for i in newest_before(stream.stamps_ns, stamps)]
        chunks = self.chunks()
        taken = executed(chunks, *self._verdicts)
        if not taken:
            raise DatasetError(f"{self.path} contains no executed chunk to take the gripper command from")
        at = newest_before(np.array([c.stamp_ns for c in taken], np.int64), stamps)
        measured = self._states(stamps)[1]
        openings = np.array(
            [
                self.space.opening(float(taken[i].chunk.actions[0, -1])) if i >= 0 else m
                for i, m in zip(at, measured, strict=True)
            ]
        )
        policy = not all(chunk.by_person for chunk in chunks)
        person = np.array([policy and i >= 0 and taken[i].by_person for i in at])
        return target_steps(stamps, poses, openings, self.space, person)

    def from_joint_states(self) -> tuple[Steps, int]:
        """Return steps at the action space's rate from measured joint states, and how many gaps took.

        They begin where every camera and the joint states have begun. The gripper's command is its measured
        opening at the end of the step. Raises ``DatasetError`` if there is no step.
        """
        roles = [f"camera/{camera.name}/image_raw" for camera in self.profile.cameras]
        streams = [self.stream(role) for role in (*roles, "joint_states")]
        if any(stream is None or not len(stream) for stream in streams):
            raise DatasetError(f"{self.path} lacks images or joint states to compute actions from")
        first = max(int(stream.stamps_ns[0]) for stream in streams if stream is not None)
        arm = self._arm_stamps
        stamps = grid(first, int(arm[-1]), self.space.rate_hz) if len(arm) else arm
        if len(stamps) < 2:
            raise DatasetError(f"{self.path} is shorter than one step of {self.space.step_s:g} s")
        index = newest_before(arm, stamps)
        age_ns = stamps - arm[np.maximum(index, 0)]
        fresh = (index >= 0) & (age_ns <= self.profile.state.max_age_s * NS_PER_S)
        positions, openings = self._states(stamps)
        poses = [self._forward(q) for q in positions]
        steps, gaps = measured_steps(stamps, poses, openings, fresh, self.space)
        return steps, len(gaps)

    def _episode(self, steps: Steps, gaps: int = 0) -> Episode:
        if not len(steps):
            raise DatasetError(f"{self.path}: the joint states have gaps in each of {gaps} steps")
        fresh, reasons = self._fresh(steps.stamps_ns)
        text, said = self._longest_instruction(steps, fresh)
        left_out = len(steps) - int(fresh.sum()) + gaps
        if gaps:
            reasons = ", ".join(part for part in (reasons, f"gaps in joint_states: {gaps}") if part)
        steps = steps.keep(fresh & said)
        if not len(steps):
            raise DatasetError(f"{self.path}: no step has fresh images and state ({reasons})")
        positions, gripper = self._states(steps.stamps_ns)
        return Episode(
            id=self.path.stem,
            instruction=text,
            space=self.space,
            rate_hz=self.space.rate_hz,
            stamps_ns=steps.stamps_ns,
            images={camera.name: self._images(camera, steps.stamps_ns) for camera in self.profile.cameras},
            actions=steps.actions,
            joint_positions=positions,
            poses=np.array([self._forward(q).matrix for q in positions]),
            gripper=gripper,
            intervention=steps.intervention,
            outcome=self.metadata.outcome,
            provenance=self._provenance(left_out, reasons, len(fresh) - int(said.sum())),
        )

    def _provenance(self, left_out: int, reasons: str, other_instruction: int) -> dict[str, str]:
        m = self.metadata
        values = {
            "format": "bag",
            "path": str(self.path),
            "robot": m.profile.name,
            "operator": m.operator,
            "software_version": m.software_version,
            "recovered": str(m.recovered).lower(),
            "quality_warnings": json.dumps(m.warnings, ensure_ascii=False),
            **m.origin,
        }
        if m.actions != "commanded":
            values["actions_from"] = m.actions
        if left_out:
            values["steps_left_out"] = f"{left_out} ({reasons})"
        if other_instruction:
            values[LEFT_OUT] = str(other_instruction)
        return values

    def _fresh(self, stamps: Int) -> tuple[Bool, str]:
        """Return the steps (T,) at which every stream has a fresh sample, and the streams that had none."""
        fresh, reasons = np.ones(len(stamps), bool), []
        limits = {f"camera/{c.name}/image_raw": c.max_age_s for c in self.profile.cameras}
        limits["joint_states"] = self.profile.state.max_age_s
        for role, max_age_s in limits.items():
            stream = self.stream(role)
            if stream is None or not len(stream):
                return np.zeros(len(stamps), bool), f"{role} is not in the recording"
            there = self._arm_stamps if role == "joint_states" else stream.stamps_ns
            index = newest_before(there, stamps)
            good = (index >= 0) & (stamps - there[np.maximum(index, 0)] <= max_age_s * NS_PER_S)
            if not good.all():
                reasons.append(f"{role}: {int((~good).sum())}")
            fresh &= good
        return fresh, ", ".join(reasons)

    def _longest_instruction(self, steps: Steps, fresh: Bool) -> tuple[str, Bool]:
        """Return the instruction of most steps, and the steps (T,) that it covers."""
        return most_frequent([self.instruction(int(stamp)) or "" for stamp in steps.stamps_ns], fresh)

    def _states(self, stamps: Int) -> tuple[Float, Float]:
        """Return joint positions (T, J) and gripper openings (T,) at ``stamps``."""
        stream = self.stream("joint_states")
        if stream is None:
            raise DatasetError(f"{self.path} contains no joint states")
        index = np.maximum(newest_before(stream.stamps_ns, stamps), 0)
        pairs = [proprioception(self.profile, self._joint_sample(stream, int(i))[1]) for i in index]
        return np.array([q for q, _ in pairs]), np.array([g for _, g in pairs])

    def _images(self, camera: CameraProfile, stamps: Int) -> BagFrames:
        stream = self.stream(f"camera/{camera.name}/image_raw")
        if stream is None:
            raise DatasetError(f"{self.path} contains no images from camera {camera.name!r}")
        return BagFrames(stream, newest_before(stream.stamps_ns, stamps), camera)

    def _joint_sample(self, stream: Stream, index: int) -> tuple[int, JointSample]:
        """Return stamp and joints of the newest message up to ``index`` with the arm's joints, as live code.

        Raises ``InvalidValueError`` if none does; says what is wrong with the newest one.
        """
        problem = InvalidValueError(f"{self.path}: no message on joint_states has the arm's joints")
        for i in range(index, -1, -1):
            message = self._decode(stream.channel.type, stream.data(i))
            try:
                sample = arm_sample(self.profile, message.name, message.position)
            except InvalidValueError as error:
                problem = error if i == index else problem
                continue
            if sample is not None:
                return int(stream.stamps_ns[i]), sample
        raise problem

    @cached_property
    def _arm_stamps(self) -> Int:
        """Return the stamps (N,) of the joint states that hold the arm's joints; others do not make it fresh.

        Raises ``InvalidValueError`` with what is wrong with the newest one if none does.
        """
        stream = self.stream("joint_states")
        count = len(stream) if stream is not None else 0
        stamps = [
            int(item.stamp_ns) for item in self.messages("joint_states") if self._holds_the_arm(item.value)
        ]
        if stream is not None and count and not stamps:
            self._joint_sample(stream, count - 1)
        return np.array(stamps, np.int64)

    def _holds_the_arm(self, message: Any) -> bool:
        try:
            return arm_sample(self.profile, message.name, message.position) is not None
        except InvalidValueError:
            return False

    @cached_property
    def _forward(self) -> Callable[[Float], Pose]:
        return KinematicChain.from_profile(self.profile.arm).forward

    @cached_property
    def _instructions(self) -> list[tuple[int, str]]:
        """Return the instructions sent by topic, and those that the policy reports from the action."""

        def said(role: str) -> list[tuple[int, str]]:
            return [(m.received_ns, m.value.data) for m in self.messages(role, stamped=False)]

        told = [(at, words) for at, words in said("policy/instruction") if words.strip()]
        return sorted([*said("instruction"), *said("recorder/instruction"), *told])

    @cached_property
    def _verdicts(self) -> tuple[list[OwnerChange], frozenset[tuple[bool, int]]]:
        """Return the owners of the arm over time, and the refused chunks."""
        owners: list[OwnerChange] = []
        refused = set()
        for verdict in self.messages("controller/verdict", stamped=False):
            values = {pair.key: pair.value for pair in verdict.value.values}
            person = values.get("owner") == PERSON
            if "owner" in values and (not owners or owners[-1].person != person):
                owners.append(OwnerChange(verdict.received_ns, person))
            if values.get("outcome") == "hold" and values.get("chunk_stamp_ns"):
                refused.add((values.get("source") == PERSON, int(values["chunk_stamp_ns"])))
        return owners, frozenset(refused)


def read_metadata(path: Path) -> EpisodeMetadata:
    """Return the metadata of one recorded episode."""
    with McapFile(mcap_in(path)) as file:
        return parse_metadata(file.metadata, str(path))


def _pose(message: Any) -> Pose:
    p, q = message.pose.position, message.pose.orientation
    return Pose.from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])
