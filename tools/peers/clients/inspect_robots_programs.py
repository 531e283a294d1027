"""Runs in inspect-robots' own environment: its evaluation of our served policy on our simulated robot.

``evaluate KIND PORT SEEDS FOLDER``: inspect-robots' ``eval`` with inspect-robots-widowx's policy KIND
(openvla or openpi) and its WidowX embodiment, whose robot server is the simulation. ``compatible`` reports
its preflight.
"""

import sys

import numpy as np
from inspect_robots import Scene, StepResult, Task, eval, success_at_end
from inspect_robots_widowx import (
    OpenpiConfig,
    OpenpiPolicy,
    OpenVLAConfig,
    OpenVLAPolicy,
    WidowXConfig,
    WidowXEmbodiment,
    run_preflight,
)
from inspect_robots_widowx.embodiment import Status
from piped_robot import PipedRobot, Seen, seeds

MAX_STEPS = 60


class RobotServer:
    """The client of BridgeData's robot server, with the simulation as the robot."""

    def __init__(self, robot: PipedRobot) -> None:
        self.robot, self.seed = robot, 0
        self.seen: Seen | None = None

    def init(self, env_params: dict) -> Status:
        """Accept any parameters: the simulation has its own."""
        return Status.SUCCESS

    def reset(self) -> Status:
        """Begin with the scene of ``seed``."""
        self.seen = self.robot.reset(self.seed)
        return Status.SUCCESS

    def step_action(self, action: np.ndarray, blocking: bool) -> Status:
        """Execute one action."""
        self.seen = self.robot.step(action)
        return Status.SUCCESS

    def get_observation(self) -> dict:
        """Return what the robot sees."""
        return {"full_image": self.seen.image, "state": self.seen.state}

    def stop(self) -> None:
        """Leave."""


class SimulatedWidowX(WidowXEmbodiment):
    """The embodiment, told which scene comes, and told when the task is done."""

    def __init__(self, server: RobotServer) -> None:
        config = WidowXConfig(unattended=True, move_to_start=False)
        super().__init__(config, client_factory=lambda _: server, sleep_fn=lambda _: None)
        self.server = server

    def reset(self, scene: Scene, *, seed: int | None = None) -> object:
        """Begin with the scene whose id is the seed."""
        self.server.seed = int(scene.id)
        return super().reset(scene, seed=seed)

    def step(self, action: object) -> StepResult:
        """Execute one action; the simulation says when the task is done."""
        result = super().step(action)
        if not self.server.seen.success:
            return result
        return StepResult(result.observation, terminated=True, termination_reason="success")


def evaluate(kind: str, port: str, which: str, folder: str) -> None:
    """Run the evaluation and report its own scores by seed."""
    robot = PipedRobot()
    if kind == "openvla":
        # The images as they are: the robot's are of 224 pixels, and the served model was not trained on JPEG.
        config = OpenVLAConfig(
            server_url=f"http://127.0.0.1:{port}",
            unnorm_key="sim_widowx",
            resize_px=224,
            jpeg_roundtrip=False,
        )
        policy = OpenVLAPolicy(config)
    else:
        policy = OpenpiPolicy(OpenpiConfig(port=int(port), action_horizon=1, replan_interval=1))
    scenes = [Scene(str(seed), robot.reset(seed).instruction) for seed in seeds(which)]
    task = Task("lift", scenes, success_at_end(), max_steps=MAX_STEPS)
    (log,) = eval(task, policy, SimulatedWidowX(RobotServer(robot)), log_dir=folder)
    scored = {int(scene.scene_id): next(iter(scene.reduced.values())) for scene in log.samples}
    robot.report({"status": log.status, "scored": scored})


def compatible() -> None:
    """Report what the preflight of inspect-robots-widowx says."""
    robot, report = PipedRobot(), run_preflight()
    robot.report({"ok": report.ok, "errors": [issue.message for issue in report.errors]})


if __name__ == "__main__":
    {"evaluate": evaluate, "compatible": compatible}[sys.argv[1]](*sys.argv[2:])
