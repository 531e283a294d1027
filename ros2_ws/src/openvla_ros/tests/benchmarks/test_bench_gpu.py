"""The benchmark of the GPU path runs the same code on a CPU, and says so where there is no GPU."""

import json

import pytest
import torch
from support.python_process import run_python
from support.shared_data import REPOSITORY

BENCHMARK = REPOSITORY / "benchmarks" / "bench_gpu.py"
if not BENCHMARK.is_file():
    pytest.skip("the benchmarks are not beside the package", allow_module_level=True)

EXACT = ("transformers", "plain", "steady", "fast, 0 wrong", "fast, 1 wrong", "fast, 2 wrong")


def run(*arguments):
    return run_python([BENCHMARK, *arguments], network=True)


def test_every_mode_on_a_cpu():
    done = run("--size", "tiny", "--device", "cpu", "--seconds", "100", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    rows = last["rows"]
    assert last["ending"] == "complete"
    assert last["goals"] == {}  # they are for one device and one size
    for name in EXACT:
        assert rows[name]["token_agreement"] == 1.0, name
        assert 0 < rows[name]["p50"] <= rows[name]["p95"] <= rows[name]["p99"]
        assert rows[name]["limit_ms"] > 0
    for how in ("int8wo", "int4wo"):
        assert rows[f"{how} steady"]["repeats"] == 2
        assert rows[f"{how} fast, 2 wrong"]["p50"] > 0
    assert rows["fp8"]["error"].startswith("CheckpointError: fp8 needs a CUDA device")
    assert rows["OFT, engine"]["p50"] > 0
    assert {"vision", "prompt's pass", "short pass"} <= last["stages_ms"].keys()
    assert last["tokens_as_float32"] == {"of": 14, "plain": 14, "steady": 14, "fast": 14}
    assert last["ceilings"]["copy_bytes_per_s"] > 0
    told = done.stdout
    assert told.index("measured: copy") < told.index("\ntransformers ") < told.index("int4wo, not exact")


def test_it_ends_when_its_time_is_over():
    done = run("--size", "tiny", "--device", "cpu", "--seconds", "0.001", "--repeats", "100")
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert all(row["error"] == "no time was left" for row in rows.values())
    assert done.returncode == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 2
    assert "no GPU: torch" in done.stderr
    assert "--size small --device cpu" in done.stderr
