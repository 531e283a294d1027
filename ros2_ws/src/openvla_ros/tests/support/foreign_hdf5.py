"""HDF5 files as other programs write them: robomimic, LIBERO, robosuite 1.5, DROID, ALOHA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openvla_ros.data.episodes.video_files import VideoWriter

OSC = {"type": "OSC_POSE", "input_max": 1, "input_min": -1, "output_max": [0.05] * 3 + [0.5] * 3}
OSC["output_min"] = [-value for value in OSC["output_max"]]
# robosuite 1.5.2, load_composite_controller_config(robot="Panda"), without the gains.
COMPOSITE = {
    "type": "BASIC",
    "body_parts": {
        "right": {**OSC, "input_type": "delta", "input_ref_frame": "base", "gripper": {"type": "GRIP"}}
    },
}
# The base of the Panda in robosuite 1.5.2's Lift, and what stands above it in the model.
PANDA_BASE = (-0.56, 0.0, 0.912)
MODEL = """<mujoco model="base"><worldbody><body name="table" pos="0 0 0.8"/>
<body name="robot0_base" pos="-0.56 0 0.912" quat="{quat}"><body name="robot0_link0"><joint/></body></body>
</worldbody></mujoco>"""


def model_file(quat: str = "1 0 0 0") -> str:
    """A MuJoCo model with a Panda's base, turned by ``quat`` (w first)."""
    return MODEL.format(quat=quat)


def environment(controller: Any = OSC, **changes: Any) -> dict[str, Any]:
    """``env_args`` of robosuite's Lift."""
    arguments = {"robots": ["Panda"], "control_freq": 20, "controller_configs": controller, **changes}
    return {"env_name": "Lift", "type": 1, "env_kwargs": arguments}


def write_robomimic(path: Path, env_args: dict[str, Any] | None = None, **changes: Any) -> Path:
    """One demonstration of two steps; ``changes``: arrays by their path in it (None leaves one out)."""
    arrays: dict[str, Any] = {
        "actions": np.array([[0.1] * 6 + [-1.0], [0.2] * 6 + [1.0]]),
        "rewards": np.array([0.0, 1.0]),
        "obs/agentview_image": np.full((2, 8, 8, 3), 7, np.uint8),
        "obs/robot0_eef_pos": np.array([[-0.1, 0.0, 1.0], [-0.099, 0.0, 1.0]]),
        "obs/robot0_eef_quat": np.tile([0.0, 0, 0, 1], (2, 1)),
        "obs/robot0_joint_pos": np.zeros((2, 7)),
        "obs/robot0_gripper_qpos": np.array([[0.04, -0.04], [0.01, -0.01]]),
        **{name.replace("__", "/"): value for name, value in changes.items() if name != "attributes"},
    }
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(environment() if env_args is None else env_args)
        demo = data.create_group("demo_0")
        for name, value in arrays.items():
            if value is not None:
                demo[name] = value
        for name, value in changes.get("attributes", {}).items():
            demo.attrs[name] = value
    return path


def libero_motion(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Joint positions before each step and after the last (T + 1, 7), and the simulator's states (T, 12)."""
    joints = np.cumsum(np.random.default_rng(4).normal(0.0, 0.02, (steps + 1, 7)), axis=0)
    return joints, np.column_stack([np.arange(steps), joints[:-1], np.zeros((steps, 4))])


def write_libero(path: Path, *, after_actions: bool = True, steps: int = 6) -> Path:
    """A demonstration as LIBERO's scripts/create_dataset.py leaves it: observed after each action."""
    joints, states = libero_motion(steps)
    seen = joints[1:] if after_actions else joints[:-1]
    images = np.zeros((steps, 8, 8, 3), np.uint8)
    images[:, 0] = [200, 30, 30]  # the lowest row of the scene
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(
            {**environment(), "env_name": "Libero_Study_Tabletop_Manipulation"}
        )
        data.attrs["problem_info"] = json.dumps({"language_instruction": "pick up the book"})
        data.attrs["macros_image_convention"] = "opengl"
        demo = data.create_group("demo_0")
        demo.attrs["num_samples"] = steps
        demo.attrs["model_file"] = model_file()
        demo["actions"] = np.column_stack([np.linspace(-1, 1, steps)] * 6 + [np.full(steps, -1.0)])
        demo["states"], demo["rewards"] = states, (np.arange(steps) == steps - 1).astype(np.uint8)
        demo["obs/agentview_rgb"], demo["obs/eye_in_hand_rgb"] = images, images
        demo["obs/ee_pos"] = np.tile([-0.1, 0.1, 1.1], (steps, 1))
        demo["obs/ee_ori"] = np.tile([np.pi, 0.0, 0.0], (steps, 1))
        demo["obs/joint_states"] = seen
        demo["obs/gripper_states"] = np.tile([0.02, -0.02], (steps, 1))
    return path


def write_droid(folder: Path, *, steps: int = 5, skipped: int = 1, videos: bool = True) -> Path:
    """An episode as DROID's data collector leaves it, with its videos as MP4."""
    (folder / "recordings" / "MP4").mkdir(parents=True)
    with h5py.File(folder / "trajectory.h5", "w") as file:
        file.attrs["current_task"], file.attrs["success"], file.attrs["failure"] = "move the cup", True, False
        velocity = np.zeros((steps, 6))
        velocity[:, 0], velocity[:, 5] = 0.5, 2.0  # longer than 1: shortened
        file["action/cartesian_velocity"] = velocity
        file["action/gripper_position"] = np.linspace(0.0, 1.0, steps)
        state = "observation/robot_state"
        file[f"{state}/cartesian_position"] = np.column_stack(
            [np.linspace(0.3, 0.4, steps), np.zeros((steps, 5))]
        )
        file[f"{state}/joint_positions"] = np.zeros((steps, 7))
        file[f"{state}/gripper_position"] = np.full(steps, 0.25)
        file["observation/timestamp/skip_action"] = np.arange(steps) < skipped
        file["observation/timestamp/control/step_start"] = 1_700_000_000_000 + 66 * np.arange(steps)
        file["observation/camera_type/111"], file["observation/camera_type/222"] = (
            np.zeros(steps),
            np.ones(steps),
        )
    for serial in ("111", "222") if videos else ():
        with VideoWriter(folder / "recordings" / "MP4" / f"{serial}.mp4", 60.0, "h264") as writer:
            for step in range(steps):
                writer.add(np.full((32, 32, 3), 40 * step, np.uint8))
    return folder


def write_aloha(path: Path) -> Path:
    """An episode as act's record_sim_episodes.py leaves it."""
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = True
        file["action"], file["observations/qpos"] = np.zeros((3, 14)), np.zeros((3, 14))
        file["observations/images/top"] = np.zeros((3, 4, 4, 3), np.uint8)
    return path
