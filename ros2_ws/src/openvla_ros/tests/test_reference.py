"""docs/reference is what the code says: the pages are made again and compared."""

import importlib.util
import sys
from enum import Enum

import pytest
from support.shared_data import REPOSITORY

TOOLS = REPOSITORY / "tools"
CURRENT = "differs from what the code says; run: make reference"


@pytest.fixture(scope="module")
def writer():
    sys.path.insert(0, str(TOOLS))
    try:
        import write_reference
    finally:
        sys.path.remove(str(TOOLS))
    return write_reference


def committed(name: str) -> str:
    return (REPOSITORY / "docs" / "reference" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["profile.md", "commands.md", "verdicts.md"])
def test_what_needs_no_ros_is_current(writer, name):
    assert writer.static_pages()[name] == committed(name), f"{name} {CURRENT}"


@pytest.mark.ros
def test_what_real_nodes_show_is_current(writer, ros_domain):
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    pytest.importorskip("mujoco", reason="needs the simulation (the extra [sim])")
    if importlib.util.find_spec("openvla_interfaces") is None:
        pytest.skip("the package openvla_interfaces is not built: the action would be missing")
    for name, text in writer.node_pages().items():
        assert text == committed(name), f"{name} {CURRENT}"


def test_every_page_is_in_the_index(writer):
    pages = {path.name for path in (REPOSITORY / "docs" / "reference").glob("*.md")} - {"README.md"}
    assert writer.index(pages) == committed("README.md")


def test_comments_become_meanings(writer):
    class Colour(Enum):
        # Warm.
        RED = 1  # like a fire
        ORANGE = 2
        # Cold.
        BLUE = 3  # with a # in it

    from reference_comments import member_comments

    assert member_comments(Colour) == {
        "RED": ("Warm.", "like a fire"),
        "ORANGE": ("Warm.", ""),
        "BLUE": ("Cold.", "with a # in it"),
    }


def test_every_reason_and_every_key_with_a_number_says_what_it_means(writer):
    from openvla_ros.values.verdict import Reason

    page = committed("verdicts.md")
    assert all(f"| `{reason}` |" in page for reason in Reason)
    assert "|  |" not in page, "a reason in verdict.py has no comment"
