"""Our simulated robots and tasks as a benchmark of vla-eval: an episode is a scene of ``openvla evaluate``.

The actions go through the same controller as on a robot, with its limits and checks. vla-eval imports this
class by its name, and runs it without a container (``--no-docker``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import GRIPPER_01, IMAGE_RGB, LANGUAGE, POSITION_DELTA, ROTATION_EULER, DimSpec

from openvla_ros.errors import InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.protocols.state_vectors import StatePart, part_to_numbers
from openvla_ros.sim.rollout import ActionExecutor, observe
from openvla_ros.sim.tasks import MAX_STEPS, find_task
from openvla_ros.sim.world import SimulatedRobot
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.arrays import Float, float_array
from openvla_ros.values.observation import Observation
from openvla_ros.values.time import nanoseconds

SUITE = "openvla_ros"
STATE: tuple[StatePart, ...] = ("tool_euler", "gripper_open")
STATE_SPEC = DimSpec(
    "state", 7, "tool_pos3_euler3_gripper1",
    description="in the robot's base: metres, roll, pitch, yaw about fixed axes, 0 closed .. 1 open",
)  # fmt: skip
GRIPPER = DimSpec(
    "gripper", GRIPPER_01.dims, GRIPPER_01.format, GRIPPER_01.range, description="0 closed .. 1 open"
)
WIDTH = 7


class SimulatedRobotBenchmark(StepBenchmark):
    """A simulated robot with tasks on its table; episode i of a task is the scene of seed ``first_seed`` + i.

    Actions are seven numbers: the motion of the tool in metres and Euler angles (roll, pitch, yaw about the
    fixed axes of the robot's base), relative to the target before, and the gripper, 0 closed .. 1 open.
    """

    _ALL_RECORD_FIELDS = frozenset({"reward", "done", "success", "action", "verdict"})
    render_backends = frozenset({"gpu", "cpu"})

    @classmethod
    def configure_render(cls, mode: str) -> dict[str, str]:
        """Change nothing: MUJOCO_GL, or else the best renderer that works here, decides."""
        del mode
        return {}

    def __init__(
        self,
        robot: str = "sim_widowx",
        tasks: Sequence[str] = ("lift",),
        first_seed: int = 100,
        max_steps: int = MAX_STEPS,
        send_state: bool = False,
    ) -> None:
        """Read the profile; nothing is simulated yet.

        Args:
            robot: A profile with a simulation: a name or a YAML file.
            tasks: Names of tasks, such as lift, put, reach and push.
            first_seed: Of each task's first episode; those up to 99 are the demonstrations'.
            max_steps: Actions in an episode.
            send_state: Whether observations have ``states``, the tool's pose and the gripper's opening.

        Raises:
            ProfileError: There is no such robot.
            InvalidValueError: There is no such task, or the robot takes other actions than tool deltas.
        """
        super().__init__()
        self._profile = load_profile(robot)
        self._space = self._profile.space()
        self._space.check_kind("tool_delta", f"the benchmark on robot {self._profile.name}")
        if self._space.frame != "base" or self._space.rotation != "euler_xyz":
            raise InvalidValueError(
                f"robot {self._profile.name} moves in the frame {self._space.frame!r} with rotations as "
                f"{self._space.rotation!r}; the benchmark has base and euler_xyz"
            )
        if isinstance(tasks, str) or not tasks:
            raise InvalidValueError(f"tasks is {tasks!r}; it must be a list of names, such as [lift]")
        if max_steps < 1 or first_seed < 0:
            raise InvalidValueError(
                f"max_steps is {max_steps} and first_seed {first_seed}; they must be at least 1 and 0"
            )
        self._tasks = [find_task(name) for name in tasks]
        self._first_seed, self._max_steps, self._send_state = first_seed, max_steps, send_state
        self._robot: SimulatedRobot | None = None
        self._executor: ActionExecutor | None = None
        self._refused = 0

    def get_tasks(self) -> list[dict[str, Any]]:
        """Return the tasks by name."""
        return [{"name": task.name, "suite": SUITE} for task in self._tasks]

    def reset(self, task: dict[str, Any]) -> Observation:
        """Begin the scene of the task's episode."""
        wanted = find_task(task["name"])
        if self._robot is None or self._robot.task is not wanted:
            self.cleanup()
            self._robot = SimulatedRobot(self._profile, wanted)
        self._robot.reset(self._first_seed + int(task.get("episode_idx", 0)))
        self._executor, self._refused = ActionExecutor(self._robot), 0
        seen = self._seen()
        self._recorder.record_video(self._frame(seen))
        return seen

    def step(self, action: dict[str, Any]) -> StepResult:
        """Execute one action within the controller's limits.

        Raises ``InvalidValueError`` if it is not seven finite numbers. An action that the controller refuses
        moves nothing, and is counted.
        """
        robot, executor = self._running()
        numbers = self._numbers(action)
        chunk = ActionChunk(numbers[None], nanoseconds(robot.time_s), self._space)
        verdict = executor.execute(chunk)
        self._refused += not verdict.commands
        seen, success = self._seen(), bool(robot.success)
        self._recorder.record_video(self._frame(seen))
        self._recorder.record_step(
            reward=float(success), done=success, success=success, action=numbers, verdict=str(verdict)
        )
        return StepResult(seen, float(success), success, {"success": success})

    def make_obs(self, raw_obs: Observation, task: dict[str, Any]) -> dict[str, Any]:
        """Return the cameras' images, the words and, if asked for, the state."""
        del task
        found: dict[str, Any] = {
            "images": {name: np.array(image) for name, image in raw_obs.images.items()},
            "task_description": raw_obs.instruction,
        }
        if self._send_state:
            parts = [part_to_numbers(part, raw_obs, self._profile) for part in STATE]
            found["states"] = np.concatenate(parts)
        return found

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        """Return whether the task is done, and how many actions were refused."""
        return {"success": bool(step_result.info.get("success", False)), "refused": self._refused}

    def get_metric_keys(self) -> dict[str, str]:
        """Return how the results of episodes are put together."""
        return {"success": "mean", "refused": "sum"}

    def get_hold_action(self, last_action: dict[str, Any] | None) -> dict[str, Any]:
        """Return an action that moves nothing; the gripper stays as it was last told, at first open."""
        gripper = 1.0 if last_action is None else self._given(last_action)[-1]
        return {"actions": np.array([0.0] * (WIDTH - 1) + [gripper])}

    def get_metadata(self) -> dict[str, Any]:
        """Return the limit of an episode, and what is simulated."""
        return {
            "max_steps": self._max_steps,
            "robot": self._profile.name,
            "rate_hz": self._space.rate_hz,
            "first_seed": self._first_seed,
        }

    def get_action_spec(self) -> dict[str, DimSpec]:
        """Return what an action is."""
        return {"position": POSITION_DELTA, "rotation": ROTATION_EULER, "gripper": GRIPPER}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """Return what is seen."""
        seen = {camera.name: IMAGE_RGB for camera in self._profile.cameras}
        return {**seen, "language": LANGUAGE, **({"state": STATE_SPEC} if self._send_state else {})}

    def render(self) -> np.ndarray | None:
        """Return the first camera's image, or nothing before the first episode."""
        return None if self._robot is None else self._frame(self._seen())

    def cleanup(self) -> None:
        """End the simulation."""
        if self._robot is not None:
            self._robot.close()
        self._robot = self._executor = None

    def _running(self) -> tuple[SimulatedRobot, ActionExecutor]:
        if self._robot is None or self._executor is None:
            raise InvalidValueError("no episode has begun")
        return self._robot, self._executor

    def _seen(self) -> Observation:
        robot, _ = self._running()
        return observe(robot, robot.instruction)

    def _frame(self, seen: Observation) -> np.ndarray:
        return np.array(seen.images[self._profile.cameras[0].name])

    def _given(self, action: dict[str, Any]) -> Float:
        given = action.get("actions", action.get("action"))
        if given is None:
            raise InvalidValueError(f"an answer without 'actions'; it has {', '.join(action) or 'nothing'}")
        return float_array("actions", given, (WIDTH,))

    def _numbers(self, action: dict[str, Any]) -> Float:
        """Return the action in the robot's space, whose gripper may count the other way."""
        numbers = np.array(self._given(action))
        if self._space.gripper_open == 0.0:
            numbers[-1] = 1.0 - numbers[-1]
        return numbers
