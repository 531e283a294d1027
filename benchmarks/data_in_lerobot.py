"""What ``bench_data`` runs in LeRobot's own Python: its loader, and its way to write a dataset.

    python data_in_lerobot.py load FOLDER SAMPLES
    python data_in_lerobot.py write FRAMES.npz FOLDER image|video|streamed

``write`` gets decoded images, actions and states: reading and decoding the source costs it nothing. The last
line is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

BATCH = 8  # LeRobot's default
CAMERA = "observation.images.primary"


def load(folder: str, count: str) -> dict[str, float]:
    """Return samples per second of processor time, shuffled and in batches, as its training reads them."""
    torch.set_num_threads(1)
    data = LeRobotDataset("local/bench", root=folder)
    loader = iter(torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=0))
    for _ in range(3):
        next(loader)
    batches = min(int(count) // BATCH, len(data) // BATCH - 4)
    began = time.process_time()
    for _ in range(batches):
        next(loader)
    return {"rate": batches * BATCH / (time.process_time() - began)}


def write(frames: str, folder: str, way: str) -> dict[str, float]:
    """Return the wall time and the processor time of writing, seconds."""
    given = np.load(frames)
    images, actions, states = given["images"], given["actions"], given["states"]
    dtype = "image" if way == "image" else "video"
    names = ["height", "width", "channels"]
    features = {
        CAMERA: {"dtype": dtype, "shape": images.shape[2:], "names": names},
        "action": {"dtype": "float32", "shape": (actions.shape[2],), "names": None},
        "observation.state": {"dtype": "float32", "shape": (states.shape[2],), "names": None},
    }
    began, used = time.perf_counter(), sum(os.times()[:4])
    data = LeRobotDataset.create(
        "local/written", int(given["rate_hz"]), features, root=folder,
        use_videos=way != "image", streaming_encoding=way == "streamed",
    )  # fmt: skip
    for number in range(len(images)):
        for image, action, state in zip(images[number], actions[number], states[number], strict=True):
            task = str(given["tasks"][number])
            data.add_frame({CAMERA: image, "action": action, "observation.state": state, "task": task})
        data.save_episode()
    data.finalize()
    return {"wall_s": time.perf_counter() - began, "cpu_s": sum(os.times()[:4]) - used}


if __name__ == "__main__":
    print(json.dumps({"load": load, "write": write}[sys.argv[1]](*sys.argv[2:])))
