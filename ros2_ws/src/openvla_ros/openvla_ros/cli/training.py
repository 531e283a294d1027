"""Verbs of ``openvla`` that fine-tune a model and measure its decoder on recorded data."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from openvla_ros.cli.progress_bar import ProgressBar
from openvla_ros.cli.verbosity import Verbosity, verbosity
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.recipe import ADAPTERS, DATASET_KEY, Method, Recipe

if TYPE_CHECKING:
    from openvla_ros.data.datasets.open_dataset import SourceRequest
    from openvla_ros.training.request import WeightedData

Dtype = Literal["fp32", "bf16", "fp16"]


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(finetune)
    app.command()(acceptance)


def finetune(
    base: Annotated[str, typer.Argument(help="Checkpoint folder, or a hub id (owner/name).")],
    data: Annotated[
        list[str],
        typer.Argument(
            help="Recordings or datasets: bags, RLDS, LeRobot, HDF5. PATH=2 draws a dataset twice as often."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the run; the same command resumes it.")],
    method: Annotated[Method, typer.Option(help="Which weights to train.")] = Recipe.method,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA factors.")] = Recipe.rank,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha; default min(rank, 16).")] = Recipe.alpha,
    dropout: Annotated[float, typer.Option(help="LoRA dropout.")] = Recipe.dropout,
    targets: Annotated[
        str | None, typer.Option(help="Layers to adapt, by name or last part, comma-separated; default all.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = Recipe.steps,
    batch_size: Annotated[int, typer.Option(help="Examples per step, all processes.")] = Recipe.batch_size,
    micro_batch: Annotated[
        int | None, typer.Option(help="Examples at once per process: less memory, same result.")
    ] = Recipe.micro_batch,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default 5e-4 for lora and qlora, 2e-5 otherwise.")
    ] = Recipe.learning_rate,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = Recipe.weight_decay,
    warmup_steps: Annotated[int, typer.Option(help="Steps of linear warm-up.")] = Recipe.warmup_steps,
    clip_norm: Annotated[
        float | None, typer.Option(help="Gradient clipping norm; default: no clipping.")
    ] = Recipe.clip_norm,
    augment: Annotated[
        bool, typer.Option(help="Random crops and colour jitter; deployment then center-crops.")
    ] = Recipe.augment,
    intervention_weight: Annotated[
        float, typer.Option(help="Sampling weight of correction steps relative to other steps.")
    ] = Recipe.intervention_weight,
    policy_steps: Annotated[
        bool, typer.Option(help="In episodes with corrections, learn the policy's own steps too.")
    ] = Selection.keep_policy_steps,
    failures: Annotated[bool, typer.Option(help="Learn from failed episodes too.")] = Selection.keep_failures,
    idle_m: Annotated[
        float, typer.Option(help="Skip steps that move less than this, metres,")
    ] = Selection.idle_m,
    idle_rad: Annotated[
        float, typer.Option(help="... and turn less than this, radians.")
    ] = Selection.idle_rad,
    questions: Annotated[
        list[Path] | None,
        typer.Option(help="Questions and answers about images (JSON lines) to train on alongside actions."),
    ] = None,
    words_share: Annotated[
        float, typer.Option(help="Fraction of each batch that is questions.")
    ] = Recipe.words_share,
    validation_share: Annotated[
        float, typer.Option(help="Fraction of episodes to hold out.")
    ] = Selection.validation_share,
    validate_every: Annotated[int, typer.Option(help="Steps.")] = Recipe.validate_every,
    save_every: Annotated[int, typer.Option(help="Steps.")] = Recipe.save_every,
    camera: Annotated[str | None, typer.Option(help="Camera to learn from; default: the first.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of RLDS datasets.")] = None,
    convention: Annotated[str | None, typer.Option(help="Convention of RLDS datasets.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Compose consecutive deltas into steps of this many Hz.")
    ] = None,
    actions: Annotated[
        Literal["commanded", "measured"],
        typer.Option(help="Learn commanded actions, or the arm's measured motion."),
    ] = "commanded",
    keep_statistics: Annotated[
        str | None,
        typer.Option(help="Keep the base's action statistics for this dataset key; default: the data's own."),
    ] = None,
    dataset_key: Annotated[str, typer.Option(help="Dataset key of the new statistics.")] = DATASET_KEY,
    robot: Annotated[
        str | None,
        typer.Option(help="Robot profile, if the data has none; defines the actions of LeRobot datasets."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of data order, augmentation and LoRA.")] = Recipe.seed,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        Dtype | None, typer.Option(help="Data type of frozen weights; default bf16 on CUDA, fp32 on CPU.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never contact the hub.")] = False,
) -> None:
    """Fine-tune a model on demonstrations; with torchrun, in several processes.

    Examples:
      openvla finetune openvla/openvla-7b ~/recordings --output runs/cups

      torchrun --no-python --nproc-per-node 8 openvla finetune openvla/openvla-7b bridge --output runs/bridge
    """
    import torch

    from openvla_ros.data.datasets.open_dataset import SourceRequest
    from openvla_ros.model.inference.vision_language import select_device, select_dtype
    from openvla_ros.profile import load_profile
    from openvla_ros.training.distributed import joined_processes
    from openvla_ros.training.finetune import finetune as run
    from openvla_ros.training.request import FinetuneRequest

    recipe = Recipe(
        method=method,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=None if targets is None else tuple(name.strip() for name in targets.split(",")),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        clip_norm=clip_norm,
        batch_size=batch_size,
        micro_batch=micro_batch,
        steps=steps,
        augment=augment,
        intervention_weight=intervention_weight,
        words_share=words_share,
        validate_every=validate_every,
        save_every=save_every,
        seed=seed,
    )
    selection = Selection(
        camera=camera,
        idle_m=idle_m,
        idle_rad=idle_rad,
        keep_failures=failures,
        keep_policy_steps=policy_steps,
        validation_share=validation_share,
        seed=seed,
    )
    # What the actions of a LeRobot dataset from elsewhere mean.
    space = None if robot is None else load_profile(robot).space()
    with joined_processes() as processes:
        if device == "auto" and torch.cuda.is_available():
            device = f"cuda:{processes.local_rank}"
        where = select_device(device)
        # A model that is trained whole keeps its parameters in float32 and computes in bf16 on CUDA.
        weights = select_dtype(dtype, where) if method in ADAPTERS else torch.float32
        read = SourceRequest(Path(), split, convention, space, rate, actions)
        request = FinetuneRequest(
            base=base,
            data=tuple(_weighted(text, read) for text in data),
            output=output,
            recipe=recipe,
            selection=selection,
            questions=tuple(questions or ()),
            dataset_key=dataset_key,
            keep_statistics=keep_statistics,
            robot=robot,
            device=where,
            dtype=weights,
            offline=offline,
        )
        run(request, ProgressBar(hidden=not processes.is_first or verbosity() is Verbosity.QUIET), processes)
    if processes.is_first:
        typer.echo(f"{output}: training finished; report: {output / 'report.html'}")


def _weighted(text: str, read: SourceRequest) -> WeightedData:
    """Return the dataset of ``PATH`` or ``PATH=WEIGHT``, read as ``read`` says."""
    from openvla_ros.training.request import WeightedData

    path, _, number = text.rpartition("=")
    if not path or Path(text).expanduser().exists():
        path, number = text, "1"
    try:
        weight = float(number)
    except ValueError as error:
        raise InvalidValueError(f"{text}: the weight {number!r} is not a number") from error
    if not 0.0 < weight < math.inf:
        raise InvalidValueError(f"{text}: the weight must be a number above 0")
    return WeightedData(replace(read, path=Path(path).expanduser()), weight)


def acceptance(
    dataset: Annotated[Path, typer.Argument(help="recordings, RLDS, LeRobot or HDF5")],
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Measure how often the fast decoder's guesses would be accepted on recorded actions.

    Example:
      openvla acceptance recordings/lift
    """
    import numpy as np

    from openvla_ros.data.datasets.open_dataset import SourceRequest
    from openvla_ros.evaluation.acceptance import measure_guesses
    from openvla_ros.preprocessing.dataset_statistics import mask_of
    from openvla_ros.preprocessing.statistics_accumulator import StatisticsAccumulator

    source = SourceRequest(dataset).open()
    episodes = [source[index] for index in range(len(source))]
    if not episodes:
        raise DatasetError(f"{dataset} has no episodes")
    accumulator = StatisticsAccumulator(episodes[0].space.width)
    for episode in episodes:
        accumulator.add(episode.actions)
    statistics = accumulator.statistics(mask_of(episodes[0].space))
    found = measure_guesses([np.asarray(e.actions) for e in episodes], statistics)
    if as_json:
        rows = {
            q.guess: {"right": q.right.tolist(), "prefix": q.prefix.tolist(), "mean_prefix": q.mean_prefix}
            for q in found
        }
        typer.echo(json.dumps({"actions": found[0].actions, "guesses": rows}))
        return
    names = episodes[0].space.names[:-1]
    typer.echo(
        f"{found[0].actions} actions; fraction of tokens guessed right, and tokens before the first wrong one"
    )
    typer.echo(f"{'guess':14}" + "".join(f"{name:>8}" for name in names) + f"{'prefix':>8}")
    for q in found:
        shares = "".join(f"{share:8.1%}" for share in q.right)
        typer.echo(f"{q.guess:14}{shares}{q.mean_prefix:8.2f}")
