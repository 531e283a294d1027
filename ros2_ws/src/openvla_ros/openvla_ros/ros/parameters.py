"""ROS parameters from one frozen dataclass per node: each default, range and description stated once.

@dataclass(frozen=True)
class CameraParameters:
robot: str = parameter("sim_widowx", "Robot profile: a name or a YAML file", read_only=True)
jpeg_quality: int = parameter(95, "Quality of compressed images", low=50, high=100)

parameters = declare(node, CameraParameters)         # raises ROS's own error on a wrong override
watch(node, CameraParameters, self._parameters_changed)   # live changes arrive as a new value
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from openvla_ros.errors import OpenVLARosError

P = TypeVar("P")


def parameter(
    default: Any,
    description: str,
    *,
    read_only: bool = False,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Return a dataclass field that ``declare`` turns into a ROS parameter."""
    metadata = {
        "description": description + (f" (one of: {', '.join(choices)})" if choices else ""),
        "read_only": read_only,
        "low": low,
        "high": high,
        "choices": tuple(choices),
    }
    return field(default=default, metadata=metadata)


def declare(node: Node, cls: type[P]) -> P:
    """Declare every field of ``cls`` on ``node`` and return the current values."""
    for item in fields(cls):  # type: ignore[arg-type]
        node.declare_parameter(item.name, item.default, _descriptor(item.name, item.metadata, item.default))
    return read(node, cls)


def read(node: Node, cls: type[P], changed: Sequence[Parameter] = ()) -> P:
    """Return the current values updated with ``changed``; raises on a value outside the choices."""
    values = {item.name: node.get_parameter(item.name).value for item in fields(cls)}  # type: ignore[arg-type]
    values |= {p.name: p.value for p in changed if p.name in values}
    for item in fields(cls):  # type: ignore[arg-type]
        choices = item.metadata["choices"]
        if choices and values[item.name] not in choices:
            raise OpenVLARosError(
                f"parameter {item.name} is {values[item.name]!r}; it must be one of {', '.join(choices)}"
            )
    return cls(**values)


def watch(node: Node, cls: type[P], changed: Callable[[P], None]) -> None:
    """Call ``changed`` with the new values when someone sets a parameter.

    An ``OpenVLARosError`` raised by it refuses the change, with its text as the reason.
    """

    def on_set(parameters: list[Parameter]) -> SetParametersResult:
        try:
            changed(read(node, cls, parameters))
        except OpenVLARosError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(on_set)


def _descriptor(name: str, metadata: Any, default: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=name, description=metadata["description"], read_only=metadata["read_only"]
    )
    low, high = metadata["low"], metadata["high"]
    if low is not None and high is not None:
        if isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
    return descriptor
