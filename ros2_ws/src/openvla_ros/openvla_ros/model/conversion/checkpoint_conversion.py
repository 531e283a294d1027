"""Converts pickled checkpoints to safetensors: Prismatic's own, and OpenVLA-OFT's parts."""

from __future__ import annotations

from pathlib import Path

from openvla_ros.errors import CheckpointError
from openvla_ros.integrity.disk import writing
from openvla_ros.model.conversion.oft_pickles import Platform, convert_oft
from openvla_ros.model.conversion.prismatic import convert_prismatic
from openvla_ros.model.inference.inspection import Kind, kind_of


def convert_checkpoint(
    source: Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    platform: Platform | None = None,
    images: int | None = None,
) -> Kind:
    """Convert ``source`` to the published layout in the new folder ``out``; return its kind.

    Args:
        source: Folder of the pickled checkpoint.
        out: Folder to create.
        tokenizer: Folder with a ``tokenizer.json``, for Prismatic checkpoints, which have none.
        platform: Platform that an OpenVLA-OFT checkpoint was trained for.
        images: Number of images that it takes, if not the platform's.

    Raises:
        CheckpointError: The checkpoint cannot be converted, an argument is missing, or the disk is full.
    """
    kind = kind_of(source)
    with writing(out, CheckpointError):
        match kind:
            case "prismatic-native":
                convert_prismatic(source, out, tokenizer or source)
            case "openvla-oft":
                convert_oft(source, out, platform, images)
            case _:
                raise CheckpointError(f"{source} is a checkpoint of kind {kind}, which needs no conversion")
    return kind
