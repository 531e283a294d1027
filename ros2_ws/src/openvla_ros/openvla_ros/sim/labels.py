"""Ground-truth positions of tool and objects, in metres and image coordinates.

Privileged: for auxiliary losses and analysis, never part of an episode or a policy's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openvla_ros.sim.tasks import COLOURS
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.arrays import Float
from openvla_ros.values.goal import Goal

TOOL = "tool"
THINGS = (*(f"{colour} cube" for colour in COLOURS), "plate", "bowl", TOOL)


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Positions of the ``THINGS`` (T) at one moment; NaN for things that are not in the scene."""

    uv: Float  # (T, 2) u right and v down, 0..1 within the image
    metres: Float  # (T, 3) in the base frame


def whereabouts(robot: SimulatedRobot, camera: str) -> Whereabouts:
    """Return the current positions in ``robot``'s scene, and where ``camera`` sees them."""
    scene = robot.scene()
    metres = np.full((len(THINGS), 3), np.nan)
    metres[THINGS.index(TOOL)] = scene.tool.position
    for item in scene.objects:
        if item.name in THINGS:
            metres[THINGS.index(item.name)] = item.position
    return Whereabouts(robot.project(camera, metres)[:, :2], metres)


def asked_for(goal: Goal) -> tuple[int, int, int]:
    """Return the indices in ``THINGS`` of tool, object and destination.

    For a goal without a destination, the destination is the object.
    """
    destination = goal.destination or goal.object
    return THINGS.index(TOOL), THINGS.index(goal.object), THINGS.index(destination)
