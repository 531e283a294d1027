"""Lens calibration files of ROS's camera_calibration, for cameras that don't report their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from openvla_ros.cameras.protocol import Intrinsics
from openvla_ros.errors import InvalidValueError, ProfileError
from openvla_ros.integrity.text_file import read_text


def read_calibration(path: Path) -> Intrinsics:
    """Return the intrinsics from a YAML file in the format of camera_calibration.

    Args:
        path: The file: image size in pixels, camera matrix (3, 3) in pixels, distortion model and
            coefficients.

    Raises:
        ProfileError: The file cannot be read, or a key is missing or wrong; names the file and the key.
    """
    try:
        data = yaml.safe_load(read_text(path, ProfileError))
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: cannot read the calibration: {error}") from error
    try:
        return Intrinsics(
            width=int(_get(data, "image_width")),
            height=int(_get(data, "image_height")),
            matrix=np.array(_get(data, "camera_matrix", "data"), dtype=np.float64).reshape(3, 3),
            distortion_model=str(_get(data, "distortion_model")),
            distortion=np.array(_get(data, "distortion_coefficients", "data"), dtype=np.float64),
        )
    except (InvalidValueError, TypeError, ValueError) as error:
        raise ProfileError(f"{path}: {error}") from error


def _get(data: Any, *keys: str) -> Any:
    for depth, key in enumerate(keys):
        if not isinstance(data, dict) or key not in data:
            raise InvalidValueError(f"{'.'.join(keys[: depth + 1])}: this key is missing")
        data = data[key]
    return data
