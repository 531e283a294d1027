"""Verbs of ``openvla`` that check the robot, replay episodes on it and move it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from openvla_ros.cli.keys import pressed_keys
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.profile import load_profile

Namespace = Annotated[str, typer.Option(help="namespace of the robot's nodes")]
SimTime = Annotated[bool, typer.Option("--use-sim-time", help="use the time from /clock")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Robot = Annotated[str, typer.Option(help="robot profile: a name from config/robots or a YAML file")]
COLOURS = {"ok": "green", "not checked": "blue", "warn": "yellow", "error": "red"}
KEY_POLL_S = 0.005
# Nodes of a robot that often run only at times.
AT_TIMES = ("recorder", "teleop")
STARTS = ("here", "neutral", "episode")
# Verb → (service of the controller, what it does).
VERBS = {
    "home": ("home", "Move the arm to its home pose."),
    "neutral": ("neutral", "Move the arm to its neutral pose, where instructions start."),
    "park": ("park", "Move the arm to its parking pose, where it can be switched off."),
    "hold": ("hold", "Stop smoothly and hold; nothing moves until the arm is given to an owner."),
    "reset-estop": (
        "reset_e_stop",
        "Clear the emergency stop; the arm keeps holding until it is given to an owner.",
    ),
    "give-to-policy": ("give_to_policy", "Let the policy move the arm."),
    "give-to-teleop": ("give_to_teleop", "Let the teleoperator move the arm."),
    "recover-arm": ("recover", "Ask the arm to recover from a reflex or an error, if it supports that."),
}


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(check)
    app.command("new-robot")(new_robot)
    app.command()(replay)
    app.command()(estop)
    app.command("security-policy")(security_policy)
    for verb, (service, text) in VERBS.items():
        app.command(verb)(_asking(verb, service, text))


def check(
    robot: Annotated[str, typer.Argument(help="robot profile: a name from config/robots or a YAML file")],
    seconds: Annotated[float, typer.Option(help="how long to listen")] = 5.0,
    namespace: Namespace = "",
    use_sim_time: SimTime = False,
    as_json: AsJson = False,
) -> None:
    """Check a profile against the running robot before anything moves, and say what to fix.

    Exit code 0: no errors; 2: errors.

    Examples:
      openvla check widowx

      openvla check my_robot.yaml --seconds 10 --json
    """
    from openvla_ros.discovery.client import RobotClient
    from openvla_ros.programs.check import check_profile

    profile = load_profile(robot)
    with RobotClient("profile_check", namespace, use_sim_time) as client:
        findings = check_profile(profile, client, seconds)
    if as_json:
        typer.echo(json.dumps({"robot": profile.name, "findings": [asdict(f) for f in findings]}))
    else:
        table = Table("", "what", "found", "fix")
        for f in findings:
            table.add_row(f"[{COLOURS[f.level]}]{f.level}[/]", f.subject, f.message, f.fix)
        Console().print(table)
    if any(f.level == "error" for f in findings):
        raise typer.Exit(2)


def new_robot(
    urdf: Annotated[str, typer.Argument(help="URDF file, or the name of one that comes with the package")],
    output: Annotated[Path, typer.Option(help="the profile to write, a .yaml file that does not exist yet")],
    base: Annotated[
        str | None, typer.Option(help="link that the arm stands on; default: the URDF's root")
    ] = None,
    tool: Annotated[
        str | None, typer.Option(help="link at the tool point; required if the arm has several ends")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a first profile of a robot from its URDF, and name what a person must fill in.

    Joint limits come from the URDF, the reachable box and a neutral pose from random poses of a fixed
    seed. Topics, cameras, the gripper and accelerations are left open: the profile is refused until
    they are filled in.

    Examples:
      openvla new-robot my_arm.urdf --output my_arm.yaml

      openvla new-robot my_arm.urdf --base base_link --tool tool0 --output my_arm.yaml
    """
    from openvla_ros.robot.first_profile import first_profile

    profile = first_profile(urdf, base, tool)
    profile.write(output)
    missing = profile.open_keys
    if as_json:
        typer.echo(
            json.dumps({"profile": str(output), "fill_in": missing, "not_checked": profile.blind_spots})
        )
        return
    typer.echo(f"{output}: {len(profile.joints)} joints from {profile.base_link} to {profile.tool_link}")
    for link, why in profile.blind_spots.items():
        typer.echo(f"{link} is not checked for collisions with the arm or the table: {why}")
    typer.echo(f"{len(missing)} values to fill in:")
    for line in missing:
        typer.echo(f"  {line}")


def replay(
    source: Annotated[Path, typer.Argument(help="recording or dataset: bag, RLDS, LeRobot, HDF5")],
    robot: Robot = "sim_widowx",
    episode: Annotated[int, typer.Option(help="episode number, from 0")] = 0,
    start: Annotated[
        str, typer.Option(help="where to start: here, neutral, or the episode's pose")
    ] = "neutral",
    split: Annotated[str | None, typer.Option(help="split of an RLDS dataset")] = None,
    convention: Annotated[str | None, typer.Option(help="convention of an RLDS dataset")] = None,
    namespace: Namespace = "",
    use_sim_time: SimTime = False,
    as_json: AsJson = False,
) -> None:
    """Play an episode's actions on the running robot, and report how well the arm tracked them.

    The controller must be running (openvla up with --policy hold). The space bar is the emergency
    stop. Exit code 0: played to the end without a refusal; 2: anything else.

    Examples:
      openvla replay ../data/bridge --robot sim_widowx --episode 3

      openvla replay runs/2026-01-31 --robot widowx --start episode --json
    """
    from openvla_ros.discovery.client import RobotClient
    from openvla_ros.programs.replay_on_robot import Replay, Start

    if start not in STARTS:
        raise InvalidValueError(f"start is {start!r}; it must be one of {', '.join(STARTS)}")
    profile = load_profile(robot)
    episodes = SourceRequest(source, split, convention, profile.space()).open()
    if not 0 <= episode < len(episodes):
        raise DatasetError(f"{source}: no episode {episode}; choose 0 .. {len(episodes) - 1}")
    console = Console(highlight=False, quiet=as_json)
    with RobotClient("replay", namespace, use_sim_time) as client, pressed_keys() as keys:
        console.print("space bar: emergency stop")
        result = Replay(profile, episodes[episode], client).run(cast(Start, start), _latched(keys))
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        t = result.tracking
        console.print(
            f"{result.episode}: {t.steps} steps, {1e3 * t.lag_s:.0f} ms behind; tracking error "
            f"{1e3 * t.mean_m:.1f} mm mean, {1e3 * t.max_m:.1f} mm at most; at the end "
            f"{1e3 * t.final_m:.1f} mm and {t.final_rad:.3f} rad from the commanded pose"
        )
        if t.recorded_final_m is not None:
            console.print(f"displacement differs by {1e3 * t.recorded_final_m:.1f} mm from the recorded one")
        for reason, count in result.reasons.items():
            console.print(f"[yellow]{count} x {reason}[/]")
    if result.stopped or result.reasons:
        raise typer.Exit(2)


def estop(
    keyboard: Annotated[
        bool, typer.Option("--keyboard", help="wait for a key instead of stopping now")
    ] = False,
    namespace: Namespace = "",
) -> None:
    """Stop the arm at once; it stays stopped until openvla reset-estop.

    With --keyboard this terminal becomes an emergency stop: any key stops the arm, q quits.

    Examples:
      openvla estop

      openvla estop --keyboard
    """
    from openvla_ros.programs.quick_stop import QuickStop

    with QuickStop("e_stop", namespace) as stop, pressed_keys() as keys:
        if keyboard:
            stop.reach()
            while _waits_for_a_key(keys):
                typer.echo(stop.ask())
        else:
            typer.echo(stop.ask())


def _waits_for_a_key(keys: Callable[[], str]) -> bool:
    """Wait for a key; return whether it was a key other than q."""
    typer.echo("any key: EMERGENCY STOP   q: quit")
    while not (pressed := keys()):
        time.sleep(KEY_POLL_S)
    return pressed != "q"


def _asking(verb: str, service: str, text: str) -> Callable[..., None]:
    """Return the command that calls one service of the controller."""

    def command(namespace: Namespace = "") -> None:
        from openvla_ros.discovery.client import RobotClient

        with RobotClient(f"ask_{service}", namespace) as client:
            typer.echo(client.order(f"controller/{service}"))

    command.__doc__ = f"{text}\n\nExamples:\n  openvla {verb}\n\n  openvla {verb} --namespace left_arm\n"
    return command


def _latched(keys: Callable[[], str]) -> Callable[[], bool]:
    """Return whether the space bar has been pressed so far."""
    stopped = False

    def pressed() -> bool:
        nonlocal stopped
        stopped = stopped or " " in keys()
        return stopped

    return pressed


def security_policy(
    out: Annotated[Path, typer.Argument(help="XML file to write; what it allows already is kept")],
    namespace: Namespace = "",
    seconds: Annotated[float, typer.Option(help="how long to watch the nodes")] = 10.0,
) -> None:
    """Write the access policy for SROS 2 that a running robot needs: who may publish, hear and call what.

    The robot runs without SROS 2 meanwhile, and does everything that it will do later. Run this again for
    what else it does: the file grows. docs/security.md has the whole way to a secured robot.

    Examples: openvla security-policy policy.xml; openvla security-policy policy.xml --namespace left
    """
    from openvla_ros.discovery.access import watch_access
    from openvla_ros.discovery.access_policy import merged, read_policy, robot_access, to_xml
    from openvla_ros.discovery.client import RobotClient

    if not 0.0 < seconds <= 3600.0:
        raise InvalidValueError(f"--seconds is {seconds:g}; it must be above 0 and at most 3600")
    if out.is_dir():
        raise InvalidValueError(f"{out} is a folder; name the XML file to write in it")
    before = read_policy(out) if out.exists() else {}
    with RobotClient(f"security_policy_{os.getpid()}", namespace) as client:
        nodes = merged(before, robot_access(watch_access(client, seconds), namespace))
    try:
        out.write_text(to_xml(nodes), encoding="utf-8")
    except OSError as error:
        raise InvalidValueError(f"{out} cannot be written: {error}") from error
    table = Table("node", "publishes", "subscribes", "serves", "asks")
    for (space, name), access in nodes.items():
        serves, asks = access.reply | access.execute, access.request | access.call
        counts = (access.publish, access.subscribe, serves, asks)
        table.add_row(f"{space.rstrip('/')}/{name}", *(str(len(names)) for names in counts))
    console = Console()
    console.print(table)
    absent = [name for name in AT_TIMES if name not in {name for _, name in nodes}]
    if absent:
        console.print(
            f"Not seen: {', '.join(absent)}. Start them and run this again if they are to run secured."
        )
    home = f"/{namespace.strip('/')}"
    chunks = f"{home.rstrip('/')}/policy/action_chunk"
    if (home, "policy") in nodes and chunks not in nodes[home, "policy"].publish:
        console.print(
            f"The policy is not ready: it publishes no {chunks} yet, and what it will use is not in the "
            "file. Run this again once it acts."
        )
    console.print(f"Written: {out}", soft_wrap=True)
