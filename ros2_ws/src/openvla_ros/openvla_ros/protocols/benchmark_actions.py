"""Our actions as the benchmarks of vla-eval take them: units, rotation, gripper, one table of what each does.

The table is ``benchmark_actions.yaml``. What it does not define is refused by name; nothing is guessed from
what a benchmark declares of itself, which is not always what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from openvla_ros.errors import InvalidValueError
from openvla_ros.integrity.validation_errors import validation_lines
from openvla_ros.values.action import ActionSpace, Frame
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.geometry import transform_euler_to_matrix, transform_matrix_to_euler
from openvla_ros.values.rotation_numbers import rotation_from_numbers, rotation_to_numbers

TABLE = "benchmark_actions.yaml"
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
TurnedBy = Literal["euler_xyz", "rotation_vector", "euler_added"]
# Where Euler angles stand in a state x, y, z, roll, pitch, yaw, gripper.
_ANGLES = slice(3, 6)


@dataclass(frozen=True, config=STRICT)
class Rotation:
    """How a benchmark takes a rotation."""

    is_: TurnedBy
    rad: float  # that 1 stands for


@dataclass(frozen=True, config=STRICT)
class Gripper:
    """The numbers that open and close a benchmark's gripper."""

    open: float
    closed: float

    def number(self, opening: float) -> float:
        """Return the number for an ``opening`` 0 (closed) .. 1 (open)."""
        return self.closed + (self.open - self.closed) * opening


@dataclass(frozen=True, config=STRICT)
class BenchmarkActions:
    """One benchmark's entry in the table."""

    name: str
    classes: tuple[str, ...]
    read_in: tuple[str, ...]
    frame: Frame = "base"
    translation: float | None = None  # metres that 1 stands for
    rotation: Rotation | None = None
    turned_from: str | None = (
        None  # for euler_added: the key of the state with the angles that motion begins at
    )
    rate_hz: tuple[float, ...] = ()  # empty: not known
    gripper: Gripper | None = None
    images: dict[str, str] = field(default_factory=dict)  # name there → what it is called here
    parameters: dict[Literal["always", "wrist"], dict[str, Any]] = field(default_factory=dict)
    declares: dict[Literal["position", "rotation", "gripper"], str] = field(default_factory=dict)
    refused: str | None = None

    def __post_init__(self) -> None:
        needed = ("translation", "rotation", "gripper", "images", "declares")
        if self.refused is None and (missing := [key for key in needed if not getattr(self, key)]):
            raise ValueError(f"{missing[0]} is missing, and no reason why it is refused")
        added = self.rotation is not None and self.rotation.is_ == "euler_added"
        if added != (self.turned_from is not None):
            raise ValueError("turned_from belongs to the rotation euler_added, and to no other")


class ActionTranslation:
    """Turns the actions of one action space into those of one benchmark; ``begin`` before each episode."""

    def __init__(self, benchmark: BenchmarkActions, space: ActionSpace) -> None:
        """Raise ``InvalidValueError`` if the conversion is not defined; says what differs."""
        if benchmark.refused is not None:
            raise InvalidValueError(
                f"vla-eval's {benchmark.name} cannot be served: {benchmark.refused}; those that can are "
                f"{', '.join(served_benchmarks())}"
            )
        assert benchmark.translation is not None  # the table's check
        assert benchmark.rotation is not None
        assert benchmark.gripper is not None
        origin = f"vla-eval's {benchmark.name}"
        space.check_kind("tool_delta", origin)
        if space.frame != benchmark.frame:
            raise InvalidValueError(
                f"{origin} moves along the axes of the {benchmark.frame}; the policy along those of the "
                f"{space.frame}"
            )
        if benchmark.rate_hz and space.rate_hz not in benchmark.rate_hz:
            rates = " or ".join(f"{rate:g}" for rate in benchmark.rate_hz)
            raise InvalidValueError(
                f"{origin} makes {rates} steps in a second; the policy's actions are for {space.rate_hz:g}"
            )
        self._benchmark, self._space = benchmark, space
        self._rotation, self._gripper = benchmark.rotation, benchmark.gripper
        scales = np.array([benchmark.translation] * 3 + [benchmark.rotation.rad] * 3)
        self._factors = space.si_factors / scales
        self._angles: Float | None = None

    @property
    def benchmark(self) -> BenchmarkActions:
        """The benchmark."""
        return self._benchmark

    def begin(self) -> None:
        """Forget the episode before."""
        self._angles = None

    def to_benchmark(self, action: Float, message: Mapping[str, Any]) -> Float:
        """Return an action (7,) of the policy as the benchmark's: translation, rotation, gripper.

        Args:
            action: In the units of the policy's action space.
            message: The observation that it is the answer to, as the benchmark sent it.

        Returns:
            Seven numbers in the benchmark's units.

        Raises:
            InvalidValueError: The benchmark did not send the state that the rotation is counted from.
        """
        numbers = self._factors * action[:6]
        if self._rotation.is_ != self._space.rotation:
            si = self._space.si_factors[3:] * action[3:6]
            turn = rotation_from_numbers(si, self._space.rotation)
            if self._rotation.is_ == "euler_added":
                numbers[3:] = self._added(turn, message) / self._rotation.rad
            else:
                numbers[3:] = rotation_to_numbers(turn, self._rotation.is_) / self._rotation.rad
        opening = self._space.opening(float(action[6]))
        return np.array([*numbers, self._gripper.number(opening)])

    def _added(self, turn: Float, message: Mapping[str, Any]) -> Float:
        """Return what to add to the Euler angles of the target before, which is remembered."""
        if self._angles is None:
            self._angles = self._first_angles(message)
        after = transform_matrix_to_euler(turn @ transform_euler_to_matrix(self._angles))
        added = _wrapped(after - self._angles)
        self._angles = _wrapped(self._angles + added)
        return added

    def _first_angles(self, message: Mapping[str, Any]) -> Float:
        key = str(self._benchmark.turned_from)
        state = message.get(key)
        if not isinstance(state, np.ndarray) or state.ndim != 1 or len(state) < _ANGLES.stop:
            parameters = self._benchmark.parameters.get("always", {})
            raise InvalidValueError(
                f"vla-eval's {self._benchmark.name} did not send {key!r}, which rotations start from; set "
                f"its {', '.join(f'{name}: {value}' for name, value in parameters.items())}"
            )
        return float_array(f"{key} angles", state[_ANGLES], (3,))


def _wrapped(angles: Float) -> Float:
    """Return angles within -pi .. pi."""
    wrapped: Float = (angles + np.pi) % (2.0 * np.pi) - np.pi
    return wrapped


def parse_table(text: str, source: str) -> dict[str, BenchmarkActions]:
    """Return the entries in YAML ``text`` by name; raises ``InvalidValueError`` naming entry and key."""
    adapter, found = TypeAdapter(BenchmarkActions), {}
    for name, entry in yaml.safe_load(text)["benchmarks"].items():
        values = {**entry, "name": name}
        if isinstance(rotation := values.get("rotation"), dict):
            values["rotation"] = {("is_" if key == "is" else key): value for key, value in rotation.items()}
        try:
            found[name] = adapter.validate_python(values)
        except ValidationError as error:
            lines = "; ".join(f"{name}.{line}" for line in validation_lines(error, "entry"))
            raise InvalidValueError(f"{source}: {lines}") from error
    return found


@lru_cache(maxsize=1)
def benchmark_table() -> dict[str, BenchmarkActions]:
    """Return the package's table, by name."""
    resource = files("openvla_ros.protocols").joinpath(TABLE)
    return parse_table(resource.read_text(encoding="utf-8"), TABLE)


def served_benchmarks() -> list[str]:
    """Return the names of the benchmarks that a policy can be evaluated on."""
    return [name for name, entry in benchmark_table().items() if entry.refused is None]


def benchmark_called(name: str) -> BenchmarkActions:
    """Return the entry called ``name``; raises ``InvalidValueError`` with the names if there is none."""
    table = benchmark_table()
    if name not in table:
        raise InvalidValueError(f"no benchmark {name[:80]!r}; those of vla-eval are {', '.join(table)}")
    return table[name]


def benchmark_of_class(import_string: str) -> BenchmarkActions:
    """Return the entry of the class that vla-eval's client names; raises ``InvalidValueError``."""
    for entry in benchmark_table().values():
        if import_string in entry.classes:
            return entry
    raise InvalidValueError(
        f"what the actions of benchmark {import_string[:120]!r} mean is not known here; known are "
        f"{', '.join(served_benchmarks())}"
    )
