"""The verb ``openvla serve``: a policy for a robot on another machine."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import Annotated

import typer

from openvla_ros.dependencies import needed_for
from openvla_ros.errors import InvalidValueError
from openvla_ros.policy.factory import PolicyOptions, load_policy, read_token
from openvla_ros.policy.protocol import Trained
from openvla_ros.profile import load_profile
from openvla_ros.values.scene import Scene


def register(app: typer.Typer) -> None:
    """Add this module's verb to ``app``."""
    app.command()(serve)


def serve(
    checkpoint: Annotated[str, typer.Argument(help="Model folder or hub id.")] = "",
    robot: Annotated[str, typer.Option(help="Robot profile: a name or a YAML file.")] = "widowx",
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
    """Serve a policy to one robot at a time: to ours, to openpi's clients and to OpenVLA's, on one port.

    Examples:
      openvla serve openvla/openvla-7b --unnorm-key bridge_orig --host 0.0.0.0 --token-file token

      openvla serve --policy hold --robot sim_widowx

    On the robot: the policy node with policy:=remote address:=ws://HOST:8765 token_file:=token. Programs for
    openpi connect to ws://HOST:8765; scripts for OpenVLA's server post to http://HOST:8765/act.
    """
    with needed_for("openvla serve"):
        from openvla_ros.protocols.translation import Translation
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
    profile = load_profile(robot)
    load_translation = partial(Translation.for_robot, profile, observation_map)
    load_translation((), "")  # a wrong map is told before the weights are loaded
    served = load_policy(options, profile, _no_scene)
    cameras, key = (served.cameras, served.dataset_key) if isinstance(served, Trained) else ((), "")
    server = PolicyServer(served, host, port, read_token(token_file), load_translation(cameras, key))
    for number in (signal.SIGINT, signal.SIGTERM):
        # From a thread: closing waits for the loop that the signal interrupted.
        signal.signal(number, lambda *_: threading.Thread(target=server.close).start())
    typer.echo(f"{served.description}: ws://{host}:{server.port}")
    server.serve_forever()
    served.close()


def _no_scene() -> Scene:
    raise InvalidValueError("the scripted expert cannot be served: it needs the simulation's ground truth")
