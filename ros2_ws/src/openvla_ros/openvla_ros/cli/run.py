"""Verbs of ``openvla`` that start, stop and instruct the running robot."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from openvla_ros.graph import LAUNCH_ARGUMENTS, build_graph, options_from_arguments
from openvla_ros.supervisor import Supervisor

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan")


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(up)


def up(
    robot: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["robot"][1])] = "sim_widowx",
    namespace: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["namespace"][1])] = "",
    policy: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["policy"][1])] = "openvla",
    checkpoint: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["checkpoint"][1])] = "",
    unnorm_key: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["unnorm_key"][1])] = "",
    adapter: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["adapter"][1])] = "",
    cameras: Annotated[bool, typer.Option(help=LAUNCH_ARGUMENTS["cameras"][1])] = True,
    record: Annotated[bool, typer.Option(help=LAUNCH_ARGUMENTS["record"][1])] = False,
    teleop: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["teleop"][1])] = "",
    task: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["task"][1])] = "",
    use_sim_time: Annotated[bool, typer.Option(help=LAUNCH_ARGUMENTS["use_sim_time"][1])] = False,
) -> None:
    """Start the nodes of a robot and supervise them, as ros2 launch does where it is installed.

    Examples:
      openvla up --robot sim_widowx --policy expert --task lift

      openvla up --robot widowx --policy openvla --checkpoint openvla/openvla-7b --unnorm-key bridge_orig
    """
    values = {
        "robot": robot,
        "namespace": namespace,
        "policy": policy,
        "checkpoint": checkpoint,
        "unnorm_key": unnorm_key,
        "adapter": adapter,
        "cameras": str(cameras).lower(),
        "record": str(record).lower(),
        "teleop": teleop,
        "task": task,
        "use_sim_time": str(use_sim_time).lower(),
    }
    graph = build_graph(options_from_arguments(values), os.environ)
    console = Console(soft_wrap=True, highlight=False)
    width = max(len(node.name) for node in graph.nodes)
    colours = {node.name: COLOURS[i % len(COLOURS)] for i, node in enumerate(graph.nodes)}

    def report(name: str, line: str) -> None:
        console.print(Text.assemble((f"{name:>{width}} │ ", colours[name]), Text.from_ansi(line)))

    raise typer.Exit(Supervisor(graph, report).run())
