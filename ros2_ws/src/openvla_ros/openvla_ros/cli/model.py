"""Verbs of ``openvla`` that inspect, predict with and convert checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer

from openvla_ros.errors import InvalidValueError
from openvla_ros.preprocessing.image_file import read_image
from openvla_ros.preprocessing.prompt import PromptStyle
from openvla_ros.values.arrays import Float

if TYPE_CHECKING:
    from openvla_ros.model.inference.predictor import Prediction

Dtype = Literal["fp32", "bf16", "fp16"]
CheckpointArgument = Annotated[str, typer.Argument(help="Checkpoint folder, or a hub id (owner/name).")]
ImageArgument = Annotated[Path, typer.Argument(help="Image in any format that PIL reads.")]
DtypeOption = Annotated[
    Dtype | None, typer.Option(help="Type of the weights; default bf16 on CUDA, fp32 on a CPU.")
]
QuantizeOption = Annotated[
    Literal["int8", "nf4"] | None, typer.Option(help="Quantised weights; some tokens differ from bf16.")
]
FasterOption = Annotated[
    Literal["int8", "nf4", "int8wo", "int4wo", "fp8"] | None,
    typer.Option(
        help="Quantised weights; some tokens differ. int8 and nf4 save memory, the others save time."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never contact the hub.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
StyleOption = Annotated[
    PromptStyle | None, typer.Option(help="Prompt style; default: that of the checkpoint's language model.")
]


def register(app: typer.Typer) -> None:
    """Add this module's verbs to ``app``."""
    app.command()(predict)
    app.command()(ask)
    app.command()(inspect)
    app.command()(merge)
    app.command()(convert_checkpoint)
    app.command()(export_model)


def predict(
    checkpoint: CheckpointArgument,
    image: ImageArgument,
    instruction: Annotated[str, typer.Argument(help="Instruction, in words.")],
    unnorm_key: Annotated[str | None, typer.Option(help="Dataset whose statistics to use.")] = None,
    center_crop: Annotated[
        bool, typer.Option("--center-crop", help="For models trained with random crops.")
    ] = False,
    only_action_tokens: Annotated[
        bool, typer.Option("--only-action-tokens", help="Decode action tokens only.")
    ] = False,
    adapter: Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter.")] = None,
    extra_image: Annotated[
        list[Path] | None, typer.Option(help="Additional image, for models that take several; repeatable.")
    ] = None,
    proprio: Annotated[
        str | None, typer.Option(help="Robot state as comma-separated numbers, for models that take it.")
    ] = None,
    prompt_style: StyleOption = None,
    dtype: DtypeOption = None,
    quantize: FasterOption = None,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compute one action for an image and an instruction.

    Examples:
      openvla predict openvla/openvla-7b scene.png "pick up the cup" --unnorm-key bridge_orig

      openvla predict small_base scene.png "lift the red cube" --adapter runs/cups --json
    """
    rgb_images = [read_image(path) for path in (image, *(extra_image or ()))]
    state = None if proprio is None else _read_numbers(proprio)
    from openvla_ros.model.inference.loading import load_action_predictor
    from openvla_ros.model.inference.options import LoadOptions
    from openvla_ros.model.inference.vision_language import select_device, select_dtype

    where = select_device(device)
    options = LoadOptions(
        adapter=adapter,
        unnorm_key=unnorm_key,
        center_crop=center_crop,
        prompt_style=prompt_style,
        only_action_tokens=only_action_tokens,
        dtype=select_dtype(dtype, where),
        device=where,
        quantization=quantize,
        offline=offline,
    )
    predictor = load_action_predictor(checkpoint, options)
    prediction = predictor.predict(rgb_images, instruction, state)
    extra = {"weight_bytes": predictor.weight_bytes}
    typer.echo(json.dumps(_as_json(prediction) | extra) if as_json else _as_text(prediction))


def ask(
    image: ImageArgument,
    question: Annotated[str, typer.Argument(help="A question about the image.")],
    checkpoint: Annotated[str, typer.Option(help="Checkpoint folder, or a hub id (owner/name).")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the answer, tokens.")] = 128,
    prompt_style: StyleOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    device: DeviceOption = "auto",
    offline: OfflineOption = False,
) -> None:
    """Ask the model a question about an image.

    Example:
      openvla ask scene.png "which objects are on the table?" --checkpoint models/prism-dinosiglip-7b
    """
    rgb = read_image(image)
    from openvla_ros.model.inference.options import LoadOptions
    from openvla_ros.model.inference.vision_language import load_vision_language, select_device, select_dtype

    where = select_device(device)
    options = LoadOptions(
        prompt_style=prompt_style,
        dtype=select_dtype(dtype, where),
        device=where,
        quantization=quantize,
        offline=offline,
    )
    model = load_vision_language(checkpoint, options)
    typer.echo(model.answer(rgb, question, max_tokens))


def inspect(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint or adapter folder, or a cached hub id.")],
    as_json: JsonOption = False,
) -> None:
    """Describe a checkpoint or adapter folder, without loading its weights.

    Examples:
      openvla inspect runs/cups

      openvla inspect openvla/openvla-7b --json
    """
    from openvla_ros.model.checkpoints.safetensors import resolve
    from openvla_ros.model.inference.inspection import describe

    found = describe(resolve(checkpoint, offline=True))
    typer.echo(json.dumps(found) if as_json else "\n".join(_lines(found)))


def merge(
    base: CheckpointArgument,
    adapter: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter.")],
    out: Annotated[Path, typer.Argument(help="New folder for the merged checkpoint.")],
    offline: OfflineOption = False,
) -> None:
    """Merge a LoRA adapter into its base's weights and write a checkpoint.

    Example:
      openvla merge openvla/openvla-7b runs/cups models/cups
    """
    from openvla_ros.model.checkpoints.merge import merge_adapter
    from openvla_ros.model.checkpoints.safetensors import resolve

    merge_adapter(resolve(base, offline=offline), adapter, out)
    typer.echo(f"merged checkpoint: {out}")


def convert_checkpoint(
    source: Annotated[Path, typer.Argument(help="Prismatic run folder, or OpenVLA-OFT checkpoint.")],
    out: Annotated[Path, typer.Argument(help="New folder for the converted checkpoint.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder with tokenizer.json, for Prismatic checkpoints.")
    ] = None,
    platform: Annotated[
        Literal["libero", "bridge", "aloha"] | None,
        typer.Option(help="The platform that an OpenVLA-OFT checkpoint was trained for."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Number of images that an OpenVLA-OFT checkpoint takes.")
    ] = None,
) -> None:
    """Convert a pickled checkpoint to safetensors; the pickle's code is never executed.

    Examples:
      openvla convert-checkpoint downloads/oft-libero models/oft-libero --platform libero --images 2

      openvla convert-checkpoint downloads/prism-dinosiglip-7b models/prism --tokenizer downloads/llama-2
    """
    from openvla_ros.model.conversion.checkpoint_conversion import convert_checkpoint as convert

    kind = convert(source, out, tokenizer=tokenizer, platform=platform, images=images)
    typer.echo(f"converted {kind} checkpoint: {out}")


def export_model(
    checkpoint: CheckpointArgument,
    to: Annotated[
        Literal["onnx", "leapp"],
        typer.Option(help="onnx: graphs for ONNX Runtime and TensorRT; leapp: for Isaac ROS Deploy."),
    ],
    out: Annotated[Path, typer.Option("--out", "--output", help="New folder for the bundle.")],
    adapter: Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter, merged into it.")] = None,
    unnorm_key: Annotated[
        str | None, typer.Option(help="Dataset whose statistics to use; default: all that there are.")
    ] = None,
    center_crop: Annotated[
        bool | None,
        typer.Option("--center-crop/--no-center-crop", help="For models trained with random crops."),
    ] = None,
    prompt_style: StyleOption = None,
    robot: Annotated[
        str | None, typer.Option(help="Profile that the actions must fit, and that states what they mean.")
    ] = None,
    weights: Annotated[
        Literal["fp32", "int8", "int4"], typer.Option(help="int8 and int4: some tokens differ from fp32.")
    ] = "fp32",
    prompt_tokens: Annotated[
        int | None, typer.Option(min=8, max=4096, help="Longest prompt; default 64 (Vicuna's prompt: 128).")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Image to verify with, besides made ones; repeatable.")
    ] = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a policy for runtimes without PyTorch, verified against this package's own tokens.

    The folder is there complete and verified, or not at all.

    Examples:
      openvla export-model small_base --to onnx --out bundles/small_base

      openvla export-model openvla/openvla-7b --adapter runs/cups --to onnx --out bundles/cups --weights int4

      openvla export-model small_base --to leapp --out bundles/small_base_leapp
    """
    images = [read_image(path) for path in image or ()]
    from openvla_ros.dependencies import EXPORT_NEEDS, require

    require(EXPORT_NEEDS[to], f"openvla export-model --to {to}")
    from openvla_ros.exporting.bundle_formats import export_bundle
    from openvla_ros.exporting.policy_source import ExportChoices
    from openvla_ros.profile import load_profile

    choices = ExportChoices(
        checkpoint=checkpoint,
        adapter=adapter,
        unnorm_key=unnorm_key,
        center_crop=center_crop,
        prompt_style=prompt_style,
        robot=None if robot is None else load_profile(robot),
        offline=offline,
    )
    report = export_bundle(choices, out, to=to, weights=weights, prompt_tokens=prompt_tokens, images=images)
    typer.echo(json.dumps(report.to_json()) if as_json else "\n".join(report.lines()))


def _read_numbers(text: str) -> Float:
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise InvalidValueError(f"--proprio {text!r} must be comma-separated numbers") from error


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


def _lines(value: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """Yield nested JSON values one per line, without the absent or empty ones."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield f"{indent}{key}:"
            yield from _lines(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], Mapping):
            yield f"{indent}{key}:"
            for part in item:
                yield f"{indent}  " + ", ".join(f"{name} {inner}" for name, inner in part.items())
        elif item not in (None, [], {}):
            yield f"{indent}{key}: {', '.join(map(str, item)) if isinstance(item, list) else item}"
