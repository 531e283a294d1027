"""The action's files: the installed types are those of the interface package in this checkout."""

import pytest
from support.shared_data import PACKAGE_SOURCE

ACTION = PACKAGE_SOURCE.parent / "openvla_interfaces" / "action" / "ExecuteInstruction.action"


def fields_of(section: str) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in section.splitlines())
    return {line.split()[1]: line.split()[0] for line in lines if line and "=" not in line}


def test_the_installed_action_has_the_fields_of_the_file():
    module = pytest.importorskip(
        "openvla_interfaces.action", reason="openvla_interfaces is not built (it needs g++)"
    )
    sections = ACTION.read_text(encoding="utf-8").split("\n---\n")
    action = module.ExecuteInstruction
    for section, kind in zip(sections, (action.Goal, action.Result, action.Feedback), strict=True):
        installed = kind.get_fields_and_field_types()
        written = {name: {"float32": "float"}.get(type_, type_) for name, type_ in fields_of(section).items()}
        assert installed == written
