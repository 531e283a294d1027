"""The ``openvla`` command line: all verbs, and expected errors as one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from openvla_ros import __version__
from openvla_ros.cli import data, evaluation, model, robot, run, serve, training
from openvla_ros.cli.verbosity import with_verbosity
from openvla_ros.errors import OpenVLARosError

app = typer.Typer(
    name="openvla",
    help="OpenVLA on ROS 2 arms: inference, safe control, recording, fine-tuning, redeployment.",
    epilog=(
        "openvla VERB -h explains a verb, with examples. Logs: the nodes of openvla up print theirs and "
        "keep it in ~/.ros/log (ROS_LOG_DIR and ROS_HOME change that); demo, loop and evaluate --live write "
        "nodes.log into their output folder."
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openvla_ros {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make typer treat every verb as a sub-command."""


for _module in (run, model, robot, data, training, evaluation, serve):
    _module.register(app)
for _command in app.registered_commands:
    if _command.callback is not None:
        _command.callback = with_verbosity(_command.callback)


def run_program() -> None:
    """Run the verb on the command line; an expected error prints one line on stderr and exits with 1."""
    try:
        app()
    except OpenVLARosError as error:
        typer.secho(f"openvla: {error}", err=True, fg="red")
        sys.exit(1)
