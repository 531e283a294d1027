"""Plug-ins are found by other programs through their names alone, and silently not found if those differ."""

import re

import pytest
from support.shared_data import REPOSITORY

PLUGINS = sorted(path.parent for path in REPOSITORY.glob("plugins/*/pyproject.toml"))
# What LeRobot looks for: distributions of these names, with underscores, which it imports.
PREFIXES = ("lerobot_policy_", "lerobot_robot_")


def value(folder, key):
    """The text or the list of texts under ``key`` of a plug-in's build file."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"([^"]+)"', re.search(rf"^{key} = (.+)$", text, re.MULTILINE)[1])


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_distribution_and_package_have_the_name_that_is_looked_for(folder):
    assert folder.name.startswith(PREFIXES)
    assert value(folder, "name") == value(folder, "packages") == [folder.name]
    assert (folder / folder.name / "__init__.py").is_file()
    assert any(wanted.startswith("lerobot") for wanted in value(folder, "dependencies"))
    assert "openvla_ros" in value(folder, "dependencies")


def test_lerobot_finds_the_classes_by_the_names_of_their_modules():
    """As its factories build the names: of policies and processors, and of devices."""
    policy, robot = (folder / folder.name for folder in PLUGINS)
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
