"""Runs in LeRobot's own environment: its dataset tools, and three steps of its training.

``edit FIRST SECOND OUTPUT OPERATION...`` leaves one folder an operation, ``train FOLDER...`` trains ACT on
each, ``own OUTPUT`` writes a dataset with LeRobot alone. Prints errors as one JSON object at the end.
"""

import json
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
from lerobot.datasets import dataset_tools
from lerobot.datasets.lerobot_dataset import LeRobotDataset

NEW_TASK = "raise the red block"


def opened(folder: Path) -> LeRobotDataset:
    """Return the dataset at ``folder``, its videos read with PyAV."""
    return LeRobotDataset("local/peer", root=folder, video_backend="pyav")


def edit(operation: str, first: Path, second: Path, output: Path) -> None:
    """Apply one operation of LeRobot's to ``first``, or to a copy of it where it works in place."""
    target = output / operation
    if operation in ("modify_tasks", "recompute_stats", "reencode_dataset"):
        shutil.copytree(first, target)
        dataset = opened(target)
    else:
        dataset = opened(first)
    match operation:
        case "delete_episodes":
            dataset_tools.delete_episodes(dataset, [1], output_dir=target, repo_id="local/out")
        case "split_dataset":
            parts = {"first": [0, 2], "second": [1, 3]}
            dataset_tools.split_dataset(dataset, parts, output_dir=target)
        case "merge_datasets":
            dataset_tools.merge_datasets([dataset, opened(second)], "local/out", output_dir=target)
        case "modify_tasks":
            dataset_tools.modify_tasks(dataset, new_task=NEW_TASK)
            shutil.copytree(target, output / "sums_left")
        case "add_features":
            reward = np.linspace(0.0, 1.0, dataset.num_frames).astype(np.float32)
            features = {"reward": (reward, {"dtype": "float32", "shape": (1,), "names": None})}
            dataset_tools.add_features(dataset, features, output_dir=target, repo_id="local/out")
        case "remove_feature":
            name = "openvla_ros.action"
            dataset_tools.remove_feature(dataset, name, output_dir=target, repo_id="local/out")
        case "recompute_stats":
            dataset_tools.recompute_stats(dataset)
        case "convert_image_to_video_dataset":
            dataset_tools.convert_image_to_video_dataset(dataset, output_dir=target, repo_id="local/out")
        case "reencode_dataset":
            from lerobot.configs import RGBEncoderConfig

            dataset_tools.reencode_dataset(dataset, rgb_encoder=RGBEncoderConfig(vcodec="h264"))


def write_own(output: Path) -> None:
    """Write a small dataset with LeRobot alone and convert it to video, for comparison."""
    camera, shape = "observation.images.primary", (48, 64, 3)
    features = {
        camera: {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": (7,), "names": None},
        "observation.state": {"dtype": "float32", "shape": (7,), "names": None},
    }
    rng = np.random.default_rng(0)
    dataset = LeRobotDataset.create("local/own", 5, features, root=output / "images", use_videos=False)
    for _ in range(2):
        for _ in range(8):
            numbers = rng.normal(size=(2, 7)).astype(np.float32)
            image = rng.integers(0, 255, shape, np.uint8)
            frame = {camera: image, "action": numbers[0], "observation.state": numbers[1], "task": NEW_TASK}
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()
    own = opened(output / "images")
    dataset_tools.convert_image_to_video_dataset(own, output_dir=output / "video", repo_id="local/out")


def train(folder: Path) -> None:
    """Take three steps of a small ACT with LeRobot's own training program."""
    from lerobot.scripts.lerobot_train import train as run

    with tempfile.TemporaryDirectory() as out:
        sys.argv = [
            "lerobot-train", "--dataset.repo_id=local/peer", f"--dataset.root={folder}",
            "--dataset.video_backend=pyav", "--policy.type=act", "--policy.device=cpu",
            "--policy.push_to_hub=false", "--policy.pretrained_backbone_weights=null",
            "--policy.dim_model=32", "--policy.n_heads=2", "--policy.dim_feedforward=32",
            "--policy.n_encoder_layers=1", "--policy.n_vae_encoder_layers=1", "--policy.chunk_size=4",
            "--policy.n_action_steps=4", "--steps=3", "--batch_size=2", "--num_workers=0", "--log_freq=1",
            "--save_checkpoint=false", "--wandb.enable=false", f"--output_dir={out}/run",
        ]  # fmt: skip
        run()


def last_line(error: Exception) -> str:
    """Return the error and the place in LeRobot that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def main() -> None:
    """Run what the command line asks for."""
    errors = {}
    if sys.argv[1] == "own":
        write_own(Path(sys.argv[2]))
    elif sys.argv[1] == "edit":
        first, second, output = map(Path, sys.argv[2:5])
        for operation in sys.argv[5:]:
            try:
                edit(operation, first, second, output)
            except Exception as error:  # noqa: BLE001  whatever a peer raises is its answer
                errors[operation] = last_line(error)
    else:
        for folder in sys.argv[2:]:
            try:
                train(Path(folder))
                errors[folder] = ""
            except Exception as error:  # noqa: BLE001
                errors[folder] = last_line(error)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
