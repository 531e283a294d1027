"""Damage to every format, read through the ways in that a user has: refused, or without effect."""

import pytest
from support.fuzz_mutations import fuzz
from support.fuzz_samples import make_samples

OWN = ("bag, exported", "rlds", "lerobot, images", "lerobot, video", "hdf5", "bag, recorded", "metadata.yaml")
OTHERS = tuple(f"{name}, of others" for name in ("rlds", "lerobot, images", "lerobot, video", "hdf5"))
MODELS = (
    "checkpoint",
    "dataset_statistics.json",
    "adapter",
    "openvla_manifest.json",
    "checkpoint, of others",
)
NAMES = (*OWN, *OTHERS, *MODELS, "PNG to predict", "JPEG to predict")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    found = {sample.name: sample for sample in make_samples(tmp_path_factory.mktemp("whole"))}
    assert tuple(found) == NAMES
    return found


@pytest.mark.filterwarnings("ignore")  # of the libraries, about the damage
@pytest.mark.parametrize("name", NAMES)
def test_no_damage_passes_as_a_value(samples, tmp_path, name):
    row = fuzz(samples[name], 5, 1, tmp_path)
    assert row.passed, row.worst


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_no_damage_passes_as_a_value_100_times(samples, tmp_path, name):
    row = fuzz(samples[name], 100, 2, tmp_path)
    assert row.passed, row.worst
