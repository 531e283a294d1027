"""Two processes over gloo give what one gives: DDP for adapters, FSDP for whole models."""

import multiprocessing
import os
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.tiny_training_run import QUICK, WHOLE, Notes, make_base, make_request, write_data

from openvla_ros.errors import TrainingError
from openvla_ros.training.distributed import Processes, joined_processes
from openvla_ros.training.finetune import finetune
from openvla_ros.training.metrics import read_records

STEPS = 4


def run_one(request, environment):
    os.environ.update(environment)
    with joined_processes(environment) as processes:
        finetune(request, Notes(), processes)


def run_two(request):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    context = multiprocessing.get_context("fork")
    children = []
    for rank in "01":
        environment = {**common, "RANK": rank, "LOCAL_RANK": rank}
        children.append(context.Process(target=run_one, args=(request, environment)))
        children[-1].start()
    for child in children:
        child.join(150)
        assert child.exitcode == 0, child.exitcode


def losses(folder):
    return [(r["step"], r["loss"], r["accuracy"]) for r in read_records(folder)]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_compute_what_one_does(tmp_path, monkeypatch, method):
    monkeypatch.setattr("openvla_ros.training.finetune.Run._report", lambda run: None)
    base, data = make_base(tmp_path / "base"), write_data(tmp_path / "demos.hdf5")
    # Five held-out steps and two processes with two at once: in the last round one has nothing of its own.
    monkeypatch.setattr("openvla_ros.training.validation.LONGEST", 5)
    start = QUICK if method == "lora" else WHOLE
    recipe = replace(start, method=method, steps=STEPS, save_every=2, validate_every=2, learning_rate=1e-3)
    finetune(make_request(base, data, tmp_path / "one", recipe), Notes())
    run_two(make_request(base, data, tmp_path / "two", replace(recipe, steps=2)))
    run_two(make_request(base, data, tmp_path / "two", recipe))  # resumed, as shards of the same state
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    one, two = (load_file(tmp_path / folder / name) for folder in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-5, msg=key)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    request = make_request(tmp_path, tmp_path, tmp_path, replace(QUICK, batch_size=5))
    with pytest.raises(TrainingError, match="multiple of the 2"):
        finetune(request, Notes(), Processes(0, 2, 0))
