"""A checkpoint for a benchmark of vla-eval: no robot of ours, so its actions mean what it was trained on.

That is its manifest's action space or, without a manifest, that of the dataset whose statistics it uses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from openvla_ros.data.formats.rlds_conventions import convention_table
from openvla_ros.errors import InvalidValueError, PolicyError
from openvla_ros.manifest import manifest_path, read_manifest
from openvla_ros.model.inference.loading import load_action_predictor
from openvla_ros.model.inference.options import DEFAULTS, LoadOptions
from openvla_ros.policy.openvla_policy import OpenVLAPolicy, PolicyChoices, stated_choices
from openvla_ros.protocols.benchmark_actions import ActionTranslation, BenchmarkActions
from openvla_ros.values.action import ActionSpace


def load_benchmark_policy(
    checkpoint: str,
    benchmark: BenchmarkActions,
    *,
    adapter: str = "",
    choices: PolicyChoices | None = None,
    options: LoadOptions = DEFAULTS,
) -> OpenVLAPolicy:
    """Load a checkpoint, optionally with a LoRA adapter, for ``benchmark``.

    Args:
        checkpoint: Folder or hub id.
        benchmark: What it is evaluated on; its cameras are the policy's.
        adapter: Folder of the adapter; empty: none.
        choices: How the weights are used, such as the dataset whose statistics apply.
        options: How they are loaded.

    Returns:
        The policy, in the action space that it was trained on.

    Raises:
        InvalidValueError: Nothing says what its actions mean, or the benchmark takes no such actions.
        ManifestError: The manifest states something else than what was asked for, or was written for other
            files.
        PolicyError: It takes more images than the benchmark has, or a state.
    """
    folder, agreed, statistics = stated_choices(
        checkpoint, adapter or None, None, choices or PolicyChoices(), offline=options.offline
    )
    described = Path(adapter) if adapter else folder
    space = read_manifest(described).action_space if manifest_path(described).is_file() else None
    if space is not None:
        ActionTranslation(benchmark, space)  # a mismatch is told before the weights are read
    chosen = replace(
        options,
        adapter=adapter or None,
        unnorm_key=agreed.unnorm_key,
        center_crop=bool(agreed.center_crop),
        prompt_style=agreed.prompt_style,
        statistics=statistics,
    )
    predictor = load_action_predictor(folder, chosen)
    if space is None:
        space = _published_space(predictor.dataset_key, described)
        ActionTranslation(benchmark, space)
    if predictor.proprio_width is not None:
        raise PolicyError(
            f"{described} takes a state of {predictor.proprio_width} numbers; the states of vla-eval's "
            "benchmarks are not translated"
        )
    cameras = agreed.cameras or tuple(benchmark.images.values())
    if predictor.image_count > len(cameras):
        raise PolicyError(
            f"{described} takes {predictor.image_count} images; vla-eval's {benchmark.name} has "
            f"{', '.join(cameras)}"
        )
    description = f"{checkpoint} with {adapter}" if adapter else checkpoint
    policy = OpenVLAPolicy(
        predictor, space, cameras=cameras[: predictor.image_count], description=description
    )
    policy.warm_up()
    return policy


def _published_space(key: str, described: Path) -> ActionSpace:
    """Return the action space of the dataset called ``key``, as OpenVLA is trained on it."""
    table = convention_table()
    if key not in table.datasets:
        raise InvalidValueError(
            f"{described} has no manifest, and what the actions of its dataset {key!r} mean is not known; "
            f"known are {', '.join(table.datasets)}"
        )
    return table.datasets[key].space()
