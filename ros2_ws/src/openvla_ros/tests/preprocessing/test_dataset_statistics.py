"""The published statistics format, and the choice of a dataset key."""

import json

import numpy as np
import pytest
from support.golden_numbers import SETS
from support.shared_data import SHARED

from openvla_ros.errors import StatisticsError
from openvla_ros.preprocessing.action_tokens import normalise, unnormalise
from openvla_ros.preprocessing.dataset_statistics import (
    mask_of,
    parse_norm_stats,
    read_statistics,
    select_statistics,
    write_statistics,
)
from openvla_ros.profile import load_profile


def published(width=7, **changes):
    action = {
        "mean": [0.0] * width, "std": [1.0] * width, "min": [-2.0] * width, "max": [2.0] * width,
        "q01": [-1.0] * width, "q99": [1.0] * width, "mask": [True] * (width - 1) + [False], **changes,
    }  # fmt: skip
    return {"bridge_orig": {"action": action, "num_transitions": 12, "num_trajectories": 3}}


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_a_published_file_survives_reading_and_writing(folder, tmp_path):
    source = folder / "checkpoint" / "dataset_statistics.json"
    write_statistics(tmp_path / "copy.json", read_statistics(source))
    original, copy = json.loads(source.read_text()), json.loads((tmp_path / "copy.json").read_text())
    assert list(copy) == list(original)
    for key, dataset in original.items():
        for field in ("action", "proprio"):
            width = len(dataset[field]["q01"])
            assert copy[key][field] == {"mask": [True] * width, **dataset[field]}
        assert copy[key]["num_transitions"] == dataset["num_transitions"]
        assert copy[key]["num_trajectories"] == dataset["num_trajectories"]


def test_a_missing_mask_means_every_dimension():
    data = published()
    del data["bridge_orig"]["action"]["mask"]
    assert parse_norm_stats(data)["bridge_orig"].action.mask.tolist() == [True] * 7


def test_what_inference_does_not_need_may_be_missing():
    action = {"q01": [-1.0] * 7, "q99": [1.0] * 7}
    dataset = parse_norm_stats({"only": {"action": action}})["only"]
    assert dataset.proprio is None
    assert dataset.num_transitions is None
    assert not dataset.action.has_extremes
    assert dataset.to_json() == {"action": {**action, "mask": [True] * 7}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"q99": [1.0] * 6}, r"q99 has shape \(6,\)"),
        ({"q01": [float("nan")] * 7}, r"q01\[0\] is not a finite number, but it is needed"),
        ({"q99": [1.0] * 5 + [float("inf"), 1.0]}, r"q99\[5\] is not a finite number"),
        ({"mask": [2] * 7}, "mask .* must be 7 booleans, or 0 and 1"),
        ({"mask": ["yes"] * 7}, "mask .* must be 7 booleans, or 0 and 1"),
        ({"mask": [1] * 6}, "mask .* must be 7 booleans, or 0 and 1"),
        ({"mask": [True]}, "mask .* must be 7 booleans"),
        ({"q01": [0.0] * 6 + [3.0]}, "dimension 6: q01 is larger than q99"),
        ({"q01": ["a"] * 7}, "could not convert"),
    ],
)
def test_wrong_values_are_named_with_their_file_and_dataset(changes, expected):
    with pytest.raises(StatisticsError, match=f"stats.json: bridge_orig: action: {expected}"):
        parse_norm_stats(published(**changes), "stats.json")


def test_numbers_that_inference_never_reads_may_be_unknown():
    """The original (openvla c8f03f48, ``predict_action``) reads the quantiles, and only within the mask."""
    nan, low, high = float("nan"), [-1.0] * 6 + [0.0], [1.0] * 7
    unknown = {"std": [nan, *high[1:]], "min": [None, *low[1:]], "q01": [*low[:6], nan]}
    mask = [True] * 6 + [False]
    action = parse_norm_stats(published(**unknown, q99=high, mask=mask))["bridge_orig"].action
    wanted = parse_norm_stats(published(q01=low, q99=high, mask=mask))["bridge_orig"].action
    values = np.linspace(-0.9, 0.9, 7)
    assert np.array_equal(unnormalise(values, action), unnormalise(values, wanted))
    assert not action.has_extremes
    again = parse_norm_stats({"d": {"action": json.loads(json.dumps(action.to_json()))}})["d"].action
    assert np.array_equal(again.q01, action.q01, equal_nan=True)
    proprio = {**published()["bridge_orig"]["action"], "q01": [nan] * 7}
    dataset = parse_norm_stats({"d": {**published()["bridge_orig"], "proprio": proprio}})["d"]
    with pytest.raises(StatisticsError, match=r"q01\[0\] is not a finite number, but it is needed"):
        normalise(values, dataset.proprio, constant_to_zero=False)


@pytest.mark.parametrize("kind", [int, float, bool])
def test_masks_of_0_and_1_mean_the_same(kind):
    mask = [kind(i != 2) for i in range(7)]
    found = parse_norm_stats(published(mask=mask))["bridge_orig"].action.mask
    assert found.tolist() == [i != 2 for i in range(7)]


def test_other_top_level_entries_are_left_out_and_named_once(caplog):
    data = {**published(), "version": 2, "created": {"by": "a script"}}
    for _ in range(2):
        assert select_statistics(parse_norm_stats(data, "extra.json"), None)[0] == "bridge_orig"
    said = [record.getMessage() for record in caplog.records]
    assert said == ["extra.json: not the statistics of a dataset, left out: version, created"]


@pytest.mark.parametrize("name", ["mask_ints", "nan_one_std"])
def test_shared_files_that_the_original_accepts(name):
    path = SHARED / "cases" / "statistics" / name / "dataset_statistics.json"
    if not path.is_file():
        pytest.skip("needs the shared cases, which are not beside this checkout")
    _, dataset = select_statistics(read_statistics(path), None)
    assert dataset.action.mask.tolist() == [True] * 6 + [False]


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(StatisticsError, match="bridge_orig: action: q01 missing; it has q99"):
        parse_norm_stats({"bridge_orig": {"action": {"q99": [1.0]}}})
    with pytest.raises(StatisticsError, match="expected a mapping with the key 'action', got mean"):
        parse_norm_stats({"bridge_orig": {"mean": [1.0]}})
    with pytest.raises(StatisticsError, match="num_transitions is -1"):
        parse_norm_stats({"d": {**published()["bridge_orig"], "num_transitions": -1}})
    with pytest.raises(StatisticsError, match="mapping of dataset keys"):
        parse_norm_stats({})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(StatisticsError, match=r"broken.json: cannot read"):
        read_statistics(tmp_path / "broken.json")


def test_the_key_is_optional_only_where_there_is_one_dataset():
    one = parse_norm_stats(published())
    assert select_statistics(one, None)[0] == "bridge_orig"
    two = {**one, "fractal20220817_data": one["bridge_orig"]}
    assert select_statistics(two, "fractal20220817_data")[0] == "fractal20220817_data"
    with pytest.raises(StatisticsError, match=r"give an unnorm_key.*bridge_orig, fractal20220817_data"):
        select_statistics(two, None)
    with pytest.raises(StatisticsError, match=r"'bridge'.*mean 'bridge_orig'.*bridge_orig, fractal"):
        select_statistics(two, "bridge")
    with pytest.raises(StatisticsError, match="choices are none"):
        select_statistics({}, None)


def test_statistics_of_another_width_than_the_action_space_are_refused():
    space = load_profile("sim_widowx").space()
    parse_norm_stats(published())["bridge_orig"].action.check_space(space, "x")
    with pytest.raises(StatisticsError, match=r"ckpt: the action statistics have 14 dimensions.*has 7: x, y"):
        parse_norm_stats(published(14))["bridge_orig"].action.check_space(space, "ckpt")


def test_the_mask_is_all_but_the_gripper():
    assert mask_of(load_profile("sim_widowx").space()).tolist() == [True] * 6 + [False]


def test_arrays_cannot_be_written():
    action = parse_norm_stats(published())["bridge_orig"].action
    for name in ("mean", "std", "min", "max", "q01", "q99", "mask"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(action, name)[0] = 0
    assert np.all(action.q01 == -1.0)
