"""A checkpoint for a benchmark: its actions mean what its manifest, or its dataset, says."""

import json
import shutil

import numpy as np
import pytest

from openvla_ros.errors import InvalidValueError, ManifestError
from openvla_ros.policy.openvla_policy import PolicyChoices
from openvla_ros.protocols.benchmark_actions import benchmark_called
from openvla_ros.resources import share_path
from openvla_ros.serving.benchmark_policy import load_benchmark_policy
from openvla_ros.values.observation import Observation

SMALL = share_path() / "checkpoints" / "small_base"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The small base as checkpoints are published: no manifest, statistics under a dataset's name."""
    folder = tmp_path_factory.mktemp("published")
    for path in SMALL.iterdir():
        if path.name not in ("openvla_manifest.json", "SHA256SUMS", "dataset_statistics.json"):
            (folder / path.name).symlink_to(path)
    (statistics,) = json.loads((SMALL / "dataset_statistics.json").read_text(encoding="utf-8")).values()
    named = {"libero_spatial_no_noops": statistics, "somebodys_own": statistics}
    (folder / "dataset_statistics.json").write_text(json.dumps(named), encoding="utf-8")
    return folder


def load(folder, benchmark, key=None):
    return load_benchmark_policy(str(folder), benchmark_called(benchmark), choices=PolicyChoices(key))


def test_the_manifest_says_what_actions_mean_and_which_camera_is_seen():
    policy = load(SMALL, "simpler")
    assert policy.space.units[:4] == ("m", "m", "m", "rad")
    assert policy.cameras == ("primary",)
    image = np.zeros((64, 64, 3), np.uint8)
    assert policy.infer(Observation(1, {"primary": image}, "lift the red block")).actions.shape == (1, 7)


def test_without_a_manifest_the_dataset_says_it(published):
    policy = load(published, "libero", "libero_spatial_no_noops")
    assert policy.space.units[:4] == ("0.05 m", "0.05 m", "0.05 m", "0.5 rad")
    assert (policy.space.rotation, policy.space.rate_hz) == ("rotation_vector", 20.0)


def test_what_nothing_says_is_refused(published):
    with pytest.raises(InvalidValueError, match="actions of its dataset 'somebodys_own' mean is not known"):
        load(published, "libero", "somebodys_own")


def test_actions_of_another_rate_are_refused(published):
    with pytest.raises(InvalidValueError, match=r"libero makes 20 steps in a second; .* for 5"):
        load(SMALL, "libero")
    with pytest.raises(InvalidValueError, match="simpler makes 5 or 3 steps"):
        load(published, "simpler", "libero_spatial_no_noops")


def test_a_manifest_that_was_written_for_other_files_is_refused(tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(SMALL, folder)
    (folder / "SHA256SUMS").unlink()
    (folder / "dataset_statistics.json").write_text(
        (SMALL / "dataset_statistics.json")
        .read_text(encoding="utf-8")
        .replace("0.007585070650131076", "0.5"),
        encoding="utf-8",
    )
    with pytest.raises(ManifestError, match="different statistics"):
        load(folder, "simpler")
