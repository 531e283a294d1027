"""Success rates: the interval, seeds, closed-loop trials, and a comparison that nobody can bias."""

import json

import pytest
from support.tiny_training_run import make_base
from typer.testing import CliRunner

from openvla_ros.cli.program import app
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.evaluation.blinded import BlindedComparison, blinded_order
from openvla_ros.evaluation.evaluation_run import EvaluationRequest, evaluate_tasks
from openvla_ros.evaluation.page import add_videos
from openvla_ros.evaluation.trials import Evaluation, Trial, parse_seeds
from openvla_ros.evaluation.wilson import Z95, SuccessRate
from openvla_ros.report import Page


@pytest.mark.parametrize(("successes", "trials"), [(1, 2), (3, 10), (82, 100), (99, 100), (500, 1000)])
def test_the_interval_s_ends_are_where_the_score_test_just_rejects(successes, trials):
    rate = SuccessRate(successes, trials)
    for end in rate.interval():
        assert (rate.rate - end) ** 2 * trials == pytest.approx(Z95**2 * end * (1 - end))
    low, high = rate.interval()
    assert 0.0 < low < rate.rate < high < 1.0


def test_the_interval_of_no_success_and_of_nothing_else():
    assert SuccessRate(0, 10).interval() == pytest.approx((0.0, Z95**2 / (10 + Z95**2)))
    assert SuccessRate(0, 100).interval()[0] == 0.0
    assert SuccessRate(10, 10).interval() == pytest.approx((10 / (10 + Z95**2), 1.0))


def test_rates_that_cannot_be_are_refused():
    for bad in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(InvalidValueError, match="trial"):
            SuccessRate(*bad)


def test_seeds_are_numbers_and_ranges_with_both_ends():
    assert parse_seeds("100..103,7") == (100, 101, 102, 103, 7)
    for bad, words in (
        ("5..3", "empty"),
        ("a", "neither"),
        ("1,1", "twice"),
        ("3..5,4", "twice"),
        ("", "neither"),
    ):
        with pytest.raises(InvalidValueError, match=words):
            parse_seeds(bad)


def test_the_expert_succeeds_and_a_random_model_does_not(tmp_path):
    pytest.importorskip("mujoco")
    request = EvaluationRequest("expert", None, "sim_widowx", ("reach", "lift"), (1, 2))
    heard = []
    done = evaluate_tasks(request, tmp_path, 1, heard.append)
    assert done.rate == SuccessRate(4, 4)
    assert [(trial.task, trial.seed) for trial in heard] == [
        ("reach", 1),
        ("reach", 2),
        ("lift", 1),
        ("lift", 2),
    ]
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["lift_1.mp4", "reach_1.mp4"]


def test_the_verb_prints_one_json_object(tmp_path):
    pytest.importorskip("mujoco")
    base = make_base(tmp_path / "base")
    arguments = ["evaluate", str(base), "--task", "lift", "--seeds", "5", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["successes"], said["trials"], said["failed_seeds"]) == (0, 1, [5])
    assert said["interval"] == pytest.approx(SuccessRate(0, 1).interval())


def test_a_blinded_order_gives_every_policy_the_same_number_in_every_block():
    order = blinded_order(["a", "b", "c"], 20, seed=4)
    assert all(sorted(order[i : i + 3]) == ["a", "b", "c"] for i in range(0, 60, 3))
    assert order != ["a", "b", "c"] * 20
    assert order == blinded_order(["a", "b", "c"], 20, seed=4)
    with pytest.raises(InvalidValueError, match="two different"):
        blinded_order(["a", "a"], 3, 0)


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    first = BlindedComparison(path, ["", "new"], 5, seed=1)
    for number in range(4):
        first.add("stack the cups", success=first.next_policy == "new" or number == 0)
    second = BlindedComparison(path, ["", "new"], 5, seed=1)
    assert second.next_policy == first.order[4]
    while second.next_policy is not None:
        second.add("stack the cups", success=second.next_policy == "new")
    assert second.rates()["new"] == SuccessRate(5, 5)
    assert second.rates()[""].trials == 5
    with pytest.raises(InvalidValueError, match="done"):
        second.add("stack the cups", success=True)
    with pytest.raises(DatasetError, match="other policies"):
        BlindedComparison(path, ["", "newer"], 5, seed=1)


def test_the_order_of_a_comparison_is_drawn_anew_and_its_file_says_from_which_seed(tmp_path):
    policies = ["", "new"]
    several = [BlindedComparison(tmp_path / f"{i}.jsonl", policies, 20) for i in range(4)]
    assert len({comparison.seed for comparison in several}) == 4
    assert len({tuple(comparison.order) for comparison in several}) > 1
    first = several[0]
    first.add("stack the cups", success=True)
    path = tmp_path / "0.jsonl"
    assert json.loads(path.read_text().splitlines()[0]) == {"seed": first.seed}
    again = BlindedComparison(path, policies, 20)
    assert (again.seed, again.order, len(again.verdicts)) == (first.seed, first.order, 1)
    assert BlindedComparison(tmp_path / "other.jsonl", policies, 20, first.seed).order == first.order
    with pytest.raises(DatasetError, match=f"seed {first.seed}, not {first.seed + 1}"):
        BlindedComparison(path, policies, 20, first.seed + 1)


def test_a_comparison_of_before_seeds_were_kept_goes_on(tmp_path):
    path, policies = tmp_path / "old.jsonl", ["", "new"]
    order = blinded_order(policies, 5, 0)
    verdict = {"number": 0, "policy": order[0], "instruction": "stack the cups", "success": True}
    path.write_text(json.dumps(verdict) + "\n")
    assert BlindedComparison(path, policies, 5).order == order


def test_videos_of_one_scene_stand_side_by_side_and_none_is_lost_to_another_of_the_same_words(tmp_path):
    def filmed(name, success):
        (tmp_path / name).mkdir()
        trials = tuple(Trial("lift", seed, "lift it", success, 5, 1.0) for seed in (1, 2, 3))
        for trial in trials[:2]:
            (tmp_path / name / f"lift_{trial.seed}.mp4").write_bytes(b"film")
        return Evaluation(name, trials), tmp_path / name

    page = Page("videos")
    add_videos(page, {"before": filmed("before", False), "after": filmed("after", True)}, tmp_path)
    rows = page.write(tmp_path / "index.html").read_text(encoding="utf-8").split('<div class="row">')[1:]
    assert len(rows) == 2
    for seed, row in enumerate(rows, 1):
        before, after = f"before/lift_{seed}.mp4", f"after/lift_{seed}.mp4"
        assert 0 < row.index(before) < row.index("before: failed: lift it") < row.index(after)
        assert "after: done: lift it" in row

    page = Page("videos")
    add_videos(page, {"": filmed("alone", True)}, tmp_path)
    text = page.write(tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count('<div class="row">') == 1
    assert text.count("<video") == 2
