"""Runs in robomimic's own environment: its dataset class, and an epoch of its behavioural cloning.

``read FILE OUTPUT.npz`` stores every sample of ``SequenceDataset``.
``train FILE states|images FOLDER`` trains and validates for one epoch; prints the losses as one JSON object.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader

# robomimic needs the Python part of torchvision only. Its wheel is built for CUDA: beside a PyTorch without,
# the import fails unless these operators, which nothing here calls, are declared.
OPERATORS = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from robomimic.algo import algo_factory  # noqa: E402
from robomimic.config import config_factory  # noqa: E402
from robomimic.utils import file_utils, obs_utils, train_utils  # noqa: E402
from robomimic.utils.dataset import SequenceDataset  # noqa: E402

BATCH = 8


def observation_keys(path: str) -> dict[str, list[str]]:
    """Return the file's observations by robomimic's modality."""
    with h5py.File(path) as file:
        keys = sorted(file["data/demo_0/obs"])
    return {
        "low_dim": [key for key in keys if not key.endswith("_image")],
        "rgb": [key for key in keys if key.endswith("_image")],
    }


def read(path: str, output: str) -> None:
    """Store every sample, in the order of the file."""
    keys = observation_keys(path)
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": keys})
    dataset = SequenceDataset(
        hdf5_path=path,
        obs_keys=keys["low_dim"] + keys["rgb"],
        dataset_keys=("actions", "rewards", "dones"),
        hdf5_cache_mode=None,
        load_next_obs=True,
    )
    samples: dict[str, list[np.ndarray]] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        samples.setdefault("actions", []).append(sample["actions"][0])
        for group in ("obs", "next_obs"):
            for key, value in sample[group].items():
                samples.setdefault(f"{group}/{key}", []).append(value[0])
    np.savez(output, **{name: np.stack(values) for name, values in samples.items()})


def train(path: str, kind: str, folder: str) -> None:
    """Train behavioural cloning for one pass over mask/train and validate on mask/valid."""
    keys = observation_keys(path)
    config = config_factory("bc")
    with config.values_unlocked():
        config.train.data, config.train.output_dir = path, folder
        config.train.batch_size, config.train.num_epochs = BATCH, 1
        config.train.cuda = False
        config.train.hdf5_cache_mode = "low_dim"
        config.train.hdf5_load_next_obs = True
        config.train.hdf5_filter_key, config.train.hdf5_validation_filter_key = "train", "valid"
        config.experiment.validate, config.experiment.rollout.enabled = True, False
        config.observation.modalities.obs.low_dim = keys["low_dim"]
        config.observation.modalities.obs.rgb = keys["rgb"] if kind == "images" else []
        config.observation.encoder.rgb.core_class = "VisualCore"
        config.observation.encoder.rgb.core_kwargs.feature_dimension = 64
        config.observation.encoder.rgb.core_kwargs.backbone_class = "ShallowConv"
        config.observation.encoder.rgb.core_kwargs.backbone_kwargs = {}
        config.observation.encoder.rgb.core_kwargs.pool_class = None
    obs_utils.initialize_obs_utils_with_config(config)
    shapes = file_utils.get_shape_metadata_from_dataset(path, all_obs_keys=config.all_obs_keys)
    model = algo_factory("bc", config, shapes["all_shapes"], shapes["ac_dim"], torch.device("cpu"))
    sets = train_utils.load_data_for_training(config, obs_keys=shapes["all_obs_keys"])
    losses = {}
    for name, dataset in zip(("train", "valid"), sets, strict=True):
        loader = DataLoader(dataset, batch_size=BATCH, shuffle=name == "train", drop_last=True)
        log = train_utils.run_epoch(model, loader, epoch=1, validate=name == "valid", num_steps=len(loader))
        losses[name] = float(log["Loss"])
    print(json.dumps(losses))


if __name__ == "__main__":
    Path(sys.argv[-1]).parent.mkdir(parents=True, exist_ok=True)
    {"read": read, "train": train}[sys.argv[1]](*sys.argv[2:])
