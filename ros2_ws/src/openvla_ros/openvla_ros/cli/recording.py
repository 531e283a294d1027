"""Verbs of ``openvla`` for demonstrating: teleoperate, record, recover."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from openvla_ros.bringup.dds import dds_environment
from openvla_ros.bringup.graph import arguments_of_one_node
from openvla_ros.errors import DatasetError, MissingDependencyError

RobotOption = Annotated[str, typer.Option(help="Robot profile: a name or a YAML file.")]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the robot's nodes.")]
SimTimeOption = Annotated[bool, typer.Option("--use-sim-time", help="Use the time from /clock.")]


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(record)
    app.command()(recover)
    app.command()(teleop)


def record(
    task: Annotated[str, typer.Option(help="The instruction that is demonstrated.")],
    robot: RobotOption = "sim_widowx",
    episodes: Annotated[int, typer.Option(min=1, help="Number of demonstrations.")] = 50,
    pause: Annotated[
        float, typer.Option(min=0, help="Seconds to reset the scene; 0: wait for Enter.")
    ] = 10.0,
    folder: Annotated[
        str, typer.Option(help="Where to store episodes; default ~/openvla_recordings/<robot>.")
    ] = "",
    operator: Annotated[str, typer.Option(help="Who demonstrates; default: the login name.")] = "",
    speak: Annotated[bool, typer.Option(help="Speak prompts, or ring the terminal bell.")] = True,
    namespace: NamespaceOption = "",
    use_sim_time: SimTimeOption = False,
) -> None:
    """Record a batch of demonstrations, with keys for success, failure, discard and re-record.

    Start the robot, its cameras and teleoperation separately (openvla up, openvla teleop).

    Example:
      openvla record --robot widowx --episodes 50 --task "put the carrot on the plate"
    """
    try:
        from openvla_ros.programs import record_session
    except ImportError as error:
        raise _without_ros(error) from error
    if not task.strip():
        raise DatasetError("the task is empty; describe in words what is demonstrated")
    options = record_session.BatchOptions(
        robot=robot,
        task=task.strip(),
        episodes=episodes,
        pause_s=pause,
        folder=folder,
        operator=operator,
        speak=speak,
        namespace=namespace,
        use_sim_time=use_sim_time,
    )
    kept = record_session.record(options)
    typer.echo(f"{len(kept)} episodes kept" + (f": {kept[0]} to {kept[-1]}" if kept else ""))


def recover(
    folder: Annotated[Path, typer.Argument(help="Folder of recordings.")],
) -> None:
    """Recover the unfinished episodes of a recorder that was killed.

    Example:
      openvla recover ~/openvla_recordings/widowx
    """
    from openvla_ros.data.bags.recording_folder import Recordings

    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder of recordings")
    recordings = Recordings(folder)
    with recordings.locked():
        recovered = recordings.recover()
    for done in recovered:
        typer.echo(done.describe())
    if not recovered:
        typer.echo("nothing to recover")


def teleop(
    device: Annotated[str, typer.Option(help="keyboard, gamepad, spacemouse or leader.")] = "keyboard",
    robot: RobotOption = "sim_widowx",
    path: Annotated[
        str,
        typer.Option(help="Device file of a gamepad or SpaceMouse, or auto; default: topic joy or spacenav."),
    ] = "",
    leader_robot: Annotated[str, typer.Option(help="Leader arm's profile; default: the robot's.")] = "",
    namespace: NamespaceOption = "",
    use_sim_time: SimTimeOption = False,
) -> None:
    """Teleoperate the robot, through the same controller and limits as a policy.

    Pressing the dead man's switch takes the arm from the policy; only the key for it hands it back.

    Examples:
      openvla teleop --robot widowx --device gamepad

      openvla teleop --robot widowx --device spacemouse --path auto
    """
    try:
        from openvla_ros.nodes import teleop_node
        from openvla_ros.ros import process
    except ImportError as error:
        raise _without_ros(error) from error
    if device not in teleop_node.DEVICES:
        raise DatasetError(f"device {device!r} is not one of {', '.join(teleop_node.DEVICES)}")
    os.environ.update(dds_environment(os.environ))  # read when the first node is made
    node = partial(teleop_node.TeleopNode, device=device, robot=robot, path=path, leader_robot=leader_robot)
    raise typer.Exit(process.run(node, arguments_of_one_node("teleop", robot, namespace, use_sim_time)))


def _without_ros(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"this needs ROS 2 ({error}): source its setup.bash, or pip install 'openvla_ros[ros]'"
    )
