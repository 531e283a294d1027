"""The verb ``openvla serve``: a policy for a robot on another machine."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import Annotated, Any

import typer

from openvla_ros.dependencies import needed_for
from openvla_ros.errors import InvalidValueError
from openvla_ros.policy.factory import PolicyOptions, load_policy, loading_options, read_token
from openvla_ros.policy.protocol import Policy, Trained
from openvla_ros.profile import load_profile
from openvla_ros.values.scene import Scene


def register(app: typer.Typer) -> None:
    """Add this module's verb to ``app``."""
    app.command()(serve)


def serve(
    checkpoint: Annotated[str, typer.Argument(help="Model folder or hub id.")] = "",
    robot: Annotated[str, typer.Option(help="Robot profile: a name or a YAML file; default: widowx.")] = "",
    benchmark: Annotated[
        str, typer.Option(help="Instead of a robot: a benchmark of vla-eval, such as libero.")
    ] = "",
    policy: Annotated[str, typer.Option(help="openvla, or hold to try the connection.")] = "openvla",
    unnorm_key: Annotated[str, typer.Option(help="Dataset whose statistics to use.")] = "",
    adapter: Annotated[str, typer.Option(help="LoRA adapter folder.")] = "",
    center_crop: Annotated[
        bool, typer.Option("--center-crop", help="For models trained with crops.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bf16, fp16 or fp32.")] = "auto",
    decoder: Annotated[str, typer.Option(help="fast, steady or plain; same tokens.")] = "fast",
    quantization: Annotated[
        str, typer.Option(help="none, int8, nf4, int8wo, int4wo or fp8; some tokens differ.")
    ] = "none",
    offline: Annotated[bool, typer.Option("--offline", help="Never contact the hub.")] = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; a public one needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any.")] = 8765,
    token_file: Annotated[str, typer.Option(help="File with the token that a robot must present.")] = "",
    observation_map: Annotated[
        str, typer.Option(help="What openpi's keys are: a name or a YAML file; default: the profile's.")
    ] = "",
) -> None:
    """Serve a policy to one client at a time: a robot, or a program for openpi, OpenVLA or vla-eval.

    Examples:
      openvla serve openvla/openvla-7b --unnorm-key bridge_orig --host 0.0.0.0 --token-file token

      openvla serve --policy hold --robot sim_widowx

      openvla serve openvla/openvla-7b-finetuned-libero-spatial --benchmark libero

    On the robot: the policy node with policy:=remote address:=ws://HOST:8765 token_file:=token. Programs for
    openpi connect to ws://HOST:8765; scripts for OpenVLA's server post to http://HOST:8765/act; the server of
    vla-eval's configuration is ws://HOST:8765/vla-eval.
    """
    with needed_for("openvla serve"):
        from openvla_ros.serving.server import PolicyServer

    options = PolicyOptions(
        policy,
        checkpoint,
        unnorm_key,
        device,
        dtype,
        center_crop,
        offline,
        adapter=adapter,
        decoder=decoder,
        quantization=quantization,
    )
    if benchmark and (robot or observation_map):
        given = "--robot" if robot else "--observation-map"
        raise InvalidValueError(f"--benchmark {benchmark} takes the place of a robot; leave out {given}")
    token = read_token(token_file)
    load = _for_benchmark if benchmark else _for_robot
    served, context = load(options, benchmark or robot or "widowx", observation_map)
    server = PolicyServer(served, host, port, token, **context)
    for number in (signal.SIGINT, signal.SIGTERM):
        # From a thread: closing waits for the loop that the signal interrupted.
        signal.signal(number, lambda *_: threading.Thread(target=server.close).start())
    typer.echo(f"{served.description}: ws://{host}:{server.port}")
    server.serve_forever()
    served.close()


def _for_robot(options: PolicyOptions, robot: str, observation_map: str) -> tuple[Policy, dict[str, Any]]:
    """Return the policy for a robot, and what its server must know of it."""
    from openvla_ros.protocols.translation import Translation

    profile = load_profile(robot)
    load_translation = partial(Translation.for_robot, profile, observation_map)
    load_translation((), "")  # a wrong map is told before the weights are loaded
    served = load_policy(options, profile, _no_scene)
    cameras, key = (served.cameras, served.dataset_key) if isinstance(served, Trained) else ((), "")
    return served, {"translation": load_translation(cameras, key)}


def _for_benchmark(options: PolicyOptions, name: str, _map: str) -> tuple[Policy, dict[str, Any]]:
    """Return the policy for a benchmark of vla-eval, and what its server must know of it."""
    from openvla_ros.protocols.benchmark_actions import benchmark_called
    from openvla_ros.serving.benchmark_policy import load_benchmark_policy

    benchmark = benchmark_called(name)
    if options.policy != "openvla" or not options.checkpoint:
        raise InvalidValueError(f"--benchmark {name} needs a checkpoint: a model folder or a hub id")
    choices, loading = loading_options(options)
    served = load_benchmark_policy(
        options.checkpoint, benchmark, adapter=options.adapter, choices=choices, options=loading
    )
    return served, {"benchmark": benchmark}


def _no_scene() -> Scene:
    raise InvalidValueError("the scripted expert cannot be served: it needs the simulation's ground truth")
