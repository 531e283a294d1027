"""Verbs of ``openvla`` that start, stop, instruct and show the running robot."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.graph import LAUNCH_ARGUMENTS, build_graph, cameras_elsewhere, options_from_arguments
from openvla_ros.bringup.stop_signals import STOP_SIGNALS, end_at_once
from openvla_ros.bringup.supervisor import Supervisor
from openvla_ros.cli.verbosity import printer, progress_console, shown_steps
from openvla_ros.dependencies import needed_for
from openvla_ros.errors import InvalidValueError, OpenVLARosError
from openvla_ros.manifest import read_manifest
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.resources import SMALL_BASE, share_path, shipped_checkpoints

if TYPE_CHECKING:
    from openvla_ros.viewing.shown import Stage
    from openvla_ros.viewing.viewer import Viewer, ViewerRequest

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan")

DEMO_TASKS = ("reach", "lift", "put", "push")


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(up)
    app.command()(share)
    app.command()(tell)
    app.command()(demo)
    app.command()(view)


def up(
    robot: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["robot"][1])] = "sim_widowx",
    namespace: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["namespace"][1])] = "",
    policy: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["policy"][1])] = "openvla",
    checkpoint: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["checkpoint"][1])] = "",
    unnorm_key: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["unnorm_key"][1])] = "",
    adapter: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["adapter"][1])] = "",
    decoder: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["decoder"][1])] = "",
    quantization: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["quantization"][1])] = "",
    address: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["address"][1])] = "",
    token_file: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["token_file"][1])] = "",
    fingerprint: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["fingerprint"][1])] = "",
    cameras: Annotated[bool, typer.Option(help=LAUNCH_ARGUMENTS["cameras"][1])] = True,
    record: Annotated[bool, typer.Option(help=LAUNCH_ARGUMENTS["record"][1])] = False,
    teleop: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["teleop"][1])] = "",
    task: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["task"][1])] = "",
    use_sim_time: Annotated[bool, typer.Option(help=LAUNCH_ARGUMENTS["use_sim_time"][1])] = False,
    robot_address: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["robot_address"][1])] = "",
) -> None:
    """Start a robot's nodes and supervise them; does what ros2 launch does, without it.

    Exit code 0: stopped with Ctrl-C; 1: not started (these nodes are already running in this ROS domain, or
    an option is wrong); otherwise the exit code of the node that failed.

    Examples:
      openvla up --robot sim_widowx --policy expert --task lift

      openvla up --robot widowx --policy openvla --checkpoint openvla/openvla-7b --unnorm-key bridge_orig

      openvla up --robot franka_franky --robot-address 172.16.0.2
    """
    values = {
        "robot": robot,
        "namespace": namespace,
        "policy": policy,
        "checkpoint": checkpoint,
        "unnorm_key": unnorm_key,
        "adapter": adapter,
        "decoder": decoder,
        "quantization": quantization,
        "address": address,
        "token_file": token_file,
        "fingerprint": fingerprint,
        "cameras": str(cameras).lower(),
        "record": str(record).lower(),
        "teleop": teleop,
        "task": task,
        "use_sim_time": str(use_sim_time).lower(),
        "robot_address": robot_address,
    }
    from openvla_ros.discovery.domain_check import refuse_if_there

    graph = build_graph(options_from_arguments(values), os.environ)
    end_at_once()  # until the supervisor takes the signals: nothing has been started
    refuse_if_there(graph)
    console = Console(soft_wrap=True, highlight=False)
    for line in cameras_elsewhere(load_profile(robot), graph):
        console.print(line)
    width = max(len(node.name) for node in graph.nodes)
    colours = {node.name: COLOURS[i % len(COLOURS)] for i, node in enumerate(graph.nodes)}

    def report(name: str, line: str) -> None:
        console.print(Text.assemble((f"{name:>{width}} │ ", colours[name]), Text.from_ansi(line)))

    raise typer.Exit(Supervisor(graph, report).run())


def share() -> None:
    """Print the folder with config, launch and urdf.

    Example:
      export FASTDDS_DEFAULT_PROFILES_FILE=$(openvla share)/config/dds/fastdds.xml
    """
    typer.echo(share_path())


def tell(
    instruction: Annotated[str, typer.Argument(help='in words, such as "put the red cube on the plate"')],
    robot: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["robot"][1])] = "sim_widowx",
    namespace: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["namespace"][1])] = "",
    time_limit: Annotated[float, typer.Option(help="time limit, seconds")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Tell a running robot what to do, and show its progress; Ctrl-C stops it.

    Exit code 0: succeeded, or the time limit was reached; 2: anything else.

    Examples:
      openvla tell "lift the red cube"

      openvla tell "put the carrot on the plate" --robot widowx --time-limit 30 --json
    """
    from openvla_ros.programs.operator import tell_robot

    with shown_steps(progress_console(hidden=as_json)) as steps:
        outcome = tell_robot(load_profile(robot), namespace, instruction, time_limit, steps)
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
    else:
        typer.echo(
            f"{outcome.outcome}: {outcome.message} ({outcome.steps} steps, {outcome.duration_s:.1f} s)"
        )
    if outcome.outcome not in ("succeeded", "time_limit"):
        raise typer.Exit(2)


def demo(
    robot: Annotated[str, typer.Option(help="a simulated robot: sim_widowx or sim_franka")] = "sim_widowx",
    policy: Annotated[
        str, typer.Option(help="openvla or expert; default: openvla if the small model fits the robot")
    ] = "",
    checkpoint: Annotated[
        str, typer.Option(help="model folder or hub id; default: the small model in the package")
    ] = "",
    task: Annotated[list[str] | None, typer.Option(help="simulation task; repeatable")] = None,
    time_limit: Annotated[float, typer.Option(help="time limit of each instruction, seconds")] = 30.0,
    output: Annotated[Path | None, typer.Option(help="folder for video, report page and logs")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Run the whole live loop in simulation: the arm is told in words what to do, and does it.

    Examples:
      openvla demo

      openvla demo --robot sim_franka --policy expert --task lift

      openvla demo --task lift --checkpoint runs/lift
    """
    from openvla_ros.programs.demo import DemoRequest, run_demo

    folder = output or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    console = progress_console(hidden=as_json)
    policy, parameters = _demo_policy(robot, policy, checkpoint, console)
    request = DemoRequest(robot, policy, tuple(task or DEMO_TASKS), time_limit, folder, parameters)
    with shown_steps(console) as steps:
        result = run_demo(request, printer(console), steps)
    if as_json:
        typer.echo(json.dumps({"page": str(result.page), "video": str(result.video), **result.figures}))
    else:
        headline = "\n".join(f"{name}: {value}" for name, value in result.figures.items())
        typer.echo(f"{headline}\nreport: {result.page}")
    if not result.clean:
        raise typer.Exit(2)


def _demo_policy(robot: str, policy: str, checkpoint: str, console: Console) -> tuple[str, dict[str, str]]:
    """Return the demo's policy and its parameters; prints which one if the user did not choose."""
    if not policy and not checkpoint:
        small = shipped_checkpoints().get(SMALL_BASE)
        if small is not None and read_manifest(small).robot == robot:
            return "openvla", {"checkpoint": SMALL_BASE}
        console.print(f"the small model was not trained for {robot}: using the scripted expert instead")
        return "expert", {}
    return policy or "openvla", {"checkpoint": checkpoint} if checkpoint else {}


def view(
    source: Annotated[
        Path | None, typer.Argument(help="recording or dataset: bag, RLDS, LeRobot, HDF5; none: the robot")
    ] = None,
    robot: Annotated[
        str | None, typer.Option(help="profile of the running robot, or of the one in a dataset")
    ] = None,
    program: Annotated[Literal["rerun", "foxglove"], typer.Option("--in", help="the viewer")] = "rerun",
    save: Annotated[
        Path | None, typer.Option(help="write a new file: .rrd for rerun, .mcap for Foxglove")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="rerun in a browser instead of its window")] = False,
    host: Annotated[
        str, typer.Option(help="address to listen on; other machines can look only at another than this")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="port of the data; default: rerun 9876, Foxglove 8765"),
    ] = None,
    web_port: Annotated[int, typer.Option(min=1, max=65535, help="port of rerun's page")] = 9090,
    episode: Annotated[int, typer.Option(help="episode number, from 0")] = 0,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="show the running robot for this long; default: until Ctrl-C"),
    ] = None,
    namespace: Annotated[str, typer.Option(help=LAUNCH_ARGUMENTS["namespace"][1])] = "",
    use_sim_time: Annotated[bool, typer.Option(help=LAUNCH_ARGUMENTS["use_sim_time"][1])] = False,
    split: Annotated[str | None, typer.Option(help="split of an RLDS dataset")] = None,
    convention: Annotated[str | None, typer.Option(help="convention of an RLDS dataset")] = None,
) -> None:
    """Show a running robot or a recording in rerun or Foxglove.

    Cameras, tool path, joints, gripper, chunks with the model's confidence, verdicts with their reasons, the
    instruction in force, and the arm. Of a running robot it only listens. Needs rerun-sdk or foxglove-sdk
    (the extra "view"). Ctrl-C ends it.

    Examples:
      openvla view --robot sim_widowx

      openvla view ~/openvla_recordings/widowx --episode 3 --save episode_3.rrd

      openvla view --robot widowx --in foxglove

      openvla view datasets/carrot --robot widowx --serve
    """
    from openvla_ros.data.datasets.open_dataset import SourceRequest
    from openvla_ros.viewing.playing import play
    from openvla_ros.viewing.recording_view import view_recording
    from openvla_ros.viewing.viewer import ViewerRequest

    profile = None if robot is None else load_profile(robot)
    if source is None and profile is None:
        raise InvalidValueError("name a recording to show, or the running robot with --robot")
    request = ViewerRequest(program, save, serve, host, port, web_port)
    if source is None:
        assert profile is not None
        _view_robot(request, profile, seconds, namespace, use_sim_time)
        return
    if seconds is not None:
        raise InvalidValueError(f"--seconds {seconds:g} is for a running robot; {source} has its own length")
    space = None if profile is None else profile.space()
    found = view_recording(SourceRequest(source, split, convention, space), episode, profile)
    if found.missing:
        typer.secho(found.missing, err=True, fg="yellow")

    def show(viewer: Viewer, stop: threading.Event) -> str:
        count = play(found.things, viewer, stop)
        if viewer.stays and not viewer.paced:
            stop.wait()
        return f"{count} things of {found.stage.title} shown"

    _look(request, found.stage, found.not_shown, show)


def _view_robot(
    request: ViewerRequest, profile: RobotProfile, seconds: float | None, namespace: str, use_sim_time: bool
) -> None:
    from openvla_ros.viewing.robot_figure import figure_of, stage_of

    with needed_for("openvla view of a running robot"):
        from openvla_ros.live_view.robot_view import RobotView, give_way
    os.environ.update(dds_environment(os.environ))
    figure, why = figure_of(profile)

    def show(viewer: Viewer, stop: threading.Event) -> str:
        view = RobotView(profile, figure, viewer, namespace, use_sim_time)
        view.run(stop, seconds, lambda text: typer.secho(text, err=True, fg="yellow"))
        return f"{view.shown.total()} messages of {profile.name} shown"

    give_way()  # before the viewer's own threads are there
    _look(request, stage_of(profile, figure, profile.name), why, show)


def _look(
    request: ViewerRequest, stage: Stage, not_shown: str, show: Callable[[Viewer, threading.Event], str]
) -> None:
    """Open the viewer and show until the end, or until a signal asks to stop."""
    from openvla_ros.viewing.viewer import open_viewer

    if not_shown:
        typer.secho(f"the arm is not drawn: {not_shown}", err=True, fg="yellow")
    if request.warning:
        typer.secho(request.warning, err=True, fg="yellow")
    stop = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    viewer = open_viewer(request, stage)
    try:
        try:
            if request.save is None:
                typer.echo(viewer.where)
            said = show(viewer, stop)
        finally:
            viewer.close()
    except OpenVLARosError:
        if request.save is not None:
            request.save.unlink(missing_ok=True)  # not a part of what was asked for
        raise
    typer.echo(said if request.save is None else f"{said}\n{viewer.where}")
