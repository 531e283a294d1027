"""Verbs of ``openvla`` that inspect, predict with and convert checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from openvla_ros.arrays import Image
from openvla_ros.errors import InvalidValueError
from openvla_ros.images import to_rgb
from openvla_ros.prompt import PromptStyle

if TYPE_CHECKING:
    from openvla_ros.model.predictor import Prediction

Dtype = Literal["fp32", "bf16", "fp16"]
CheckpointArgument = Annotated[str, typer.Argument(help="Checkpoint folder, or a hub id (owner/name).")]
ImageArgument = Annotated[Path, typer.Argument(help="Picture in any format that PIL reads.")]
DtypeOption = Annotated[
    Dtype | None, typer.Option(help="Type of the weights; default bf16 on CUDA, fp32 on a CPU.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never reach for the hub.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
StyleOption = Annotated[
    PromptStyle | None, typer.Option(help="Prompt; default the one of the checkpoint's language model.")
]


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(predict)
    app.command()(ask)
    app.command()(merge)


def predict(
    checkpoint: CheckpointArgument,
    image: ImageArgument,
    instruction: Annotated[str, typer.Argument(help="What the robot is told.")],
    unnorm_key: Annotated[str | None, typer.Option(help="Dataset whose statistics apply.")] = None,
    center_crop: Annotated[
        bool, typer.Option("--center-crop", help="For models trained with random crops.")
    ] = False,
    adapter: Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter.")] = None,
    prompt_style: StyleOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compute one action for a picture and an instruction."""
    picture = _read_image(image)
    from openvla_ros.model.predictor import load_predictor
    from openvla_ros.model.vision_language import select_device, select_dtype

    where = select_device(device)
    predictor = load_predictor(
        checkpoint,
        adapter=adapter,
        unnorm_key=unnorm_key,
        center_crop=center_crop,
        prompt_style=prompt_style,
        dtype=select_dtype(dtype, where),
        device=where,
        offline=offline,
    )
    prediction = predictor.predict([picture], instruction)
    typer.echo(json.dumps(_as_json(prediction)) if as_json else _as_text(prediction))


def ask(
    image: ImageArgument,
    question: Annotated[str, typer.Argument(help="A question about the picture.")],
    checkpoint: Annotated[str, typer.Option(help="Checkpoint folder, or a hub id (owner/name).")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    prompt_style: StyleOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
) -> None:
    """Ask the model about a picture, in words."""
    picture = _read_image(image)
    from openvla_ros.model.vision_language import load_vision_language, select_device, select_dtype

    where = select_device(device)
    model = load_vision_language(
        checkpoint,
        prompt_style=prompt_style,
        dtype=select_dtype(dtype, where),
        device=where,
        offline=offline,
    )
    typer.echo(model.answer(picture, question, max_tokens))


def merge(
    base: CheckpointArgument,
    adapter: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter.")],
    out: Annotated[Path, typer.Argument(help="New folder for the merged checkpoint.")],
    offline: OfflineOption = False,
) -> None:
    """Add a LoRA adapter to its base's weights and write a checkpoint."""
    from openvla_ros.model.checkpoint import resolve
    from openvla_ros.model.merging import merge_adapter

    merge_adapter(resolve(base, offline=offline), adapter, out)
    typer.echo(f"merged checkpoint: {out}")


def _read_image(path: Path) -> Image:
    try:
        with PILImage.open(path) as picture:
            return to_rgb(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise InvalidValueError(f"{path} is not a picture that can be read: {error}") from error


def _as_json(prediction: Prediction) -> dict[str, object]:
    rows = {"token_ids": prediction.token_ids, "confidence": prediction.probability}
    rows["entropy"] = prediction.entropy
    flat = {name: None if value is None else value.ravel().tolist() for name, value in rows.items()}
    return {**flat, "actions": prediction.actions.tolist(), "seconds": prediction.seconds}


def _as_text(prediction: Prediction) -> str:
    lines = [" ".join(f"{value:+.6f}" for value in row) for row in prediction.actions]
    if prediction.probability is not None:
        lines.append("probability " + " ".join(f"{value:.2f}" for value in prediction.probability.ravel()))
    return "\n".join([*lines, f"{prediction.seconds:.3f} s"])
