"""How well an arm tracked a sequence of actions: expected against measured tool poses.

Numbers only: the poses that the actions compose to, and the measured poses, each with their times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openvla_ros.errors import InvalidValueError
from openvla_ros.robot.kinematics.delta_actions import compose
from openvla_ros.values.action import ActionSpace
from openvla_ros.values.arrays import Float
from openvla_ros.values.geometry import Pose, transform_matrix_to_rotvec

LONGEST_LAG_S, LAG_STEP_S = 1.0, 0.01


@dataclass(frozen=True)
class TrackingReport:
    """Errors in metres and radians; those along the path are after compensating the lag."""

    steps: int
    lag_s: float  # by how much the measured motion follows the expected one
    mean_m: float
    max_m: float
    final_m: float
    final_rad: float
    recorded_final_m: float | None  # displacement against the recorded one, where poses were recorded


def expected_poses(start: Pose, actions: Float, space: ActionSpace) -> list[Pose]:
    """Return the tool's poses (T + 1) that ``actions`` (T, D) compose to from ``start``."""
    poses = [start]
    for action in actions:
        poses.append(compose(poses[-1], action, space))
    return poses


def tracking_report(
    expected: Sequence[Pose],
    expected_s: Float,
    measured: Sequence[Pose],
    measured_s: Float,
    recorded: Float | None = None,
) -> TrackingReport:
    """Compare ``expected`` poses at times (T,) with ``measured`` ones at times (M,), seconds on one clock.

    ``recorded`` are the poses (T', 4, 4) measured in the original recording. Raises
    ``InvalidValueError`` if there is nothing to compare.
    """
    if len(expected) < 2 or len(measured) < 2:
        raise InvalidValueError(f"{len(expected)} expected and {len(measured)} measured poses: too few")
    want = np.array([pose.position for pose in expected])
    have = np.array([pose.position for pose in measured])
    lags = np.arange(0.0, LONGEST_LAG_S + LAG_STEP_S / 2, LAG_STEP_S)
    errors = [_errors(want, expected_s, have, measured_s - lag) for lag in lags]
    best = int(np.argmin([error.mean() for error in errors]))
    turn = expected[-1].rotation.T @ measured[-1].rotation
    recorded_final = None
    if recorded is not None:
        moved = have[-1] - have[0]
        recorded_final = float(np.linalg.norm(moved - (recorded[-1, :3, 3] - recorded[0, :3, 3])))
    return TrackingReport(
        steps=len(expected) - 1,
        lag_s=float(lags[best]),
        mean_m=float(errors[best].mean()),
        max_m=float(errors[best].max()),
        final_m=float(np.linalg.norm(want[-1] - have[-1])),
        final_rad=float(np.linalg.norm(transform_matrix_to_rotvec(turn))),
        recorded_final_m=recorded_final,
    )


def _errors(want: Float, want_s: Float, have: Float, have_s: Float) -> Float:
    """Return the distances (T,), metres, at the expected times, interpolating measured positions."""
    at = np.stack([np.interp(want_s, have_s, have[:, i]) for i in range(3)], axis=1)
    distances: Float = np.linalg.norm(want - at, axis=1)
    return distances
