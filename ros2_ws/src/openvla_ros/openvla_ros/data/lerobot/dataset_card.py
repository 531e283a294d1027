"""README.md of a LeRobot dataset: what it holds and what its actions mean, for people and for the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openvla_ros.values.action import ActionSpace

_TASKS = 20  # instructions that are listed; more are counted


def dataset_card(name: str, info: Mapping[str, Any], tasks: Sequence[str], space: ActionSpace) -> str:
    """Return the card of dataset ``name`` with ``info`` (``meta/info.json``)."""
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] in ("image", "video")]
    size = f"{info['total_episodes']} episodes, {info['total_frames']} steps at {info['fps']} Hz"
    robot = info["robot_type"] or "not said"
    meaning = (
        f"`action` is a change of the commanded tool pose along the axes of the {space.frame} frame, with "
        f"the rotation as {space.rotation}, and the gripper's opening as a command that opens it at "
        f"{space.gripper_open:g}. Each composes on the target that was commanded before."
    )
    lines = [
        "---",
        "task_categories: [robotics]",
        "tags: [LeRobot]",
        "configs:",
        "- config_name: default",
        "  data_files: data/*/*.parquet",
        "---",
        "",
        f"# {name}",
        "",
        f"{size}, robot: {robot}. LeRobot {info['codebase_version']}, written by openvla_ros.",
        "",
        "Cameras: " + (", ".join(f"`{key}`" for key in cameras) or "none") + ".",
        "",
        "## Actions",
        "",
        meaning,
        "",
        "| dimension | unit | least | most |",
        "| --- | --- | --- | --- |",
        *(
            f"| {dimension} | {unit} | {low:g} | {high:g} |"
            for dimension, unit, low, high in zip(
                space.names, space.units, space.lower, space.upper, strict=True
            )
        ),
        "",
        "## Instructions",
        "",
        *(f"- {task}" for task in tasks[:_TASKS]),
    ]
    if len(tasks) > _TASKS:
        lines.append(f"- and {len(tasks) - _TASKS} more, in `meta/tasks.parquet`")
    return "\n".join(lines) + "\n"
