"""The program ``openvla``: collects the verbs and turns expected errors into one clear line."""

from __future__ import annotations

import sys

import typer

from openvla_ros.cli import data, evaluation, model, robot, run, serve, training
from openvla_ros.errors import OpenVLARosError

app = typer.Typer(
    name="openvla",
    help="OpenVLA on physical robots: see, be told, move; record, learn, and put it back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _root() -> None:
    """Keep the verbs as sub-commands even while there is only one."""


for _module in (run, model, robot, data, training, evaluation, serve):
    _module.register(app)


def main() -> None:
    """Run ``openvla``; an expected error is one line on stderr and exit code 1."""
    try:
        app()
    except OpenVLARosError as error:
        typer.secho(f"openvla: {error}", err=True, fg="red")
        sys.exit(1)
