#!/usr/bin/env bash
# kalanos grades LeRobot datasets, but none that stores images in its table instead of in videos, as LeRobot does
# with use_videos=False: it takes the column, a struct of bytes and path, for numbers, and refuses the whole
# dataset with the reason "too many values to unpack (expected 1)". Without that column it grades the same data.
#
# Seen with kalanos 0.8.2 on Linux x86_64, Python 3.11:
#   kalanos 0.8.2, numbers alone: 1 of 1 episodes, score 100
#   kalanos 0.8.2, with images: 0 of 1 episodes, episode 0: too many values to unpack (expected 1)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "kalanos==${KALANOS:-0.8.2}" pyarrow==26.0.1 pillow==13.0.0 numpy==2.4.6
"$work/venv/bin/python" - "$work" <<'PYTHON'
import importlib.metadata
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

work, steps, rate = Path(sys.argv[1]), 60, 10
version = importlib.metadata.version("kalanos")


def scalar(dtype):
    return {"dtype": dtype, "shape": [1], "names": None}


def write(folder, image):
    """Write one episode in the layout of LeRobot 3.0."""
    for part in ("data/chunk-000", "meta/episodes/chunk-000"):
        (folder / part).mkdir(parents=True)
    phase = np.linspace(0, 6, steps)[:, None] + np.arange(3)
    index = np.arange(steps)
    columns = {
        "action": pa.array(np.cos(phase).astype(np.float32).tolist(), pa.list_(pa.float32(), 3)),
        "observation.state": pa.array(np.sin(phase).astype(np.float32).tolist(), pa.list_(pa.float32(), 3)),
        "timestamp": pa.array((index / rate).astype(np.float32)),
        "frame_index": pa.array(index), "episode_index": pa.array(np.zeros(steps, np.int64)),
        "index": pa.array(index), "task_index": pa.array(np.zeros(steps, np.int64)),
    }
    vector = {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]}
    features = {"action": vector, "observation.state": vector, "timestamp": scalar("float32")}
    features |= {name: scalar("int64") for name in ("frame_index", "episode_index", "index", "task_index")}
    if image:
        buffer = io.BytesIO()
        Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(buffer, "PNG")
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns["observation.images.front"] = pa.array([{"bytes": buffer.getvalue(), "path": None}] * steps, kind)
        features["observation.images.front"] = {
            "dtype": "image", "shape": [48, 64, 3], "names": ["height", "width", "channels"]
        }
    pq.write_table(pa.table(columns), folder / "data/chunk-000/file-000.parquet")
    episode = {
        "episode_index": [0], "tasks": [["push"]], "length": [steps], "data/chunk_index": [0],
        "data/file_index": [0], "dataset_from_index": [0], "dataset_to_index": [steps],
        "meta/episodes/chunk_index": [0], "meta/episodes/file_index": [0],
    }
    pq.write_table(pa.table(episode), folder / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["push"]}), folder / "meta/tasks.parquet")
    info = {
        "codebase_version": "v3.0", "robot_type": "arm", "total_episodes": 1, "total_frames": steps,
        "total_tasks": 1, "chunks_size": 1000, "fps": rate, "splits": {"train": "0:1"}, "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "video_path": None,
    }
    (folder / "meta/info.json").write_text(json.dumps(info))


def graded(folder):
    """Return episodes read, the score, and why the rest was not read."""
    command = [Path(sys.executable).with_name("kalanos"), "grade", folder, "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    reasons = [one["reason"] for one in report["unresolved"]]
    return report["inventory"]["loaded"], report["readiness"]["score"], reasons


write(work / "numbers", image=False)
write(work / "images", image=True)
loaded, score, _ = graded(work / "numbers")
print(f"kalanos {version}, numbers alone: {loaded} of 1 episodes, score {score:g}")
unread, _, reasons = graded(work / "images")
print(f"kalanos {version}, with images: {unread} of 1 episodes, {'; '.join(reasons)}")
seen = loaded == 1 and unread == 0 and reasons == ["episode 0: too many values to unpack (expected 1)"]
sys.exit(0 if seen else "not seen any more")
PYTHON
