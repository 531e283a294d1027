"""One robosuite demonstration, in robomimic's or LIBERO's layout, as an episode.

What cannot be taken over (poses without a known base, depth, a gripper of unknown width) is left out and
named in the provenance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openvla_ros.data.episodes.episode_source import stamps_from_seconds
from openvla_ros.data.episodes.followed_commands import REACHED, noted_share
from openvla_ros.data.hdf.hdf5_images import Hdf5Frames, attribute_text
from openvla_ros.data.hdf.robosuite_base import base_pose
from openvla_ros.data.hdf.robosuite_controller import osc_commands
from openvla_ros.data.hdf.robosuite_environment import Environment
from openvla_ros.errors import DatasetError
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode, ImageSequence
from openvla_ros.values.geometry import Pose, transform_quaternion_to_matrix, transform_rotvec_to_matrix

LEFT_OUT = "left_out"  # provenance: what the file holds and the episode does not, and why
LATE = "observations_after_actions"  # provenance: how the file pairs observations with actions
_MUCH = 4.0  # times: one comparison of joints and states must be this much closer than the other


@dataclass(frozen=True, eq=False)
class _State:
    """The measured state of a demonstration, in the world frame."""

    position: Float | None  # (T, 3)
    rotation: Float | None  # (T, 3, 3)
    joints: Float | None  # (T, J)
    fingers: Float | None  # (T, N)
    is_libero: bool

    @classmethod
    def of(cls, observations: Any) -> _State:
        if "ee_pos" in observations and "joint_states" in observations:
            turn = _floats(observations, "ee_ori")
            return cls(
                _floats(observations, "ee_pos"),
                None if turn is None else transform_rotvec_to_matrix(turn),
                _floats(observations, "joint_states"),
                _floats(observations, "gripper_states"),
                True,
            )
        quaternion = _floats(observations, "robot0_eef_quat")  # x, y, z, w
        return cls(
            _floats(observations, "robot0_eef_pos"),
            None if quaternion is None else transform_quaternion_to_matrix(quaternion),
            _floats(observations, "robot0_joint_pos"),
            _floats(observations, "robot0_gripper_qpos"),
            "agentview_rgb" in observations,
        )


@dataclass
class DemonstrationReader:
    """Reads demonstrations of one file; tells ``say`` what it leaves out."""

    path: Path
    environment: Environment
    say: Callable[[str], None]
    _left_out: list[str] = field(default_factory=list)

    def read(self, demo: Any, name: str, provenance: Mapping[str, str]) -> Episode:
        """Return demonstration ``demo``; raises ``DatasetError`` if its actions are not OSC deltas."""
        self._left_out = []
        environment, observations = self.environment, demo["obs"]
        stored = np.asarray(demo["actions"], np.float64)
        commands = osc_commands(environment.values, stored.shape[1], str(self.path))
        base = self._base(demo)
        turn = None if base is None else base.rotation
        if base is None and commands.frame == "world":
            self.say("commands are along the world's axes; how the base is turned in the world is not known")
        state = _State.of(observations)
        space = commands.space(turn)
        actions = commands.decoded(stored, turn)
        length = len(actions)
        episode = Episode(
            id=name,
            instruction=environment.instruction(demo),
            space=space,
            rate_hz=space.rate_hz,
            stamps_ns=stamps_from_seconds(np.arange(length) / space.rate_hz),
            images=self._images(observations),
            actions=actions,
            joint_positions=state.joints,
            poses=self._poses(state, base),
            gripper=self._gripper(state),
            outcome=environment.outcome(demo),
            provenance={"environment": str(environment.values.get("env_name", "")), **provenance},
        )
        episode, position = self._paired(episode, state, demo)
        return self._with_notes(episode, noted_share(episode.actions, position))

    def _base(self, demo: Any) -> Pose | None:
        model = attribute_text(demo, "model_file")
        if model is None:
            return None
        try:
            return base_pose(model)
        except DatasetError as error:
            self._leave_out(f"poses ({error})")
            return None

    def _poses(self, state: _State, base: Pose | None) -> Float | None:
        """Return the tool's poses (T, 4, 4) in the base frame, if it is known where the base stands."""
        if state.position is None or state.rotation is None:
            return None
        if base is None:
            if not self._left_out:
                self._leave_out(
                    "poses (they are in the world frame, and no model_file says where the base stands)"
                )
            return None
        poses = np.tile(np.eye(4), (len(state.position), 1, 1))
        poses[:, :3, :3] = base.rotation.T @ state.rotation
        poses[:, :3, 3] = (state.position - base.position) @ base.rotation
        return poses

    def _gripper(self, state: _State) -> Float | None:
        if state.fingers is None:
            return None
        width = self.environment.finger_width_m(state.fingers)
        if width is None:
            self._leave_out("the gripper's opening (its full width is only known for the Panda gripper)")
            return None
        opening: Float = np.clip((state.fingers[:, 0] - state.fingers[:, 1]) / width, 0.0, 1.0)
        return opening

    def _images(self, observations: Any) -> dict[str, ImageSequence]:
        images: dict[str, ImageSequence] = {}
        for key in sorted(observations):
            values = observations[key]
            if not isinstance(values, h5py.Dataset) or values.ndim != 4:
                continue
            if values.dtype != np.uint8 or values.shape[3] != 3:
                self._leave_out(f"{key} ({values.dtype} {values.shape[1:]}; cameras are uint8 RGB)")
                continue
            camera = key.removesuffix("_image").removesuffix("_rgb")
            images[camera] = Hdf5Frames(
                self.path, values.name, len(values), bottom_up=self.environment.bottom_up
            )
        return images

    def _paired(self, episode: Episode, state: _State, demo: Any) -> tuple[Episode, Float | None]:
        """Return the episode with each action after the observation it followed, and positions (T, 3).

        LIBERO stores each observation after its action was carried out. Joint positions beside the
        simulator's states show that; where they do, observation i gets action i + 1.
        """
        late = None
        if state.joints is not None and "states" in demo:
            late = observed_after_action(state.joints, np.asarray(demo["states"], np.float64))
        if not late:
            if late is None and state.is_libero:
                self.say("whether images show the moment before or after their action is not known")
            return episode, state.position
        self.say("observations show the moment after their action: each is paired with the next one")
        steps = np.arange(len(episode) - 1)
        provenance = {**episode.provenance, LATE: "true"}
        shifted = replace(episode.take(steps), actions=episode.actions[1:], provenance=provenance)
        return shifted, None if state.position is None else state.position[:-1]

    def _leave_out(self, what: str) -> None:
        self._left_out.append(what)
        self.say(f"left out: {what}")

    def _with_notes(self, episode: Episode, reached: str) -> Episode:
        notes = {REACHED: reached}
        if self._left_out:
            notes[LEFT_OUT] = "; ".join(self._left_out)
        return replace(episode, provenance={**episode.provenance, **notes})


def observed_after_action(joints: Float, states: Float) -> bool | None:
    """Return whether ``joints`` (T, J) are from after the step that begins in ``states`` (T, 1 + N).

    A state is MuJoCo's time, then its positions, which start with the arm's. None if neither moment fits much
    better than the other, as with an arm at rest.
    """
    steps, count = joints.shape
    if states.ndim != 2 or len(states) != steps or states.shape[1] <= count or steps < 3:
        return None
    arm = states[:, 1 : 1 + count]
    before = float(np.abs(joints[:-1] - arm[:-1]).mean())
    after = float(np.abs(joints[:-1] - arm[1:]).mean())
    if before * _MUCH < after:
        return False
    return True if after * _MUCH < before else None


def _floats(observations: Any, key: str) -> Float | None:
    return np.asarray(observations[key], np.float64) if key in observations else None
