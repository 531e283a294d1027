"""The layers hold: imports point upwards in the tree; no ROS in the core, no torch in ``robot``."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.shared_data import REPOSITORY

import openvla_ros

PACKAGE = Path(openvla_ros.__file__).parent
ROS = ("rclpy", "sensor_msgs", "geometry_msgs", "std_msgs", "std_srvs", "trajectory_msgs", "diagnostic_msgs")
WITH_ROS = {"ros", "drivers", "discovery", "live_view", "nodes", "programs"}
FEWEST, MOST = 3, 15  # files of a folder
# Modules that import what only some machines have: PyTorch brings Triton where it has CUDA; viewers and
# leapp are extras.
NEEDS = {
    **{
        f"openvla_ros.model.kernels.triton_{part}": "triton"
        for part in ("kernels", "gemv", "attention", "elementwise")
    },
    "openvla_ros.viewing.rerun_viewer": "rerun",
    "openvla_ros.viewing.rerun_process": "rerun_cli",
    "openvla_ros.viewing.foxglove_viewer": "foxglove",
    "openvla_ros.viewing.foxglove_layout": "foxglove",
    "openvla_ros.exporting.leapp_bundle": "leapp",
}
PROGRAM = """
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not allowed in this layer")
BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Block())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def tree() -> dict[str, str]:
    """The lines of ARCHITECTURE's tree of the package, in order: place (dotted) and what it says of it."""
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = text.split("\nopenvla_ros/\n")[1].split("```")[0]
    lines = re.findall(r"^  ([a-z_/.]+)  +(.*)$", block, flags=re.M)
    return {place.removesuffix(".py").strip("/").replace("/", "."): said for place, said in lines}


def place_of(name: str, places: dict[str, int]) -> str | None:
    """The longest place of the tree that the dotted ``name`` lies in."""
    parts = name.split(".")
    heads = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((head for head in heads if head in places), None)


def imports_of(path: Path) -> Iterator[str]:
    """Every module of the package that the file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}: relative imports are not used here")
        yield from (name.removeprefix("openvla_ros.") for name in names if name.startswith("openvla_ros."))


def upward(graph: dict[str, list[str]], order: list[str]) -> list[str]:
    """The imports in ``graph`` that point to a place further down in ``order``."""
    rank = {place: number for number, place in enumerate(order)}
    wrong = []
    for name, imported in graph.items():
        here = place_of(name, rank)
        for other in imported:
            there = place_of(other, rank)
            if here is not None and there is not None and rank[there] > rank[here]:
                wrong.append(f"{name} imports {other}")
    return wrong


def test_every_import_points_upwards_in_the_tree():
    graph = {name_of(path): list(imports_of(path)) for path in files()}
    assert not upward(graph, list(tree()))


def test_the_check_sees_an_import_that_points_down():
    graph = {"robot.controller": ["values.action", "nodes.worker"]}
    assert upward(graph, ["values", "robot", "nodes"]) == ["robot.controller imports nodes.worker"]


def test_the_tree_names_the_folders_that_there_are_and_what_each_says_of_itself():
    folders = {name_of(path).rpartition(".")[0] for path in files()} - {""}
    modules = {name_of(path) for path in files() if path.parent == PACKAGE}
    assert set(tree()) == folders | modules
    for place, said in tree().items():
        if place in folders:
            source = (PACKAGE / place.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
            sentence = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
            assert sentence.rstrip(".") == said.rstrip("."), place


def test_a_folder_holds_three_to_fifteen_files():
    counts = Counter(str(path.parent.relative_to(PACKAGE)) for path in files())
    assert {folder: count for folder, count in counts.items() if not FEWEST <= count <= MOST} == {}


def test_no_file_name_stands_twice_in_one_part_of_the_package():
    counts = Counter((path.relative_to(PACKAGE).parts[0], path.stem) for path in files())
    assert [name for name, count in counts.items() if count > 1] == []


def test_formats_do_not_import_each_other():
    families = {"rlds", "hdf5"}
    wrong = []
    for path in (PACKAGE / "data" / "formats").glob("*.py"):
        others = families - {path.stem.split("_")[0]} if path.stem.split("_")[0] in families else set()
        imported = {m.split(".")[2] for m in imports_of(path) if m.startswith("data.formats.")}
        wrong += [f"{path.stem} imports {m}" for m in imports_of(path) if m.startswith("data.lerobot.")]
        wrong += [f"{path.stem} imports {m}" for m in imported if m.split("_")[0] in others]
    assert not wrong


def test_nothing_in_the_product_imports_the_pretraining():
    users = {name_of(p) for p in files() if any(m.startswith("pretraining") for m in imports_of(p))}
    assert {user for user in users if not user.startswith("pretraining.")} == set()


def modules_of(*parts: str) -> list[str]:
    names = [f"openvla_ros.{name_of(path)}" for path in files() if name_of(path).split(".")[0] in parts]
    return [name for name in names if importlib.util.find_spec(NEEDS.get(name, "sys"))]


def core_parts() -> list[str]:
    return sorted({name_of(path).split(".")[0] for path in files()} - WITH_ROS)


def check(blocked: tuple[str, ...], modules: list[str]) -> None:
    assert modules
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(blocked), *modules],
        capture_output=True, text=True, timeout=170, check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_core_never_imports_ros():
    check(ROS, modules_of(*core_parts()))


@pytest.mark.parametrize("part", ["robot", "values", "profile"])
def test_the_robot_side_never_imports_torch(part):
    check((*ROS, "torch", "transformers"), modules_of(part))


def test_no_test_imports_another_test():
    """What two tests share stands in ``tests/support``: any of them can be run alone."""
    tests = Path(__file__).parent
    found = [
        f"{path.relative_to(tests)}: {line.strip()}"
        for path in sorted(tests.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) (test_|conftest)", line)
    ]
    assert found == []
