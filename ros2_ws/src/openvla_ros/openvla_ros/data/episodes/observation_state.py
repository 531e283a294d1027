"""The robot state as one vector, as the exports to other tools hold it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openvla_ros.values.arrays import Float
from openvla_ros.values.episode import Episode
from openvla_ros.values.geometry import transform_matrix_to_euler


def observation_state(episode: Episode) -> NDArray[np.float32] | None:
    """Return x, y, z, roll, pitch, yaw, gripper (T, 7), or None without poses and gripper."""
    if episode.poses is None or episode.gripper is None:
        return None
    return state_vector(episode.poses, episode.gripper)


def state_vector(poses: Float, gripper: Float) -> NDArray[np.float32]:
    """Return x, y, z, roll, pitch, yaw, gripper (T, 7) of poses (T, 4, 4) and openings (T,)."""
    euler = transform_matrix_to_euler(poses[:, :3, :3])
    columns = [poses[:, :3, 3], euler, np.asarray(gripper).reshape(-1, 1)]
    return np.concatenate(columns, axis=1).astype(np.float32)
