"""Generate docs/reference from the code: parameters, profile keys, verbs, verdicts, topics and diagnostics.

python tools/write_reference.py            # write the pages
python tools/write_reference.py --check    # exit code 1 if a page differs from what the code says

Nothing on those pages is written by hand, so none goes out of date. The pages of topics and diagnostics come
from real nodes and need ROS 2: ``reference_nodes.py`` starts the nodes in a separate process. Names, defaults
and meanings come from the dataclasses, comments and help texts.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from openvla_ros.bringup.graph import LAUNCH_ARGUMENTS
from openvla_ros.cli.program import app
from openvla_ros.cli.verbosity import OPTIONS
from openvla_ros.profile import RobotProfile
from openvla_ros.values.verdict import Reason
from reference_comments import field_comments, member_comments
from reference_format import (
    constraints,
    first_line,
    parts_of,
    plain_type,
    shown,
    table,
    type_name,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
NODES = ROOT / "ros2_ws" / "src" / "openvla_ros" / "openvla_ros" / "nodes"
MADE = "<!-- Made by tools/write_reference.py from the code: change that, then run `make reference`. -->\n"
# The unit that a key's suffix implies.
UNITS = {
    "_m_s": "m/s", "_hz": "Hz", "_s": "s", "_m": "m", "_rad": "rad", "_deg": "degrees", "_n": "N",
    "_nm": "N m", "_ns": "ns", "_ms": "ms", "_mb": "MB", "_share": "1", "_bytes": "bytes", "_px": "pixels",
}  # fmt: skip


def main() -> int:
    """Write or check every page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; say which pages differ")
    arguments = parser.parse_args()
    pages = static_pages() | node_pages()
    pages["README.md"] = index(pages)
    differing = [
        name for name, text in pages.items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]  # fmt: skip
    if arguments.check:
        print(
            "\n".join(f"{name} differs: run make reference" for name in differing) or "all pages are current"
        )
        return 1 if differing else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in differing:
        (FOLDER / name).write_text(pages[name], encoding="utf-8")
    print(f"{len(pages)} pages, {len(differing)} changed: {', '.join(differing) or 'none'}")
    return 0


def static_pages() -> dict[str, str]:
    """Return the pages that need only the code; nothing is started."""
    return {"profile.md": profile_page(), "commands.md": commands_page(), "verdicts.md": verdicts_page()}


def node_pages() -> dict[str, str]:
    """Return the pages that need ROS 2: parameters, topics and diagnostics."""
    found = nodes_as_they_are()
    return {
        "parameters.md": parameters_page(),
        "topics.md": topics_page(found),
        "diagnostics.md": diagnostics_page(found),
    }


def index(pages: typing.Iterable[str]) -> str:
    """Return the index page."""
    about = {
        "commands.md": "every verb of `openvla` and the launch arguments, with their options",
        "diagnostics.md": "what each node says of itself on `/diagnostics`",
        "parameters.md": "every ROS parameter of every node",
        "profile.md": "every key of a robot's profile, with unit and range",
        "topics.md": "every topic, service and action, with type and quality of service",
        "verdicts.md": "every reason for which the controller limits or holds the arm",
    }
    lines = [f"- [{name.removesuffix('.md')}]({name}): {about[name]}" for name in sorted(pages)]
    return f"{MADE}# Reference\n\n" + "\n".join(lines) + "\n"


# Parameters


def parameters_page() -> str:
    """Return the page of every node's ROS parameters."""
    parts = [MADE, "# Parameters\n"]
    parts.append(
        "Set at start with `-p name:=value`, while a node runs with `ros2 param set /node name value` where "
        "the table says *live*. Every node also has rclpy's own `use_sim_time`.\n"
    )
    for path in sorted(NODES.glob("*_node.py")):
        module = import_module(f"openvla_ros.nodes.{path.stem}")
        for cls in parameter_classes(module):
            parts.append(f"## {path.stem}\n\n{first_line(module.__doc__)}\n")
            rows = (parameter_row(item) for item in fields(cls))
            parts.append(table(("name", "type", "default", "range or choices", "live", "meaning"), rows))
    return "\n".join(parts)


def parameter_classes(module: Any) -> list[type]:
    """Return the dataclasses of ROS parameters that a node's module declares or imports."""
    found = {
        value for value in vars(module).values()
        if isinstance(value, type) and is_dataclass(value) and fields(value)
        and all("read_only" in item.metadata for item in fields(value))
    }  # fmt: skip
    return sorted(found, key=lambda cls: cls.__name__)


def parameter_row(item: Any) -> tuple[str, ...]:
    """Return one parameter as a row."""
    m = item.metadata
    choices = ", ".join(f"`{choice}`" for choice in m["choices"])
    limits = "" if m["low"] is None else f"{m['low']:g} .. {m['high']:g}"
    meaning = re.sub(r" \(one of: .*\)$", "", m["description"])
    live = "" if m["read_only"] else "live"
    return f"`{item.name}`", type_name(item.type), shown(item.default), choices or limits, live, meaning


# The profile


def profile_page() -> str:
    """Return the page of every key of a robot profile."""
    parts = [MADE, "# Profile\n", f"{first_line(inspect.getdoc(inspect.getmodule(RobotProfile)))}\n"]
    parts.append(
        "Profiles are in `config/robots/`; a key that is not here is refused, and so is a missing one.\n"
    )
    parts += [profile_section(key, cls) for key, cls in profile_classes(RobotProfile, "")]
    return "\n".join(parts)


def profile_classes(cls: type, key: str) -> Iterator[tuple[str, type]]:
    """Yield each part of the profile with its key, depth first."""
    yield key, cls
    for name, hint in typing.get_type_hints(cls).items():
        for part in parts_of(hint):
            yield from profile_classes(part, f"{key}.{name}".lstrip("."))


def profile_section(key: str, cls: type) -> str:
    """Return the table of one part's keys."""
    comments, hints = field_comments(cls), typing.get_type_hints(cls, include_extras=True)
    rows = []
    for item in fields(cls):
        meaning = comments.get(item.name, "")
        if parts := parts_of(hints[item.name]):
            meaning = meaning or first_line(parts[0].__doc__)
        rows.append((f"`{item.name}`", *type_and_range(hints[item.name]), default_of(item),
                     unit_of(item.name), meaning))  # fmt: skip
    head = f"## `{key}`" if key else "## The file itself"
    return f"{head}\n\n{first_line(cls.__doc__)}\n\n" + table(
        ("key", "type", "range or choices", "default", "unit", "meaning"), rows
    )


def type_and_range(hint: Any) -> tuple[str, str]:
    """Return the type of a key in words, and its allowed values."""
    limits = [text for text in constraints(hint) if text]
    return plain_type(hint), ", ".join(dict.fromkeys(limits))


def default_of(item: Any) -> str:
    """Return a field's default as it would be written, or *required*."""
    if item.default is MISSING and item.default_factory is MISSING:
        return "*required*"
    value = item.default if item.default is not MISSING else item.default_factory()
    return "as below" if is_dataclass(value) else shown(value)


def unit_of(name: str) -> str:
    """Return the unit that the suffix of ``name`` implies."""
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")


# The program


def commands_page() -> str:
    """Return the page of every verb of ``openvla``, and of the launch arguments."""
    parts = [MADE, "# Commands\n"]
    parts.append("`openvla VERB -h` says the same. Every verb also takes `-v` (print every step and what the "
                 "package logs) and `-q` (print results and errors only).\n")  # fmt: skip
    verbs = {verb_name(command): command.callback for command in app.registered_commands}
    parts += [verb_section(name, verbs[name]) for name in sorted(verbs)]
    parts.append("## ros2 launch openvla_ros bringup.launch.py\n")
    rows = ((f"`{name}:=`", shown(default), about) for name, (default, about) in LAUNCH_ARGUMENTS.items())
    parts.append(table(("argument", "default", "meaning"), rows))
    return "\n".join(parts)


def verb_name(command: Any) -> str:
    """Return the verb that the user types for a registered command."""
    return command.name or command.callback.__name__.replace("_", "-")


def verb_section(name: str, function: Any) -> str:
    """Return the section of one verb: what it does, its examples and its options."""
    about, _, examples = inspect.cleandoc(command_help(function)).partition("\nExample")
    lines = [line.strip() for line in examples.partition(":")[2].splitlines() if line.strip()]
    shell = "".join(
        f"{line}\n" for line in lines if line.startswith(("openvla", "export", "ros2", "openssl"))
    )
    rest = " ".join(line for line in lines if line not in shell)
    text = f"## openvla {name}\n\n{about.strip()}\n"
    text += f"\n```bash\n{shell}```\n" if shell else ""
    text += f"\n{rest}\n" if rest else ""
    hints = typing.get_type_hints(function, include_extras=True)
    own = [item for item in inspect.signature(function).parameters.values() if item not in OPTIONS]
    rows = [option_row(item, hints[item.name]) for item in own]
    return text + ("\n" + table(("option", "type", "default", "meaning"), rows) if rows else "")


def command_help(function: Any) -> str:
    """Return the text that ``--help`` shows."""
    return (function.__doc__ or "").replace("\f", "").replace("\b", "")


def option_row(item: inspect.Parameter, hint: Any) -> tuple[str, ...]:
    """Return one option or argument as a row."""
    # Before Python 3.11 a default of None wraps the annotation in Optional.
    if not hasattr(hint, "__metadata__"):
        hint = next(part for part in typing.get_args(hint) if hasattr(part, "__metadata__"))
    (info,) = (note for note in hint.__metadata__ if isinstance(note, typer.models.ParameterInfo))
    name = item.name.replace("_", "-")
    # Inside Annotated, typer treats the first name as the default until it builds the command.
    declared = [text for text in (info.default, *(info.param_decls or ())) if isinstance(text, str)]
    names = tuple(part for text in declared for part in text.split("/") if part.startswith("-"))
    if isinstance(info, typer.models.ArgumentInfo):
        names = ((info.metavar or name).upper(),)
    elif not names:
        switch = typing.get_args(hint)[0] is bool
        names = (f"--{name}", f"--no-{name}") if switch else (f"--{name}",)
    default = "*required*" if item.default in (inspect.Parameter.empty, ...) else shown(item.default)
    limits = ", ".join(
        f"{sign} {value:g}" for sign, value in (("≥", info.min), ("≤", info.max)) if value is not None
    )
    kind = plain_type(hint).replace(" or null", "") + (f", {limits}" if limits else "")
    return "`" + "` `".join(names) + "`", kind, default, info.help or ""


# Verdicts


def verdicts_page() -> str:
    """Return the page of every reason of a verdict."""
    comments = member_comments(Reason)
    parts = [MADE, "# Verdicts\n", f"{first_line(inspect.getdoc(inspect.getmodule(Reason)))}\n"]
    parts.append("They are on `controller/verdict`, and counted as `count/<reason>` in the controller's "
                 "`/diagnostics`. [What stops the arm](../safety.md) says what follows.\n")  # fmt: skip
    groups: dict[str, list[tuple[str, str]]] = {}
    for reason in Reason:
        group, meaning = comments[reason.name]
        groups.setdefault(group, []).append((f"`{reason.value}`", meaning))
    for group, rows in groups.items():
        parts.append(f"## {group.rstrip('.') or 'Nothing to say'}\n\n" + table(("reason", "meaning"), rows))
    return "\n".join(parts)


# From running nodes


def nodes_as_they_are() -> dict[str, Any]:
    """Start every node without a robot; return its endpoints and its health."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("reference_nodes.py"))],
        capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the nodes could not be looked at:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def topics_page(found: dict[str, Any]) -> str:
    """Return the page of every topic, service and action."""
    parts = [MADE, "# Topics, services and actions\n"]
    parts.append(
        "As the nodes create them for the robot `sim_widowx`, before the profile's remappings; relative to "
        "the robot's namespace. *by* is the node; `<camera>` stands for the name of a camera of the profile. "
        "Quality of service: reliability, durability, depth of the queue.\n"
    )
    for title, kind, header in (
        ("Published", "publishers", ("topic", "type", "by", "quality of service")),
        ("Subscribed", "subscriptions", ("topic", "type", "by", "quality of service")),
        ("Services", "services", ("service", "type", "by")),
        ("Actions", "actions", ("action", "type", "by")),
        ("Called by the nodes", "clients", ("service or action", "type", "by")),
    ):
        merged: dict[tuple[str, ...], list[str]] = {}
        for node, shows in found.items():
            for row in shows[kind]:
                merged.setdefault(tuple(row), []).append(node)
        rows = []
        for key, nodes in sorted(merged.items()):
            name, of_type, *quality = key
            rows.append((f"`{name}`", of_type, ", ".join(sorted(set(nodes))), *quality))
        parts.append(f"## {title}\n\n" + table(header, rows))
    parts.append(
        "## To the robot\n\nWhere commands go and in which type follows from `arm_backend` and "
        "`gripper_backend` of the [profile](profile.md). The setpoint node is shown for `forward_position`.\n"
    )
    return "\n".join(parts)


def diagnostics_page(found: dict[str, Any]) -> str:
    """Return the page of what each node reports on ``/diagnostics``."""
    parts = [MADE, "# Diagnostics\n"]
    parts.append(
        "`/diagnostics`, once a second; a status is called `<node>: <name>`. Values in angle brackets stand "
        "for several keys. Values that are reported only now and then (after a refusal) may be missing.\n"
    )
    for node, shows in found.items():
        rows = ((f"`{name}`", ", ".join(f"`{key}`" for key in keys)) for name, keys in shows["health"])
        parts.append(f"## {node}\n\n" + table(("status", "values"), rows))
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
