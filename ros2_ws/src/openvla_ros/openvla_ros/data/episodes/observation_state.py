"""The robot state as one vector, as the exports to other tools hold it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import transform_matrix_to_euler


def observation_state(episode: Episode) -> NDArray[np.float32] | None:
    """Return x, y, z, roll, pitch, yaw, gripper (T, 7), or None without poses and gripper."""
    if episode.poses is None or episode.gripper is None:
        return None
    euler = transform_matrix_to_euler(episode.poses[:, :3, :3])
    columns = [episode.poses[:, :3, 3], euler, episode.gripper[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)
