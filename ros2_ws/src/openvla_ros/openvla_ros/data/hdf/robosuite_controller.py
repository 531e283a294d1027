"""What the stored actions of a robosuite environment command, from the controller's configuration.

The operational space controllers OSC_POSE and OSC_POSITION are read, in the configuration of robosuite up to
1.4 and in the composite one since 1.5. Their input is clipped and scaled to metres and a rotation vector in
radians, along the world's axes (up to 1.4) or the base's (1.5), then the gripper, -1 open .. 1 closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from openvla_ros.errors import DatasetError
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Float

_SIMULATORS = {2: "a Gym environment", 3: "an iGibson environment"}  # robomimic's EnvType; 1 is robosuite
_SUPPORTED = "supported are OSC_POSE (7 numbers) and OSC_POSITION (4) of one arm, as deltas"
_DIMENSIONS = {"OSC_POSE": 6, "OSC_POSITION": 3}
_DEFAULT_OUTPUT = (0.05, 0.05, 0.05, 0.5, 0.5, 0.5)  # m, rad: robosuite's own default
_DEFAULT_RATE_HZ = 20.0  # robosuite's own default of control_freq


@dataclass(frozen=True, eq=False)
class OscCommands:
    """An operational space controller: how its input becomes metres and radians."""

    input_lower: Float  # (N,) of 3 or 6 dimensions
    input_upper: Float
    output_lower: Float  # (N,) metres, radians
    output_upper: Float
    frame: Literal["base", "world"]
    rate_hz: float

    def space(self, base_rotation: Float | None) -> ActionSpace:
        """Return the action space of ``decoded`` actions."""
        reach = np.maximum(np.abs(self.output_lower), np.abs(self.output_upper))
        lower, upper = _six(self.output_lower), _six(self.output_upper)
        if self._turned(base_rotation) is not None:
            largest = _six(np.tile(np.linalg.norm(reach.reshape(-1, 3), axis=1)[:, None], 3).reshape(-1))
            lower, upper = -largest, largest
        still = lower >= upper  # a dimension that OSC_POSITION does not command
        return ActionSpace(
            names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
            units=("m", "m", "m", "rad", "rad", "rad", "1"),
            frame="base",
            rotation="rotation_vector",
            gripper_open=1.0,
            lower=np.append(np.where(still, -_DEFAULT_OUTPUT[5], lower), 0.0),
            upper=np.append(np.where(still, _DEFAULT_OUTPUT[5], upper), 1.0),
            rate_hz=self.rate_hz,
        )

    def decoded(self, actions: Float, base_rotation: Float | None) -> Float:
        """Return stored ``actions`` (T, N + 1) as (T, 7): metres, rotation vector, gripper 1 open.

        ``base_rotation`` (3, 3) is that of the robot's base in the world; None: along the world's axes.
        """
        count = len(self.input_lower)
        clipped = np.clip(actions[:, :count], self.input_lower, self.input_upper)
        scale = (self.output_upper - self.output_lower) / (self.input_upper - self.input_lower)
        middle_in = (self.input_lower + self.input_upper) / 2
        motion = (clipped - middle_in) * scale + (self.output_lower + self.output_upper) / 2
        motion = np.concatenate([motion, np.zeros((len(actions), 6 - count))], axis=1)
        rotation = self._turned(base_rotation)
        if rotation is not None:
            motion = (motion.reshape(-1, 2, 3) @ rotation).reshape(-1, 6)
        return np.concatenate([motion, opening_of_command(actions[:, count:])], axis=1)

    def _turned(self, base_rotation: Float | None) -> Float | None:
        """Return the base's rotation if the commands have to be turned into its frame."""
        if self.frame == "base" or base_rotation is None or np.allclose(base_rotation, np.eye(3), atol=1e-9):
            return None
        return base_rotation


def osc_commands(environment: Mapping[str, Any], width: int, origin: str) -> OscCommands:
    """Return the controller that ``env_args`` describes, for actions of ``width`` numbers.

    Raises ``DatasetError`` for another controller, saying which one and what is supported.
    """
    kind = environment.get("type", 1)
    if kind in _SIMULATORS:
        raise DatasetError(f"{origin}: recorded in {_SIMULATORS[kind]}, whose actions are unknown here")
    arguments = environment.get("env_kwargs", {})
    robots = arguments.get("robots", [])
    if not isinstance(robots, str) and len(robots) > 1:
        raise DatasetError(f"{origin}: actions of {len(robots)} robots ({', '.join(robots)}); {_SUPPORTED}")
    controller, composite = _arm_controller(arguments.get("controller_configs"), origin)
    _check_controller(controller, width, origin)
    count = _DIMENSIONS[str(controller["type"])]
    output = _DEFAULT_OUTPUT[:count]
    commands = OscCommands(
        input_lower=_range(controller.get("input_min", -1.0), count, origin),
        input_upper=_range(controller.get("input_max", 1.0), count, origin),
        output_lower=_range(controller.get("output_min", [-value for value in output]), count, origin),
        output_upper=_range(controller.get("output_max", output), count, origin),
        frame=_frame(controller, composite, origin),
        rate_hz=float(arguments.get("control_freq", _DEFAULT_RATE_HZ)),
    )
    if np.any(commands.input_lower >= commands.input_upper) or np.any(
        commands.output_lower >= commands.output_upper
    ):
        raise DatasetError(f"{origin}: the controller's input or output range is empty or reversed")
    return commands


def _arm_controller(configuration: Any, origin: str) -> tuple[Mapping[str, Any], bool]:
    """Return the arm's part of ``controller_configs``, and whether it is a composite one (1.5 and later)."""
    if isinstance(configuration, list) and len(configuration) == 1:
        configuration = configuration[0]
    if not isinstance(configuration, Mapping):
        raise DatasetError(
            f"{origin}: env_args has no controller_configs of one arm, which say what the actions mean "
            f"(it has {configuration!r})"
        )
    if "body_parts" not in configuration:
        return configuration, False
    parts = configuration["body_parts"]
    arms = parts.get("arms", parts)
    if not isinstance(arms.get("right"), Mapping):
        raise DatasetError(
            f"{origin}: composite controller {configuration.get('type')!r} with the parts "
            f"{', '.join(parts) or 'none'}; a single arm is the part 'right'"
        )
    return arms["right"], True


def _check_controller(controller: Mapping[str, Any], width: int, origin: str) -> None:
    kind = controller.get("type")
    if kind not in _DIMENSIONS:
        joints = " commands joints; actions here are deltas of the tool" if "JOINT" in str(kind) else ""
        raise DatasetError(f"{origin}: actions of controller {kind!r}{joints}; {_SUPPORTED}")
    if controller.get("control_delta") is False or controller.get("input_type", "delta") != "delta":
        raise DatasetError(f"{origin}: {kind} takes absolute goals here, not deltas; {_SUPPORTED}")
    if controller.get("impedance_mode", "fixed") != "fixed":
        raise DatasetError(
            f"{origin}: impedance_mode is {controller['impedance_mode']!r}: the actions contain stiffnesses; "
            f"{_SUPPORTED}"
        )
    if width != _DIMENSIONS[str(kind)] + 1:
        raise DatasetError(f"{origin}: {kind} with actions of width {width}; {_SUPPORTED}")


def _frame(controller: Mapping[str, Any], composite: bool, origin: str) -> Literal["base", "world"]:
    """Return the axes of the commands: the world's up to robosuite 1.4, the base's by default since."""
    match controller.get("input_ref_frame", "base" if composite else "world"):
        case "base":
            return "base"
        case "world":
            return "world"
        case other:
            raise DatasetError(f"{origin}: input_ref_frame is {other!r}; supported are base and world")


def _range(value: Any, count: int, origin: str) -> Float:
    array = np.asarray(value, np.float64)
    if array.shape not in ((), (count,)) or not np.isfinite(array).all():
        raise DatasetError(
            f"{origin}: a range of the controller is {value!r}; it must be 1 or {count} numbers"
        )
    return np.broadcast_to(array, (count,)).copy()


def _six(values: Float) -> Float:
    return np.concatenate([values, np.zeros(6 - len(values))])


def opening_of_command(command: Float) -> Float:
    """Return robosuite's gripper command, -1 open .. 1 closed, as an opening 1 open .. 0 closed."""
    opening: Float = np.clip((1.0 - command) / 2.0, 0.0, 1.0)
    return opening
