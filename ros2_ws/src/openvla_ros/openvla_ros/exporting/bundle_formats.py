"""The formats that a policy is exported to: loads it, writes the bundle, reports what was compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from openvla_ros.errors import InvalidValueError
from openvla_ros.exporting.onnx_bundle import ExportReport, check_new, export_onnx
from openvla_ros.exporting.policy_source import ExportChoices, load_policy_source
from openvla_ros.exporting.quantized_graphs import Precision
from openvla_ros.values.arrays import Image

Format = Literal["onnx", "leapp"]


def export_bundle(
    choices: ExportChoices,
    out: Path,
    *,
    to: Format,
    weights: Precision = "fp32",
    prompt_tokens: int | None = None,
    images: Sequence[Image] = (),
) -> ExportReport:
    """Load the policy of ``choices`` and write its bundle to the new folder ``out``.

    Raises ``ExportError``, and what loading raises: ``CheckpointError``, ``ManifestError``,
    ``StatisticsError``; ``ModuleNotFoundError`` if the format's packages are not installed.
    """
    check_new(out)  # before loading, which takes minutes for a large model
    match to:
        case "onnx":
            return export_onnx(load_policy_source(choices), out, weights, prompt_tokens, images)
        case "leapp":
            if weights != "fp32":
                raise InvalidValueError(f"--weights {weights}: a LEAPP bundle has fp32 weights")
            from openvla_ros.exporting.leapp_bundle import export_leapp

            return export_leapp(load_policy_source(choices), out, prompt_tokens, images)
