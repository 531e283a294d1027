"""Runs in LeRobot's own environment, where the plug-in ``lerobot_policy_openvla`` is installed.

``actions IMAGES ANSWERS`` makes the policy with LeRobot's factory, and again from what it saved, and runs it
on recorded images. ``evaluate FOLDER FIRST COUNT`` runs ``lerobot-eval`` on our simulated arm, as a gymnasium
environment. ``refused`` reports what wrong set-ups are told.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.envs import EnvConfig
from lerobot.envs.utils import NEW_ROLLOUT_OPTION
from lerobot.policies.factory import make_policy, make_policy_config, make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.scripts import lerobot_eval
from lerobot.utils.import_utils import register_third_party_plugins

from openvla_ros.errors import OpenVLARosError
from openvla_ros.profile import load_profile
from openvla_ros.sim.rollout import ActionExecutor, observe
from openvla_ros.sim.tasks import MAX_STEPS, find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.time import nanoseconds

ROBOT, TASK, CHECKPOINT, CAMERA = "sim_widowx", "lift", "small_base", "observation.images.primary"
OUTCOMES: dict[int, list] = {}  # seed: whether the task was done, and the steps


class SimulatedArm(gymnasium.Env):
    """Our simulated robot, as LeRobot's evaluation takes environments."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    render_mode = "rgb_array"
    task = TASK
    _max_episode_steps = MAX_STEPS

    def __init__(self, **_unused: object) -> None:
        self._profile = load_profile(ROBOT)
        self._robot = SimulatedRobot(self._profile, find_task(TASK))
        self._seed, space = -1, self._profile.space()
        image = gymnasium.spaces.Box(0, 255, (224, 224, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"pixels": gymnasium.spaces.Dict({"primary": image})})
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (space.width,), np.float32)

    @property
    def task_description(self) -> str:
        """The words of the scene."""
        return self._robot.instruction

    def reset(self, *, seed=None, options=None):
        """Begin a scene; gymnasium's own reset after the end of an episode shows the old one."""
        if (options or {}).get(NEW_ROLLOUT_OPTION):
            self._seed = seed
            self._robot.reset(seed)
            self._executor, OUTCOMES[seed] = ActionExecutor(self._robot), [self._robot.success, 0]
        return self._seen(), {"is_success": self._robot.success}

    def step(self, action):
        """Execute one action within the controller's limits."""
        outcome = OUTCOMES[self._seed]
        if not outcome[0] and outcome[1] < MAX_STEPS:
            actions = np.asarray(action, np.float64)[None]
            chunk = ActionChunk(actions, nanoseconds(self._robot.time_s), self._profile.space())
            self._executor.execute(chunk)
            outcome[:] = [self._robot.success, outcome[1] + 1]
        return self._seen(), float(outcome[0]), outcome[0], False, {"is_success": outcome[0]}

    def render(self):
        """Return the camera's image."""
        return self._seen()["pixels"]["primary"]

    def close(self) -> None:
        """End the simulation."""
        self._robot.close()

    def _seen(self):
        seen = observe(self._robot, self._robot.instruction)
        return {"pixels": {"primary": np.array(seen.images["primary"])}}


@EnvConfig.register_subclass("openvla_sim")
@dataclass
class SimulatedArmConfig(EnvConfig):
    """The environment, as LeRobot's command line names it."""

    task: str | None = "SimulatedArm-v0"
    fps: int = 5
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            "action": PolicyFeature(FeatureType.ACTION, (7,)),
            "pixels/primary": PolicyFeature(FeatureType.VISUAL, (224, 224, 3)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {"action": "action", "pixels/primary": CAMERA}
    )

    @property
    def gym_kwargs(self) -> dict:
        """Nothing."""
        return {}


gymnasium.register("gym_openvla_sim/SimulatedArm-v0", SimulatedArm)


def actions(images: str, answers: str) -> None:
    """Save the policy's actions (T, D) for each image, made by LeRobot's factory and loaded from a folder."""
    register_third_party_plugins()
    config = make_policy_config("openvla", checkpoint=CHECKPOINT, robot=ROBOT, device="cpu")
    policy = make_policy(config, env_cfg=SimulatedArmConfig())
    before, after = make_pre_post_processors(config)
    folder = Path(answers).parent / "saved"
    for part in (policy, before, after):
        part.save_pretrained(folder)
    again = PreTrainedConfig.from_pretrained(folder)
    again.pretrained_path = folder
    loaded = make_policy(again, env_cfg=SimulatedArmConfig())
    recorded = np.load(images)
    found = {}
    for name, model, processors in (
        ("made", policy, (before, after)),
        ("loaded", loaded, make_pre_post_processors(again, str(folder))),
    ):
        model.reset()
        found[name] = np.stack([
            acted(model, processors, image, str(words))
            for image, words in zip(recorded["images"], recorded["words"], strict=True)
        ])  # fmt: skip
    frames = torch.from_numpy(recorded["images"]).permute(0, 3, 1, 2) / 255
    batch = before({CAMERA: frames, "task": [str(words) for words in recorded["words"]]})
    found["as one batch"] = after(policy.predict_action_chunk(batch)[:, 0]).numpy()
    np.savez(answers, **found)
    print(json.dumps(sorted(found)))


def acted(policy, processors, image, words) -> np.ndarray:
    """Return one action as LeRobot's inference on a robot computes it."""
    before, after = processors
    with torch.inference_mode():
        batch = prepare_observation_for_inference({CAMERA: image}, torch.device("cpu"), words)
        return after(policy.select_action(before(batch)))[0].numpy()


def evaluate(folder: str, first: str, count: str) -> None:
    """Run ``lerobot-eval``; the last line printed has its successes and our own count."""
    sys.argv = [
        "lerobot-eval",
        *("--policy.type=openvla", f"--policy.checkpoint={CHECKPOINT}", f"--policy.robot={ROBOT}"),
        *("--policy.device=cpu", "--env.type=openvla_sim", f"--eval.n_episodes={count}"),
        *("--eval.batch_size=1", f"--seed={first}", f"--output_dir={folder}"),
    ]
    lerobot_eval.main()
    info = json.loads((Path(folder) / "eval_info.json").read_text(encoding="utf-8"))
    successes = [bool(value) for value in info["per_task"][0]["metrics"]["successes"]]
    print(json.dumps({"successes": successes, "outcomes": OUTCOMES}))


def refused() -> None:
    """Print what LeRobot's users are told about wrong set-ups, as one line of JSON."""
    register_third_party_plugins()
    narrow = SimulatedArmConfig()
    narrow.features["action"] = PolicyFeature(FeatureType.ACTION, (6,))
    right = {"checkpoint": CHECKPOINT, "robot": ROBOT}
    said = {}
    for name, fields, environment in (
        ("no checkpoint", {"robot": ROBOT}, SimulatedArmConfig()),
        ("another robot", {**right, "robot": "franka_droid"}, SimulatedArmConfig()),
        ("no weights", {**right, "checkpoint": "hold"}, SimulatedArmConfig()),
        ("another width", right, narrow),
    ):
        try:
            make_policy(make_policy_config("openvla", device="cpu", **fields), env_cfg=environment)
            said[name] = "made"
        except OpenVLARosError as error:
            said[name] = f"{type(error).__name__}: {error}"
    policy = make_policy(make_policy_config("openvla", device="cpu", **right), env_cfg=SimulatedArmConfig())
    for name, batch in (
        ("no words", {CAMERA: torch.zeros(1, 3, 224, 224), "task": [""]}),
        ("a normalised image", {CAMERA: torch.full((1, 3, 224, 224), -0.5), "task": ["lift"]}),
        ("training", None),
    ):
        try:
            policy.select_action(batch) if batch else policy.forward({})
            said[name] = "acted"
        except OpenVLARosError as error:
            said[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(said))


if __name__ == "__main__":
    {"actions": actions, "evaluate": evaluate, "refused": refused}[sys.argv[1]](*sys.argv[2:])
