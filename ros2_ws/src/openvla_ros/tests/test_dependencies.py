"""What is imported is what ``package.xml``, ``setup.py`` and ``requirements.txt`` ask for, and nothing else.

Also the one version, and what a person reads where a package is missing.
"""

import ast
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from support.import_graph import PACKAGE, SOURCE, packages_of_file, packages_to_import
from support.shared_data import REPOSITORY

import openvla_ros
from openvla_ros.bringup.graph import GraphOptions, build_graph
from openvla_ros.dependencies import NODE_NEEDS, POLICY_NEEDS, SOURCES, needed_for, require
from openvla_ros.errors import MissingDependencyError

ROS = {
    "rclpy", "action_msgs", "builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs",
    "rcl_interfaces", "rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs",
    "visualization_msgs", "openvla_interfaces", "cv_bridge", "launch", "launch_ros",
}  # fmt: skip
# Only looked for: it comes with another package, or with the software of one robot.
BROUGHT_BY_OTHERS = {"triton"}  # PyTorch for CUDA
# Asked for though no line imports them, with the reason.
NOT_IMPORTED = {
    "onnx_ir": "onnxruntime's quantizer imports it and does not ask for it",
    "tensorboard": "torch.utils.tensorboard needs it",
    "rosbag2_storage_mcap": "ros2 bag opens the recordings with it",
    "robot_state_publisher": "openvla check compares with tf and names it",
    "xacro": "urdf/work_cell.urdf.xacro",
}


def imported() -> set[str]:
    files = [*PACKAGE.rglob("*.py"), *(SOURCE / "launch").glob("*.py")]
    return set().union(*(packages_of_file(path) for path in files)) - BROUGHT_BY_OTHERS


def setup_file() -> dict[str, list[str]]:
    """The requirements in ``setup.py``, by extra; without an extra under the empty name."""
    tree = ast.parse((SOURCE / "setup.py").read_text())
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setup"
    )
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    extras = arguments["extras_require"]
    assert isinstance(extras, ast.Dict)
    found = {"": names(ast.literal_eval(arguments["install_requires"]))}
    for key, value in zip(extras.keys, extras.values, strict=True):
        if isinstance(value, ast.List):
            found[ast.literal_eval(key)] = names(ast.literal_eval(value))
    return found


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[<>=;\[ ]", line)[0] for line in requirements]


def requirements_file() -> list[str]:
    lines = (SOURCE / "requirements.txt").read_text().splitlines()
    return names([line for line in lines if line and not line.startswith("#")])


def manifest(tag: str) -> set[str]:
    return {item.text for item in ElementTree.parse(SOURCE / "package.xml").getroot().iter(tag)}


def test_every_import_has_a_source():
    unknown = imported() - set(SOURCES) - ROS
    assert not unknown, f"openvla_ros/dependencies.py does not say where {sorted(unknown)} come from"


def test_every_source_is_imported():
    assert set(SOURCES) - imported() - set(NOT_IMPORTED) == set()


def test_setup_py_asks_for_what_is_imported():
    expected: dict[str, set[str]] = {"": set()}
    for source in SOURCES.values():
        expected.setdefault(source.extra, set()).add(source.pip)
    asked = {extra: set(found) for extra, found in setup_file().items() if extra != "test"}
    assert asked == expected


def test_package_xml_and_requirements_txt_ask_for_the_rest_between_them():
    from_apt = {source.rosdep for source in SOURCES.values() if source.rosdep}
    # For whoever converts on several machines, looks, exports or makes a server's certificate: a robot's
    # computer does none of it. The wheel of franky depends on the arm's version.
    elsewhere = {"ray", "view", "export", "leapp", "tls", "franky"}
    from_pip = {
        source.pip for source in SOURCES.values() if not source.rosdep and source.extra not in elsewhere
    }
    needed = manifest("exec_depend") | manifest("depend")
    assert set(requirements_file()) == from_pip
    assert needed - set(NOT_IMPORTED) == from_apt | (imported() & ROS)


def test_the_wheels_of_ros_are_those_of_package_xml():
    text = (SOURCE / "setup.py").read_text()
    start = text.index("ROS_WHEELS = [")
    scope: dict[str, list[str]] = {}
    exec(text[start : text.index("\n]\n", start) + 3], scope)
    wheels = {name.split("[")[0].removeprefix("ros-").replace("-", "_") for name in scope["ROS_WHEELS"]}
    # Of these there are no wheels: launch files and cv_bridge need an installed ROS, the action is built.
    without = {"launch", "launch_ros", "cv_bridge", "openvla_interfaces"}
    assert wheels == (imported() & ROS) - without


def test_every_pin_is_asked_for():
    pins = set(
        names([line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line[0] != "#"])
    )
    asked = {name for found in setup_file().values() for name in found}
    indirect = {"accelerate", "mcap-ros2-support"}  # what bitsandbytes' and mcap's readers are tested with
    unknown = {pin for pin in pins if not pin.startswith("ros-")} - asked - indirect
    assert not unknown


@pytest.mark.parametrize("node", sorted(path.stem for path in (PACKAGE / "nodes").glob("*_node.py")))
def test_the_node_graph_knows_what_each_process_imports(node):
    always = {"numpy", "pydantic", "yaml"}
    assert set(NODE_NEEDS[node]) == packages_to_import(f"openvla_ros.nodes.{node}") - ROS - always


def test_what_a_policy_imports_is_known():
    for module, policy in (
        ("openvla_ros.policy.remote", "remote"),
        ("openvla_ros.policy.openvla_policy", "openvla"),
    ):
        needed = packages_to_import(module) - {"numpy", "pydantic", "yaml", "cv2", "av", "rosbags"}
        assert needed <= set(POLICY_NEEDS[policy]), policy


def without(monkeypatch, *missing: str) -> None:
    """Make ``missing`` look as if they were not installed."""
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in missing else found(name, *rest)
    )


@pytest.mark.parametrize(
    ("options", "package", "command"),
    [
        (GraphOptions(robot="widowx", policy="remote"), "websockets", "pip install websockets"),
        (GraphOptions(robot="sim_widowx", policy="hold"), "mujoco", "pip install 'openvla_ros[sim]'"),
        (GraphOptions(robot="widowx", policy="openvla"), "torch", "pip install torch"),
        (GraphOptions(robot="sim_widowx", policy="hold"), "cv2", "sudo apt install python3-opencv"),
    ],
)
def test_nothing_is_started_without_its_packages(monkeypatch, options, package, command):
    without(monkeypatch, package)
    with pytest.raises(MissingDependencyError, match=f"needs the package {package}, which is not") as caught:
        build_graph(options, {})
    assert command in str(caught.value)


def test_a_missing_package_is_named_and_a_mistake_of_ours_is_not_hidden():
    needs = "policy 'x' needs the package nowhere_msgs"
    with pytest.raises(MissingDependencyError, match=needs), needed_for("policy 'x'"):
        raise ModuleNotFoundError("No module named 'nowhere_msgs'", name="nowhere_msgs")
    with pytest.raises(ModuleNotFoundError), needed_for("policy 'x'"):
        import openvla_ros.there_is_no_such_module  # noqa: F401
    require(("numpy",), "this")


PROGRAM = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
BLOCKED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Block())
from openvla_ros.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("blocked", "arguments", "said"),
    [
        ("typer", ["--version"], "this needs the package typer, which is not installed: pip install typer"),
        (
            "pyarrow",
            ["--version"],
            "this needs the package pyarrow, which is not installed: pip install pyarrow",
        ),
        ("mujoco", ["demo", "--policy", "expert"], "which is not installed: pip install 'openvla_ros[sim]'"),
        (
            "onnx",
            ["export-model", "small_base", "--to", "onnx", "--out", "out"],
            "needs the package onnx, which is not installed: pip install 'openvla_ros[export]'",
        ),
        (
            "leapp",
            ["export-model", "small_base", "--to", "leapp", "--out", "out"],
            "which is not installed: pip install 'openvla_ros[leapp]'",
        ),
        ("websockets", ["serve", "--policy", "hold"], "openvla serve needs the package websockets"),
    ],
)
def test_the_program_says_in_one_line_what_is_missing(blocked, arguments, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, blocked, *arguments],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_version_is_the_same_everywhere():
    version = openvla_ros.__version__
    for path in (SOURCE / "package.xml", SOURCE.parent / "openvla_interfaces" / "package.xml"):
        assert ElementTree.parse(path).getroot().findtext("version") == version, path
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == version
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == version
    assert "__version__" in (SOURCE / "setup.py").read_text()
    assert not re.search(r"version=.\d", (SOURCE / "setup.py").read_text())


def test_the_program_tells_its_version():
    from typer.testing import CliRunner

    from openvla_ros.cli.program import app

    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.strip() == f"openvla_ros {openvla_ros.__version__}"


def test_the_licence_is_there_as_the_manifest_says():
    assert manifest("license") == {"Apache-2.0"}
    text = Path(REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
