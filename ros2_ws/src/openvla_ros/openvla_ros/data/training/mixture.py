"""The named mixtures of public RLDS datasets that OpenVLA was trained on, found in one folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.episodes.episode_source import EpisodeSource
from openvla_ros.data.formats.rlds_conventions import convention_table
from openvla_ros.errors import DatasetError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedMixture:
    """Datasets by name, and how often a step of each is drawn: what ``TrainingReader`` takes."""

    sources: dict[str, EpisodeSource]
    weights: dict[str, float]
    refused: dict[str, str]  # datasets of the mixture that cannot be read, and why


def open_mixture(name: str, folder: Path) -> NamedMixture:
    """Open the datasets of mixture ``name``.

    Args:
        name: A mixture of the conventions table, such as ``bridge``.
        folder: The folder that holds each dataset in a folder of the dataset's name.

    Returns:
        The sources by dataset name, and their weights: dataset i is drawn in proportion to
        weight_i · steps_i. Datasets that no convention can express are left out, logged and named.

    Raises:
        DatasetError: There is no such mixture (lists the known ones), or some datasets are missing (lists
            them).
    """
    table = convention_table()
    mixtures = table.mixtures
    if name not in mixtures:
        raise DatasetError(f"no mixture is called {name!r}; choose from {', '.join(mixtures)}")
    refused = {dataset: table.refused[dataset] for dataset in mixtures[name] if dataset in table.refused}
    for dataset, reason in refused.items():
        _LOG.warning("mixture %s: %s is left out: %s", name, dataset, reason)
    weights = {dataset: weight for dataset, weight in mixtures[name].items() if dataset not in refused}
    missing = [dataset for dataset in weights if not (folder / dataset).is_dir()]
    if missing:
        raise DatasetError(f"{folder} lacks datasets of mixture {name}: {', '.join(missing)}")
    sources = {key: SourceRequest(folder / key, convention=key).open() for key in weights}
    return NamedMixture(sources, weights, refused)
