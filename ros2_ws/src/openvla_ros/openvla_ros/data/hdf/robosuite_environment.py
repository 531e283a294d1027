"""What a robosuite file says of all its demonstrations: the environment, rewards, image convention."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.data.hdf.hdf5_images import attribute_text
from openvla_ros.errors import DatasetError
from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Outcome

_PANDA_WIDTH_M = 0.08  # distance of the two fingers, open


@dataclass(frozen=True)
class Environment:
    """What the file says of all its demonstrations: ``env_args`` and LIBERO's attributes."""

    values: Mapping[str, Any]
    problem: Mapping[str, Any] | None  # LIBERO's problem_info
    bottom_up: bool  # images start with the lowest row, as OpenGL reads them

    @classmethod
    def of(cls, data: Any, path: Path) -> Environment:
        """Return the environment of group ``data``; raises ``DatasetError`` if it has no ``env_args``."""
        text = attribute_text(data, "env_args")
        if text is None:
            raise DatasetError(
                f"{path}: data has no attribute env_args, which says what the actions mean "
                f"(controller, units, rate); it has {', '.join(sorted(data.attrs)) or 'none'}"
            )
        problem = attribute_text(data, "problem_info")
        convention = attribute_text(data, "macros_image_convention")
        if convention not in (None, "opengl", "opencv"):
            raise DatasetError(
                f"{path}: macros_image_convention is {convention!r}; it must be opengl or opencv"
            )
        return cls(
            _object(text, f"{path}: env_args"),
            None if problem is None else _object(problem, f"{path}: problem_info"),
            convention == "opengl",
        )

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments that made the environment."""
        arguments: Mapping[str, Any] = self.values.get("env_kwargs", {})
        return arguments

    def instruction(self, demo: Any) -> str:
        """Return the instruction: LIBERO's, the episode's own, the environment's, or the task's name."""
        if self.problem is not None:
            return _words(self.problem.get("language_instruction", ""))
        own = attribute_text(demo, "ep_meta")
        told = "" if own is None else str(_object(own, f"{demo.name}: ep_meta").get("lang") or "")
        for key in ("language_instruction", "env_lang", "lang"):
            told = told or str(self.values.get(key) or self.arguments.get(key) or "")
        return told.strip() or str(self.values.get("env_name", ""))

    def outcome(self, demo: Any) -> Outcome:
        """Return "success" if the last reward is the one for success, else "unknown".

        A shaped reward says nothing, unless it is stored as a flag (LIBERO's 0 and 1).
        """
        if "rewards" not in demo:
            return "unknown"
        rewards = np.asarray(demo["rewards"]).reshape(-1)
        is_flag = rewards.dtype.kind in "biu"
        if self.arguments.get("reward_shaping") and not is_flag:
            return "unknown"
        scale = self.arguments.get("reward_scale", 1.0)
        full = 1.0 if is_flag else scale
        reached = full is not None and len(rewards) and np.isclose(float(rewards[-1]), float(full))
        return "success" if reached else "unknown"

    def finger_width_m(self, fingers: Float) -> float | None:
        """Return the distance of the open fingers for the gripper of ``fingers`` (T, N), or None."""
        robots, gripper = self.arguments.get("robots"), self.arguments.get("gripper_types", "default")
        names = {name.removesuffix("Gripper") for name in _list(gripper)}
        panda = _list(robots) == ["Panda"] and names <= {"default", "Panda"}
        return _PANDA_WIDTH_M if panda and fingers.shape[1:] == (2,) else None


def _object(text: str, origin: str) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{origin} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{origin} contains {type(values).__name__}, not a JSON object")
    return values


def _words(value: Any) -> str:
    """Return LIBERO's instruction: a text, or a list of its characters or words."""
    if isinstance(value, str):
        return value.strip()
    parts = [str(part) for part in value]
    return ("" if all(len(part) == 1 for part in parts) else " ").join(parts).strip()


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]
