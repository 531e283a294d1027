"""The verb ``openvla serve``: a policy for a robot on another machine."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openvla_ros.bringup.dds import keep_image_memory
from openvla_ros.dependencies import needed_for
from openvla_ros.errors import InvalidValueError
from openvla_ros.policy.factory import PolicyOptions, load_policy, loading_options
from openvla_ros.policy.protocol import Policy
from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.values.scene import Scene

if TYPE_CHECKING:
    from openvla_ros.serving.shared_policy import SharedPolicy


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
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="LoRA adapter: FOLDER for all, or NAME=FOLDER for robots that name it."),
    ] = None,
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
        str, typer.Option(help="Address to listen on; others than this machine need a token and TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any.")] = 8765,
    robots: Annotated[int, typer.Option(help="How many robots are served at a time.")] = 8,
    batch: Annotated[int, typer.Option(help="How many of their questions are answered in one pass.")] = 8,
    token_file: Annotated[
        str, typer.Option(help="File with the hash of the token that a robot must present.")
    ] = "",
    certificate: Annotated[str, typer.Option(help="Folder with the certificate and key for TLS.")] = "",
    without_tls: Annotated[
        bool, typer.Option("--without-tls", help="Serve other machines unencrypted, as in a tunnel.")
    ] = False,
    new_token: Annotated[
        str, typer.Option("--make-token", metavar="FILE", help="Make a token, write its hash to FILE, exit.")
    ] = "",
    new_certificate: Annotated[
        str,
        typer.Option("--make-certificate", metavar="FOLDER", help="Make a certificate in FOLDER, exit."),
    ] = "",
    observation_map: Annotated[
        str, typer.Option(help="What openpi's keys are: a name or a YAML file; default: the profile's.")
    ] = "",
) -> None:
    """Serve a policy to several clients: robots, and programs for openpi, OpenVLA and vla-eval, on one port.

    Examples:
      openvla serve --make-certificate ~/serve --host 192.168.1.5

      openvla serve --make-token ~/serve/token

      openvla serve openvla/openvla-7b --host 192.168.1.5 --certificate ~/serve --token-file ~/serve/token

      openvla serve openvla/openvla-7b --unnorm-key bridge_orig --adapter carrot=runs/carrot

      openvla serve --policy hold --robot sim_widowx

      openvla serve openvla/openvla-7b-finetuned-libero-spatial --benchmark libero

    On the robot: the policy node with policy:=remote address:=wss://HOST:8765 token_file:=FILE
    fingerprint:=FINGERPRINT, or address:=ws://HOST:8765 without TLS. Programs for openpi connect to
    ws://HOST:8765; scripts for OpenVLA's server post to http://HOST:8765/act; the server of vla-eval's
    configuration is ws://HOST:8765/vla-eval. The adapter NAME is at ws://HOST:8765/NAME and
    http://HOST:8765/NAME/act. The policy hold, and a policy for a benchmark, serve one client at a time.
    """
    if new_token or new_certificate:
        _make(new_token, new_certificate, host)
        return
    own_adapter, adapters = _adapters(adapter or [])
    with needed_for("openvla serve"):
        from openvla_ros.protocols.tls import server_context
        from openvla_ros.serving.server import PolicyServer, check_protected
        from openvla_ros.serving.tokens import read_token_hash

    options = PolicyOptions(
        policy,
        checkpoint,
        unnorm_key,
        device,
        dtype,
        center_crop,
        offline,
        adapter=own_adapter,
        decoder=decoder,
        quantization=quantization,
    )
    if benchmark and (robot or observation_map or adapters):
        given = "--robot" if robot else "--observation-map" if observation_map else "the adapters' names"
        raise InvalidValueError(f"--benchmark {benchmark} takes the place of a robot; leave out {given}")
    keep_image_memory()
    token = read_token_hash(Path(token_file).expanduser()) if token_file else ""
    tls, fingerprint = server_context(Path(certificate).expanduser()) if certificate else (None, "")
    check_protected(host, bool(token), tls is not None or without_tls)  # before the weights are loaded, too
    served, context = (
        _for_benchmark(options, benchmark)
        if benchmark
        else _for_robot(options, robot or "widowx", observation_map, adapters)
    )
    server = PolicyServer(
        served, host, port, token, tls=tls, without_tls=without_tls, robots=robots, batch=batch, **context
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        # From a thread: closing waits for the loop that the signal interrupted.
        signal.signal(number, lambda *_: threading.Thread(target=server.close).start())
    if tls is not None:
        typer.echo(f"fingerprint of the certificate: {fingerprint}")
    typer.echo(f"{served.description}: {'ws' if tls is None else 'wss'}://{host}:{server.port}")
    server.serve_forever()
    served.close()


def _for_robot(
    options: PolicyOptions, robot: str, observation_map: str, adapters: Mapping[str, Path]
) -> tuple[Policy | SharedPolicy, dict[str, Any]]:
    """Return the policy for a robot, and what its server must know of it."""
    from openvla_ros.protocols.translation import Translation

    profile = load_profile(robot)
    load_translation = partial(Translation.for_robot, profile, observation_map)
    load_translation((), "")  # a wrong map is told before the weights are loaded
    served = _shared(load_policy(options, profile, _no_scene), options, adapters, profile)
    return served, {"translation": load_translation((), "")}


def _for_benchmark(options: PolicyOptions, name: str) -> tuple[Policy, dict[str, Any]]:
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


def _make(token_file: str, folder: str, host: str) -> None:
    """Make a token or a certificate, and say what the robot needs of it."""
    from openvla_ros.serving.tokens import make_token

    if token_file:
        token = make_token(Path(token_file).expanduser())
        typer.echo("the token; put it into a file on each robot (mode 600), it is not shown again:")
        typer.echo(token)
    if folder:
        with needed_for("openvla serve --make-certificate"):
            from openvla_ros.serving.certificates import make_certificate
        typer.echo(f"fingerprint of the certificate: {make_certificate(Path(folder).expanduser(), host)}")


def _adapters(given: Sequence[str]) -> tuple[str, dict[str, Path]]:
    """Return the folder of every robot's adapter, if any, and those that are asked for by name."""
    # A folder may have a = in its name.
    plain = [text for text in given if "=" not in text or Path(text).expanduser().is_dir()]
    named = [text.partition("=")[::2] for text in given if text not in plain]
    if len(plain) > 1:
        raise InvalidValueError(f"--adapter {plain[1]}: there is {plain[0]} already; name it, NAME=FOLDER")
    for name, folder in named:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not folder:
            raise InvalidValueError(
                f"--adapter {name}={folder}: expected NAME=FOLDER, where NAME has letters, digits, _ . and -"
            )
        if [other for other, _ in named].count(name) > 1:
            raise InvalidValueError(f"--adapter: the name {name} is given twice")
    return "".join(plain), {name: Path(folder).expanduser() for name, folder in named}


def _shared(
    policy: Policy, options: PolicyOptions, adapters: Mapping[str, Path], profile: RobotProfile
) -> Policy | SharedPolicy:
    """Return ``policy`` for several robots, if it can be shared."""
    if options.policy != "openvla":
        if adapters:
            raise InvalidValueError(f"policy {options.policy!r} has no adapters; only openvla does")
        return policy
    from openvla_ros.policy.openvla_policy import OpenVLAPolicy
    from openvla_ros.serving.shared_openvla import with_adapters

    assert isinstance(policy, OpenVLAPolicy)
    return with_adapters(policy, options.checkpoint, adapters, profile, offline=options.offline)


def _no_scene() -> Scene:
    raise InvalidValueError("the scripted expert cannot be served: it needs the simulation's ground truth")
