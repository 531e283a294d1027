"""Plug-ins are found by other programs through their names alone, and silently not found if those differ."""

import re

import pytest
from support.shared_data import REPOSITORY

from openvla_ros.protocols.benchmark_actions import benchmark_called

PLUGINS = sorted(path.parent for path in REPOSITORY.glob("plugins/*/pyproject.toml"))
# What LeRobot looks for: distributions of these names, with underscores, which it imports. vla-eval imports
# what its configuration names.
PREFIXES = {"lerobot_policy_": "lerobot", "lerobot_robot_": "lerobot", "vla_eval_": "vla-eval"}


def value(folder, key):
    """The text or the list of texts under ``key`` of a plug-in's build file."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"([^"]+)"', re.search(rf"^{key} = (.+)$", text, re.MULTILINE)[1])


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_distribution_and_package_have_the_name_that_is_looked_for(folder):
    (host,) = (host for prefix, host in PREFIXES.items() if folder.name.startswith(prefix))
    assert value(folder, "name") == value(folder, "packages") == [folder.name]
    assert (folder / folder.name / "__init__.py").is_file()
    assert any(wanted.startswith(host) for wanted in value(folder, "dependencies"))
    assert any(wanted.split("[")[0] == "openvla_ros" for wanted in value(folder, "dependencies"))


def test_lerobot_finds_the_classes_by_the_names_of_their_modules():
    """As its factories build the names: of policies and processors, and of devices."""
    policy, robot, _ = (folder / folder.name for folder in PLUGINS)
    for module, part in (
        ("configuration_openvla", "class OpenVLAConfig(PreTrainedConfig)"),
        ("modeling_openvla", "class OpenVLAPolicy(PreTrainedPolicy)"),
        ("processor_openvla", "def make_openvla_pre_post_processors("),
    ):
        assert part in (policy / f"{module}.py").read_text(encoding="utf-8")
    for module, part in (
        ("config_robot", "class OpenVLARobotConfig(RobotConfig)"),
        ("robot", "class OpenVLARobot(Robot)"),
    ):
        assert part in (robot / f"{module}.py").read_text(encoding="utf-8")


def test_vla_eval_finds_the_benchmark_by_the_import_string_of_the_table():
    (import_string,) = benchmark_called("openvla_ros").classes
    module, _, name = import_string.partition(":")
    path = REPOSITORY / "plugins" / module.split(".")[0] / (module.replace(".", "/") + ".py")
    assert f"class {name}(StepBenchmark)" in path.read_text(encoding="utf-8")
