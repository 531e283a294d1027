"""The Diffusion Policy baseline: it learns what it is shown, and its actions stay within the space."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.generated_episodes import make_episode
from support.tiny_training_run import Notes, make_base, make_request, write_data

from openvla_ros.pretraining.diffusion_baseline import DiffusionOptions, remaining_signal, train_diffusion
from openvla_ros.training.data.selection import Selection
from openvla_ros.training.distributed import Processes
from openvla_ros.training.finetune import Run

OPTIONS = DiffusionOptions(width=64, steps=400, batch_size=16, learning_rate=2e-3, average=0.97)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion")
    # Two instructions, two motions: the words alone tell them apart.
    shown = np.array([[0.04, 0, 0, 0, 0, 0, 1.0]] * 6)
    data = []
    for number, (words, sign) in enumerate((("go forward", 1.0), ("go back", -1.0))):
        actions = shown * [sign, 1, 1, 1, 1, 1, 1] + np.linspace(0, 1e-3, 6)[:, None] * [1, 1, 1, 1, 1, 1, 0]
        data.append(write_data(folder / f"{number}.hdf5", 3, instruction=words, actions=actions))
    everything = Selection(validation_share=0.0)
    request = make_request(make_base(folder / "base"), data[0], folder / "run", selection=everything)
    request = replace(request, data=(*request.data, *make_request(folder, data[1], folder).data))
    run = Run(request, Notes(), Processes())
    return train_diffusion(run.store, run.statistics.action, OPTIONS, run.maker.transform)


@pytest.mark.parametrize(("words", "sign"), [("go forward", 1.0), ("Go back", -1.0)])
def test_the_words_decide_which_motion_comes_out(learned, words, sign):
    learned.reset()
    observation = replace(make_episode(1).observation(0), instruction=words)
    chunk = learned.infer(observation)
    assert chunk.actions.shape == (OPTIONS.executed, 7)
    assert np.sign(chunk.actions[:, 0]).tolist() == [sign] * OPTIONS.executed
    assert np.abs(chunk.actions[:, 0] - sign * 0.04).max() < 0.015
    assert np.all(chunk.actions >= chunk.space.lower)
    assert np.all(chunk.actions <= chunk.space.upper)


def test_the_same_noise_begins_every_episode(learned):
    observation = make_episode(1).observation(0)
    learned.reset()
    first = learned.infer(observation).actions
    again = learned.infer(observation).actions
    learned.reset()
    np.testing.assert_array_equal(learned.infer(observation).actions, first)
    assert not np.array_equal(first, again)


def test_the_schedule_goes_from_the_signal_to_noise():
    signal = remaining_signal(OPTIONS)
    assert bool(torch.all(signal[1:] < signal[:-1]))
    assert signal[0] > 0.99
    assert 0.0 < signal[-1] < 0.01
