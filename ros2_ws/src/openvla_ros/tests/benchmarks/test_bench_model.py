"""The benchmarks of the decoders on a CPU: every row is measured on the same tokens, on one network."""

import json

import pytest
from support.python_process import run_python
from support.shared_data import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not beside the package", allow_module_level=True)

MEASURED = (
    "transformers", "plain", "static cache", "steady",
    "fast, 0 wrong", "fast, 1 wrong", "fast, 2 wrong", "fast, all wrong",
)  # fmt: skip


def test_every_row_has_the_plain_tokens_and_a_ratio():
    arguments = ("--quick", "--size", "tiny", "--threads", "1", "--no-compile")
    done = run_python([BENCHMARKS / "bench_model.py", *arguments], network=True)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    rows = last["rows"]
    for name in MEASURED:
        assert rows[name]["agreement"] == 1.0, name
        assert rows[name]["to_plain"] > 0
    assert rows["plain"]["to_plain"] == 1.0
    assert rows["compiled"] == {"error": "not asked for"}
    worst = last["worst_case"]
    assert worst["held"] == (worst["to_plain"] <= worst["limit"])
    assert ("NOT held" in done.stdout) != worst["held"]
