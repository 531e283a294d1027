"""docs/maps.md: each row's place in our code exists, and every entry of our own tables has a row."""

import itertools
import re
from dataclasses import dataclass
from typing import get_args, get_type_hints

import pytest
import yaml
from support.shared_data import REPOSITORY

from openvla_ros.data.formats.rlds_conventions import convention_table
from openvla_ros.data.hdf.hdf5_layouts import Hdf5Layout
from openvla_ros.driver_profile import ArmBackend, GripperBackend
from openvla_ros.protocols import act_codec
from openvla_ros.protocols.benchmark_actions import benchmark_table
from openvla_ros.protocols.observation_map import available_maps
from openvla_ros.protocols.state_vectors import STATE_PARTS
from openvla_ros.resources import share_path

PAGE = REPOSITORY / "docs" / "maps.md"
MAPS = share_path() / "config" / "observation_maps"
LINK = re.compile(r"^\[([^\]]+)\]\(([^)]+)\) `([^`]+)`$")
# Drivers that speak ROS's own standard messages, which no program has a convention of its own for.
STANDARD = {"joint_trajectory", "forward_position", "servo_twist", "gripper_command"}


@dataclass(frozen=True)
class Row:
    program: str
    there: str
    here: str
    conversion: str
    read_in: str
    code: str


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [Row(*(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])) for line in lines]


ROWS = rows_of(PAGE.read_text(encoding="utf-8"))


def rows_about(program):
    found = [row for row in ROWS if row.program.split(",")[0] == program]
    assert found, program
    return found


def has_row(name, program, *parts):
    """Whether a row of the program names it, and says ``parts``."""
    return any(
        f"`{name}`" in f"{row.program} {row.there} {row.here}"
        and all(p in f"{row.there} {row.conversion}" for p in parts)
        for row in rows_about(program)
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.program}: {row.there[:40]}")
def test_the_place_in_our_code_exists(row):
    match = LINK.match(row.code)
    assert match, f"{row.code} is not [path](link) `name`"
    said, link, name = match.groups()
    path = (PAGE.parent / link).resolve()
    assert path.is_file(), link
    assert str(path).endswith(said)
    text = path.read_text(encoding="utf-8")
    defined = rf"^\s*(?:def|class) {re.escape(name)}\b|^\s*{re.escape(name)}\s*[:=]"
    assert re.search(defined, text, re.MULTILINE), f"{said} defines no {name}"


def test_every_row_says_where_it_was_read():
    assert len(ROWS) > 60
    for row in ROWS:
        assert re.search(r"\d+\.\d+|\b[0-9a-f]{8}\b|package|plugins/", row.read_in), row


def test_every_benchmark_has_a_row_with_its_numbers():
    for name, entry in benchmark_table().items():
        parts = []
        if entry.gripper is not None:
            parts.append(f"gripper open {entry.gripper.open:g}, closed {entry.gripper.closed:g}")
        if entry.refused is not None:
            parts.append(entry.refused)
        else:
            parts.append(
                f"1 is {entry.translation:g} m, {entry.rotation.rad:g} rad as `{entry.rotation.is_}`"
            )
            parts += [f"`{image}`" for image in entry.images]
        assert has_row(name, "vla-eval", *parts), name


def test_every_dataset_has_a_row_with_its_gripper():
    table = convention_table()
    for name, entry in table.datasets.items():
        gripper = entry.gripper
        if gripper.relative:
            said = "gripper relative:"
        elif gripper.constant is not None:
            said = f"gripper constant {gripper.constant:g}:"
        else:
            said = f"gripper open {gripper.open:g}, closed {gripper.closed:g}:"
        assert has_row(name, "RLDS datasets", said), name
    for name in table.refused:
        assert has_row(name, "RLDS datasets", "refused:"), name


def test_every_observation_map_has_its_keys_in_a_row():
    for name in available_maps():
        data = yaml.safe_load((MAPS / f"{name}.yaml").read_text(encoding="utf-8"))
        rows = [row for row in rows_about("openpi") if f"`{name}`" in row.program]
        for key in (*data["images"], *data["state"], data["instruction"]):
            assert any(f"`{key}`" in row.there for row in rows), (name, key)
        for part in itertools.chain(*data["state"].values()):
            assert any(f"`{part}`" in row.here for row in rows), (name, part)


def test_every_part_of_a_state_and_every_field_has_a_row():
    for part in STATE_PARTS:
        assert has_row(part, "state vectors"), part
    for name in act_codec.FIELDS:
        assert has_row(name, "OpenVLA `/act`"), name
    for layout in get_args(Hdf5Layout):
        assert has_row(layout, "HDF5 layouts"), layout


def test_every_drivers_own_convention_has_a_row():
    kinds = {*get_args(get_type_hints(ArmBackend)["kind"]), *get_args(get_type_hints(GripperBackend)["kind"])}
    assert kinds > STANDARD
    for kind in kinds - STANDARD:
        assert any(f"`{kind}`" in row.program for row in ROWS), kind


def test_the_checks_see_what_is_missing():
    rows = rows_of("| a |\n|---|\n| x | `y` \\| z | h | c | r 1.0 | [p](p) `n` |\n")
    assert rows == [Row("x", "`y` \\| z", "h", "c", "r 1.0", "[p](p) `n`")]
    assert not has_row("no_such_benchmark", "vla-eval")
    assert not has_row("simpler", "vla-eval", "gripper open 0, closed 1")
