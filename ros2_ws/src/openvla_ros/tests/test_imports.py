"""The layers hold: the core imports without ROS, the robot side without torch."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import openvla_ros

PACKAGE = Path(openvla_ros.__file__).parent
ROS = ("rclpy", "sensor_msgs", "geometry_msgs", "std_msgs", "std_srvs", "trajectory_msgs", "diagnostic_msgs")
# Modules that import what only some machines have: PyTorch brings Triton where it has CUDA.
NEEDS = {
    f"openvla_ros.model.triton_{part}": "triton" for part in ("kernels", "products", "attention", "rows")
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


def modules_of(*parts: str) -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).with_suffix("")
        if relative.parts[0] in parts and relative.name != "__init__":
            names.append(".".join(("openvla_ros", *relative.parts)))
    return [name for name in names if importlib.util.find_spec(NEEDS.get(name, "sys"))]


def core_parts() -> list[str]:
    return sorted(
        {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix in ("", ".py")}
        - {"nodes", "__pycache__", "__init__"}
    )


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


@pytest.mark.parametrize("part", ["robot", "action", "observation", "profile", "geometry"])
def test_the_robot_side_never_imports_torch(part):
    modules = modules_of(part)
    if modules:
        check((*ROS, "torch", "transformers"), modules)
