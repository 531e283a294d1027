"""The verb of ``openvla`` that turns other rosbag2 recordings into episodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from openvla_ros.cli.verbosity import Verbosity, verbosity
from openvla_ros.errors import DatasetError
from openvla_ros.values.time import NS_PER_S

if TYPE_CHECKING:
    from openvla_ros.data.foreign_bags.episode_writing import ImportResult
    from openvla_ros.data.foreign_bags.import_plan import ImportPlan, Skipped

INCOMPLETE = 2  # exit code: some episodes could not be made


def register(app: typer.Typer) -> None:
    """Add this module's verb to ``app``."""
    app.command()(import_bag)


def import_bag(
    bag: Annotated[Path, typer.Argument(help="Recording: a folder, or one .mcap or .db3 file.")],
    robot: Annotated[str, typer.Option(help="Robot profile, which names the topics: a name or a YAML file.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of recordings that the episodes are added to.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Print the cuts; write nothing.")] = False,
    cut_topic: Annotated[
        str,
        typer.Option(help="One episode per stretch in which this topic is true, non-zero, or the same text."),
    ] = "",
    cut_service: Annotated[
        str,
        typer.Option(
            help="One episode from each recorded call of this service to the next (SetBool: true to false)."
        ),
    ] = "",
    stop_service: Annotated[
        str, typer.Option(help="Service whose call ends an episode that --cut-service began.")
    ] = "",
    times: Annotated[
        Path | None,
        typer.Option(
            help="CSV: start,end[,instruction] in seconds from the recording's first message, or "
            "start_ns,end_ns[,instruction]."
        ),
    ] = None,
    cut_pauses: Annotated[
        float,
        typer.Option(min=0, help="One episode per motion between pauses of at least this many seconds."),
    ] = 0.0,
    pause_speed: Annotated[
        float, typer.Option(min=0, help="For --cut-pauses: a joint slower than this is at rest, rad/s.")
    ] = 0.02,
    instruction: Annotated[str, typer.Option(help="Instruction of episodes that have none in --times.")] = "",
    instruction_topic: Annotated[
        str, typer.Option(help="Topic of the instruction (std_msgs/String); default: instruction.")
    ] = "",
    outcome: Annotated[
        Literal["success", "failure", "unknown"], typer.Option(help="Outcome of every episode.")
    ] = "unknown",
    actions: Annotated[
        Literal["auto", "commanded", "joint_states"],
        typer.Option(
            help="commanded: the recorded action chunks; joint_states: computed from measured joint states; "
            "auto: commanded if any were recorded."
        ),
    ] = "auto",
    stamps: Annotated[
        Literal["header", "received"],
        typer.Option(help="Match streams by header stamps or by receive times."),
    ] = "header",
    topic: Annotated[
        list[str] | None,
        typer.Option(
            help="ROLE=NAME: read this topic instead of the profile's, e.g. joint_states=/arm/joints."
        ),
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of the profile's relative topics.")] = "",
) -> None:
    """Make episodes of any rosbag2 recording: sqlite3 or MCAP, compressed or not, split or not.

    Exit code 0: all cuts became episodes; 2: some did not; 1: none did.

    Examples:
      openvla import-bag bags/kitchen --robot widowx --cut-topic /recording --preview

      openvla import-bag bags/kitchen --robot widowx --times cuts.csv --output demos
    """
    from openvla_ros.data.foreign_bags.import_plan import plan_import
    from openvla_ros.data.foreign_bags.import_request import Cutting, ImportRequest
    from openvla_ros.data.foreign_bags.rosbag2_recording import Recording
    from openvla_ros.profile import load_profile

    if output is None and not preview:
        raise DatasetError("give --output FOLDER for the episodes, or --preview to see the cuts first")
    request = ImportRequest(
        bag=bag,
        profile=load_profile(robot),
        cutting=Cutting(
            topic=cut_topic,
            service=cut_service,
            stop_service=stop_service,
            times=times,
            pauses_s=cut_pauses,
            pause_speed=pause_speed,
        ),
        instruction=instruction.strip(),
        instruction_topic=instruction_topic,
        outcome=outcome,
        actions=actions,
        stamps=stamps,
        namespace=namespace,
        topics=_roles(topic or []),
    )
    with Recording(bag) as recording:
        plan = plan_import(request, recording)
        _print_plan(plan)
        if preview or output is None:
            _print_skipped(plan.skipped, plan)
            raise typer.Exit(_code(len(plan.episodes), len(plan.skipped)))
        from openvla_ros.data.foreign_bags.episode_writing import write_episodes

        with _bar(len(plan.episodes)) as bar:
            result = write_episodes(plan, recording, output, bar.update)
    _print_result(result, plan)
    raise typer.Exit(_code(len(result.episodes), len(result.skipped)))


def _roles(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in given:
        role, equals, name = entry.partition("=")
        if not (role and equals and name):
            raise DatasetError(f"--topic {entry}: it must be ROLE=NAME")
        if role in found:
            raise DatasetError(f"--topic names {role} twice: {found[role]} and {name}")
        found[role] = name
    return found


class _Bar:
    def __init__(self, bar: object) -> None:
        self._bar = bar

    def update(self) -> None:
        self._bar.update(1)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _bar(total: int) -> Iterator[_Bar]:
    from tqdm import tqdm

    with tqdm(total=total, unit="episode", disable=True if verbosity() is Verbosity.QUIET else None) as bar:
        yield _Bar(bar)


def _code(done: int, skipped: int) -> int:
    if not done:
        return 1
    return INCOMPLETE if skipped else 0


def _print_plan(plan: ImportPlan) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in ("#", "start s", "length s", "frames"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("instruction")
    table.add_column("why")
    for number, episode in enumerate(plan.episodes):
        table.add_row(
            str(number),
            f"{(episode.cut.start_ns - plan.first_ns) / NS_PER_S:.2f}",
            f"{episode.seconds:.2f}",
            ", ".join(f"{name} {count}" for name, count in episode.frames.items()),
            escape(episode.words or "(none)"),
            escape(episode.cut.why),
        )
    console = Console(highlight=False)
    console.print(table)
    source = {
        "commanded": "recorded action chunks",
        "joint_states": "computed from measured joint states, the gripper from its measured opening",
    }
    console.print(f"{len(plan.episodes)} episodes; actions: {source[plan.actions]}")
    for note in plan.notes:
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)


def _print_skipped(skipped: tuple[Skipped, ...], plan: ImportPlan) -> None:
    for entry in skipped:
        start = (entry.cut.start_ns - plan.first_ns) / NS_PER_S
        text = f"left out: {start:.2f} s ({entry.cut.why}): {entry.reason}"
        typer.secho(text, err=True, fg="yellow")


def _print_result(result: ImportResult, plan: ImportPlan) -> None:
    for done in result.episodes:
        left = f"; steps left out: {done.left_out}" if done.left_out else ""
        typer.echo(f"{done.folder}: {done.steps} steps, {done.words or 'no instruction'}{left}")
    _print_skipped(result.skipped, plan)
