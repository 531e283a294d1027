"""Train a model of your own on demonstrations: shuffled samples straight from the dataset, without a copy.

.venv/bin/python examples/train_your_own_model.py [DATASET]

DATASET may be bags of ``openvla record``, RLDS, LeRobot or HDF5. Without one, demonstrations are generated
in simulation. The model here is the smallest that can show it: linear, from joints and pose to the action.
``openvla finetune`` is the way to train OpenVLA itself.
"""

import sys
from itertools import islice

import numpy as np

import openvla_ros
from openvla_ros.sim.demonstrations import generate_demonstrations
from openvla_ros.sim.tasks import find_task


class Generated:
    """Demonstrations of the scripted expert; whatever has a path, a length and items is a dataset."""

    path, format = "simulation", "memory"

    def __init__(self) -> None:
        profile = openvla_ros.load_profile("sim_widowx")
        expert = generate_demonstrations(profile, find_task("reach"), seeds=range(12))
        self._episodes = [demonstration.episode for demonstration in expert]

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> openvla_ros.Episode:
        return self._episodes[index]


def features(observation: openvla_ros.Observation) -> np.ndarray:
    """Return the inputs of the model, (N,): what the robot feels, and one."""
    assert observation.pose is not None
    return np.concatenate([observation.joint_positions, observation.pose.position, [1.0]])


source = openvla_ros.open_dataset(sys.argv[1]) if len(sys.argv) > 1 else Generated()
# Several datasets are mixed by weight; the order is a function of the seed, so a resumed run reads on.
reader = openvla_ros.TrainingReader({"demonstrations": source}, seed=0, cameras=["primary"])
print(f"{reader.steps['demonstrations']} steps in {len(source)} episodes, {len(reader.skipped)} left out")

samples = list(islice(reader.iterate(), reader.steps["demonstrations"]))  # one pass
inputs = np.array([features(sample.observation) for sample in samples])
targets = np.array([sample.actions[0] for sample in samples])  # (D,): the action taken there
weights, *_ = np.linalg.lstsq(inputs, targets, rcond=None)

space = source[0].space
error = np.abs(inputs @ weights - targets).mean(0)
constant = np.abs(targets - targets.mean(0)).mean(0)
for name, unit, ours, mean in zip(space.names, space.units, error, constant, strict=True):
    print(f"{name:>8}: off by {ours:.4f} {unit}; always the mean action: {mean:.4f}")
