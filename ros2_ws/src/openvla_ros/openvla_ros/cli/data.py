"""Verbs of ``openvla`` that record, inspect and convert demonstrations."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from openvla_ros.cli import bag_import, recording
from openvla_ros.cli.verbosity import Verbosity, verbosity
from openvla_ros.errors import DatasetError

if TYPE_CHECKING:
    from openvla_ros.data.datasets.conversion import ConversionReport
    from openvla_ros.data.datasets.listing import EpisodeSummary
    from openvla_ros.data.datasets.open_dataset import SourceRequest
    from openvla_ros.data.episodes.converted_actions import ActionConversion
    from openvla_ros.values.action import ActionKind
    from openvla_ros.values.rotation_numbers import RotationConvention

SourceArgument = Annotated[
    Path, typer.Argument(help="Dataset: bag, RLDS, LeRobot or HDF5; the format is detected.")
]
SplitOption = Annotated[str | None, typer.Option(help="Only this split of an RLDS dataset.")]
ConventionOption = Annotated[
    str | None, typer.Option(help="How to read an RLDS dataset's numbers, e.g. bridge_orig or droid.")
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--robot",
        "--profile",
        help="Robot profile: what a LeRobot dataset's actions mean, and the arm's kinematics.",
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        help="Compose consecutive deltas into steps of this many Hz, e.g. six of 30 Hz into one of 5."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON array.")]
INCOMPLETE = 2  # exit code: some episodes could not be read


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(convert)
    app.command()(episodes)
    app.command()(show)
    bag_import.register(app)
    recording.register(app)


def convert(
    source: SourceArgument,
    destination: Annotated[Path, typer.Argument(help="New folder; the dataset is named after it.")],
    to: Annotated[Literal["bag", "rlds", "lerobot", "hdf5"], typer.Option(help="Format to write.")],
    workers: Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")] = 1,
    backend: Annotated[
        Literal["processes", "ray"], typer.Option(help="ray: on a Ray cluster with shared folders.")
    ] = "processes",
    images: Annotated[
        Literal["av1", "h264", "image"],
        typer.Option(help="How a LeRobot dataset stores images: av1 or h264 (lossy), or image (lossless)."),
    ] = "av1",
    actions: Annotated[
        Literal["commanded", "measured"],
        typer.Option(help="Commanded actions, or the arm's measured motion."),
    ] = "commanded",
    action_space: Annotated[
        Literal["tool_delta", "tool_pose", "joint_delta", "joint_position"] | None,
        typer.Option(help="Convert the actions to this kind with the kinematics of --robot."),
    ] = None,
    rotation: Annotated[
        Literal["euler_xyz", "rotation_vector", "matrix", "quaternion_xyzw", "rotation_6d"] | None,
        typer.Option(help="Rotation of --action-space tool_pose, or the first two of tool_delta."),
    ] = None,
    next_obs: Annotated[
        bool,
        typer.Option(help="HDF5: also store next observations, which some of robomimic's algorithms need."),
    ] = True,
    group_size: Annotated[int, typer.Option(min=1, help="Episodes per work unit, shard or video.")] = 16,
    split: SplitOption = None,
    convention: ConventionOption = None,
    profile: ProfileOption = None,
    rate: RateOption = None,
) -> None:
    """Convert a dataset. Rerun it to resume; damaged episodes are skipped and listed (exit code 2).

    Examples:
      openvla convert ~/openvla_recordings/widowx datasets/carrot --to lerobot

      openvla convert datasets/bridge datasets/bridge_5hz --to rlds --convention bridge_orig --workers 4

      openvla convert datasets/carrot datasets/joints --to lerobot --robot widowx --action-space joint_delta
    """
    from tqdm import tqdm

    from openvla_ros.data.datasets.conversion import ConversionRequest
    from openvla_ros.data.datasets.conversion import convert as run

    request = ConversionRequest(
        source=replace(
            _request(source, split, convention, profile, rate),
            conversion=_action_conversion(action_space, rotation, profile),
        ),
        destination=destination,
        target=to,
        actions=actions,
        storage=images,
        group_size=group_size,
        next_obs=next_obs,
    )
    with tqdm(unit="episode", disable=True if verbosity() is Verbosity.QUIET else None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = run(request, workers=workers, backend=backend, progress=progress)
    _tell(report)


def _tell(report: ConversionReport) -> None:
    typer.echo(f"{report.destination}: {report.episodes} episodes, {report.steps} steps, as {report.target}")
    for entry in report.skipped:
        typer.secho(f"skipped: episode {entry.index}: {entry.reason}", err=True, fg="yellow")
    if report.skipped:
        raise typer.Exit(INCOMPLETE)


def episodes(
    source: SourceArgument,
    as_json: JsonOption = False,
    split: SplitOption = None,
    convention: ConventionOption = None,
    profile: ProfileOption = None,
    rate: RateOption = None,
) -> None:
    """List the episodes of a dataset: steps, instruction, outcome, rate, warnings.

    Verifies every checksum in the dataset. Exit code 0: all episodes read; 2: some episodes could not be
    read, or files are missing; 1: none could be read.

    Examples:
      openvla episodes ~/openvla_recordings/widowx

      openvla episodes datasets/bridge --convention bridge_orig --json
    """
    from openvla_ros.data.datasets.listing import summarise, unfinished

    request = _request(source, split, convention, profile, rate)
    lost = request.absent()
    found = list(summarise(request.open(partial=True)))
    whole = [entry for entry in found if entry.problem is None]
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in found], indent=2, ensure_ascii=False))
    else:
        _print_table(whole)
        for name in unfinished(source):
            typer.secho(
                f"unfinished: {name}; unless it is being recorded, run: openvla recover {source}", fg="yellow"
            )
    for entry in found:
        if entry.problem is not None:
            typer.secho(f"cannot be read: episode {entry.index}: {entry.problem}", fg="red", err=as_json)
    for name in lost:
        typer.secho(f"missing: {source / name}", fg="red", err=as_json)
    if lost or not whole or len(whole) < len(found):
        raise typer.Exit(INCOMPLETE if whole else 1)


def _print_table(found: list[EpisodeSummary]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in ("#", "episode", "steps", "s", "Hz", "outcome"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("#", "steps", "s", "Hz") else "left")
    table.add_column("instruction")
    for entry in found:
        table.add_row(
            str(entry.index),
            escape(entry.id),
            str(entry.steps),
            f"{entry.duration_s:.1f}",
            f"{entry.rate_hz:g}",
            entry.outcome,
            escape(entry.instruction),
        )
    console = Console(highlight=False)
    console.print(table)
    seconds = sum(entry.duration_s for entry in found)
    console.print(f"{len(found)} episodes, {sum(e.steps for e in found)} steps, {seconds / 60:.1f} minutes")
    for entry in found:
        for warning in entry.warnings:
            console.print(f"[yellow]{escape(entry.id)}: {escape(warning)}[/]", soft_wrap=True)


def show(
    source: SourceArgument,
    episode: Annotated[int, typer.Option(help="Episode number, from 0.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Page to write; default ./<episode>.html.")] = None,
    video: Annotated[bool, typer.Option(help="Include a video of every camera.")] = True,
    split: SplitOption = None,
    convention: ConventionOption = None,
    profile: ProfileOption = None,
    rate: RateOption = None,
) -> None:
    """Write one episode as an HTML page: images, plots, videos, provenance.

    Example:
      openvla show ~/openvla_recordings/widowx --episode 3 --output episode_3.html
    """
    from openvla_ros.data.datasets.episode_page import episode_page

    dataset = _request(source, split, convention, profile, rate).open()
    if not 0 <= episode < len(dataset):
        raise DatasetError(f"{source}: no episode {episode}; choose 0 .. {len(dataset) - 1}")
    chosen = dataset[episode]
    path = output or Path(f"{chosen.id}.html")
    typer.echo(str(episode_page(chosen, video=video).write(path)))


def _request(
    source: Path, split: str | None, convention: str | None, profile: str | None, rate: float | None
) -> SourceRequest:
    from openvla_ros.data.datasets.open_dataset import SourceRequest
    from openvla_ros.profile import load_profile

    space = None if profile is None else load_profile(profile).space()
    return SourceRequest(source, split=split, convention=convention, space=space, rate_hz=rate)


def _action_conversion(
    kind: ActionKind | None, rotation: RotationConvention | None, profile: str | None
) -> ActionConversion | None:
    from openvla_ros.data.episodes.converted_actions import ActionConversion
    from openvla_ros.profile import load_profile

    if kind is None:
        if rotation is not None:
            raise DatasetError(f"--rotation {rotation} needs --action-space tool_pose or tool_delta")
        return None
    if profile is None:
        raise DatasetError(f"--action-space {kind} needs --robot: the robot whose kinematics convert them")
    return ActionConversion(load_profile(profile), kind, rotation)
