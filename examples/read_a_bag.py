"""Open recorded demonstrations, list them, and look into one.

.venv/bin/python examples/read_a_bag.py [DATASET]

DATASET may be bags of ``openvla record``, RLDS, LeRobot or HDF5. Without it, two demonstrations are first
generated in simulation and written as bags.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import openvla_ros
from openvla_ros.data.bags.bag_export import write_episode
from openvla_ros.sim.demonstrations import generate_demonstrations
from openvla_ros.sim.tasks import find_task


def generate(folder: Path) -> None:
    """Let the scripted expert perform two demonstrations, and write each as an MCAP bag."""
    profile = openvla_ros.load_profile("sim_widowx")
    for demonstration in generate_demonstrations(profile, find_task("reach"), seeds=(0, 1)):
        write_episode(folder / demonstration.episode.id, demonstration.episode)


def show(path: Path) -> None:
    """Print a table of the episodes, and what the first one holds."""
    # The format is detected from the files. RLDS also takes split= and convention=; for LeRobot, robot= names
    # the profile that defines what the actions mean.
    dataset = openvla_ros.open_dataset(path)
    print(f"{dataset.format} with {len(dataset)} episodes")
    for number in range(len(dataset)):
        episode = dataset[number]  # read now; images are decoded only when accessed
        words = repr(episode.instruction)
        print(f"{number:3} {len(episode):4} steps {episode.duration_s:6.1f} s  {episode.outcome:8} {words}")

    episode = dataset[0]
    # In every format the numbers have the same meaning: metres, radians, gripper 0..1.
    print("\ncommanded actions of episode 0:")
    for i, (name, unit) in enumerate(zip(episode.space.names, episode.space.units, strict=True)):
        column = episode.actions[:, i]
        print(f"{name:>8}: {column.min():+.4f} .. {column.max():+.4f} {unit}  {sparkline(column)}")
    # A policy on the live robot gets the same value: the same code builds both.
    observation = episode.observation(0)
    for camera, image in observation.images.items():
        height, width, _ = image.shape
        print(f"camera {camera}: {width}x{height}, mean colour {image.mean((0, 1)).round()}")


def sparkline(column: np.ndarray) -> str:
    """Draw numbers (T,) as text."""
    bars = "▁▂▃▄▅▆▇█"
    span = max(float(np.ptp(column)), 1e-9)
    return "".join(bars[int(7.99 * (value - column.min()) / span)] for value in column)


if len(sys.argv) > 1:
    show(Path(sys.argv[1]))
else:
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary))
        show(Path(temporary))
