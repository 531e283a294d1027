"""What a stranger's script calls says what it takes: an Args section that names every argument."""

import ast
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.shared_data import REPOSITORY

import openvla_ros
from openvla_ros import conformance

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
GUIDE = REPOSITORY / "docs" / "python.md"


def sources() -> list[str]:
    """The programs that a user starts from: the examples, and the code in the guide."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return [*(path.read_text(encoding="utf-8") for path in EXAMPLES), *blocks]


def imported(source: str) -> Iterator[object]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("openvla_ros"):
            module = importlib.import_module(str(node.module))
            yield from (getattr(module, alias.name) for alias in node.names)


def called(source: str) -> Iterator[str]:
    return (node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))


def returned(function: Callable[..., Any]) -> Iterator[type]:
    """The package's classes in the return annotation, and in its parts."""
    pending = [typing.get_type_hints(function).get("return")]
    while pending:
        hint = pending.pop()
        pending.extend(typing.get_args(hint))
        if inspect.isclass(hint) and hint.__module__.startswith("openvla_ros"):
            yield hint


def methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods that ``kind`` defines itself, and its constructor if that is written out."""
    generated = hasattr(kind, "__dataclass_fields__") or getattr(kind, "_is_protocol", False)
    for name, member in vars(kind).items():
        function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        public = not name.startswith("_") or (name == "__init__" and not generated)
        if public and inspect.isfunction(function):
            yield name, function


def surface() -> dict[str, Callable[..., Any]]:
    """The functions that a user calls: of the exported names whole, of the others what the examples use."""
    pending: list[object] = [getattr(openvla_ros, name) for name in openvla_ros.__all__]
    pending += [getattr(conformance, name) for name in conformance.__all__]
    exported = len(pending)
    pending += [item for source in sources() for item in imported(source)]
    used = {name for source in sources() for name in called(source)} | {"__init__"}
    found: dict[str, Callable[..., Any]] = {}
    for number, item in enumerate(pending):  # grows meanwhile
        if inspect.isfunction(item):
            found[f"{item.__module__}.{item.__qualname__}"] = item
            pending += [kind for kind in returned(item) if kind not in pending]
        elif inspect.isclass(item) and item not in pending[:number]:
            for name, function in methods(item):
                if number < exported or name in used:
                    found[f"{function.__module__}.{function.__qualname__}"] = function
                    pending += [kind for kind in returned(function) if kind not in pending]
    return found


SURFACE = surface()


def undocumented(function: Callable[..., Any]) -> list[str]:
    """The arguments that the docstring's Args section does not name."""
    text = inspect.cleandoc(function.__doc__ or "")
    section = re.search(r"^Args:\n((?: +.*\n?)*)", text, re.MULTILINE)
    named = re.findall(r"^    (\w+): \S", section[1], re.MULTILINE) if section else []
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls", *named)]


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_every_argument_is_documented(name):
    assert undocumented(SURFACE[name]) == []


def test_what_is_checked_includes_what_a_script_gets_from_a_call():
    names = {name.removeprefix("openvla_ros.") for name in SURFACE}
    assert {
        "api.load_policy", "conformance.policy_contract.check_policy", "policy.protocol.Policy.infer",
        "robot.controller.ArmController.accept", "data.training.training_reader.TrainingReader.__init__",
        "values.episode.Episode.take", "sim.world.SimulatedRobot.render", "values.action.ActionSpace.opening",
    } <= names  # fmt: skip


def test_the_check_sees_an_argument_without_an_entry():
    def partly(first: int, second: int) -> None:
        """Do something.

        Args:
            first: One of them; second: is not an entry.

        Raises:
            second: Nor is this.
        """

    assert undocumented(partly) == ["second"]
    assert undocumented(lambda alone: alone) == ["alone"]
