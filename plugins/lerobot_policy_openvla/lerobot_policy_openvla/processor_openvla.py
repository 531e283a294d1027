"""LeRobot's processors around OpenVLA: names, a batch dimension and the device; no normalisation."""

from __future__ import annotations

from typing import Any

from lerobot.processor import PolicyProcessorPipeline, make_default_pre_post_processors

from lerobot_policy_openvla.configuration_openvla import OpenVLAConfig


def make_openvla_pre_post_processors(
    config: OpenVLAConfig, dataset_stats: dict[str, Any] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Return the two pipelines; ``dataset_stats`` stay unused, because the checkpoint has its own.

    Args:
        config: The policy's configuration, whose normalisation is the identity.
        dataset_stats: Statistics of a dataset, as LeRobot offers them.

    Returns:
        The pipeline before the policy and the one after it.
    """
    del dataset_stats
    return make_default_pre_post_processors(config)
