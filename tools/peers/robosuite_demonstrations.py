"""Runs in robosuite's own environment: records demonstrations, and what its controller made of them.

``record FOLDER`` writes ``before.hdf5`` in robomimic's layout, ``after.hdf5`` with the observations of the
moment after each action, as LIBERO's script stores them, ``shaped.hdf5`` with shaped rewards, and
``truth.npz``: the tool's poses and the controller's goals in the base frame, as robosuite computed them.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import robosuite
import robosuite.utils.transform_utils as transforms
from robosuite.controllers import load_composite_controller_config

STEPS = 60
OPENS, CLOSES = -1.0, 1.0


def made(shaped: bool) -> tuple[object, dict]:
    """Return a Lift environment and the arguments that made it."""
    arguments = {
        "robots": "Panda",
        "controller_configs": load_composite_controller_config(robot="Panda"),
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "control_freq": 20,
        "reward_shaping": shaped,
    }
    return robosuite.make("Lift", **arguments, seed=1), arguments


def recorded(shaped: bool) -> dict:
    """Run a wandering motion; return everything of it by name."""
    env, arguments = made(shaped)
    seen, rng = [env.reset()], np.random.default_rng(0)
    model = env.sim.model.get_xml()
    arm = env.robots[0].part_controllers["right"]
    actions, states, rewards, goals, sites = [], [], [], [], []
    for step in range(STEPS):
        wander = np.array([0.3, 0.2, -0.2, 0.1, -0.1, 0.3]) * np.sin(step / 9) + rng.normal(0.0, 0.05, 6)
        action = np.append(wander, OPENS if step < STEPS // 2 else CLOSES)
        states.append(env.sim.get_state().flatten())
        arm.update(force=True)
        sites.append(arm.goal_origin_to_eef_pose())
        observation, reward, _, _ = env.step(action)
        goals.append(transforms.make_pose(arm.goal_pos, arm.goal_ori))
        for list_, value in ((seen, observation), (actions, action), (rewards, reward)):
            list_.append(value)
    return {
        "arguments": arguments, "model": model, "seen": seen, "actions": np.array(actions),
        "states": np.array(states), "rewards": np.array(rewards), "goals": np.array(goals),
        "sites": np.array(sites),
    }  # fmt: skip


def write(path: Path, run: dict, first: int) -> None:
    """Write ``run`` in robomimic's layout, each action beside observation ``first`` later."""
    observations = run["seen"][first : first + STEPS]
    environment = {"env_name": "Lift", "env_version": robosuite.__version__, "type": 1}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = STEPS
        data.attrs["env_args"] = json.dumps({**environment, "env_kwargs": run["arguments"]})
        demo = data.create_group("demo_0")
        demo.attrs["num_samples"], demo.attrs["model_file"] = STEPS, run["model"]
        for name in ("actions", "states", "rewards"):
            demo[name] = run[name]
        for name in observations[0]:
            if name.startswith("robot0_"):
                demo[f"obs/{name}"] = np.array([observation[name] for observation in observations])


def record(folder: Path) -> None:
    """Write the files."""
    run, shaped = recorded(shaped=False), recorded(shaped=True)
    write(folder / "before.hdf5", run, 0)
    write(folder / "after.hdf5", run, 1)
    write(folder / "shaped.hdf5", shaped, 0)
    np.savez(folder / "truth.npz", goals=run["goals"], sites=run["sites"], shaped=shaped["rewards"])


if __name__ == "__main__":
    record(Path(sys.argv[2]))
