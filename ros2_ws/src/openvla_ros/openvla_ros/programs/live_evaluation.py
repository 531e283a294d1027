"""Success of a policy measured on the live path: real processes, topics and clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from openvla_ros.bringup.graph import Graph, GraphOptions
from openvla_ros.errors import DeviceError
from openvla_ros.evaluation.blinded import BlindedComparison
from openvla_ros.evaluation.evaluation_run import EXPERT, EvaluationRequest
from openvla_ros.evaluation.trials import Evaluation, Trial
from openvla_ros.programs.live_robot import LiveRobot
from openvla_ros.sim.tasks import MAX_STEPS, find_task


def live_options(request: EvaluationRequest, **changes: object) -> GraphOptions:
    """Return the processes that a live evaluation of ``request`` needs."""
    model = {"checkpoint": request.checkpoint, "device": request.device}
    if request.adapter is not None:
        model["adapter"] = str(request.adapter)
    if request.unnorm_key is not None:
        model["unnorm_key"] = request.unnorm_key
    is_expert = request.checkpoint == EXPERT
    options = GraphOptions(
        robot=request.robot,
        policy=EXPERT if is_expert else "openvla",
        policy_parameters={} if is_expert else model,
        simulation_parameters={"task": request.tasks[0]},
    )
    return replace(options, **changes)  # type: ignore[arg-type]


def run_live_trials(robot: LiveRobot, task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Yield one trial for each seed: the arm at neutral, a new scene, the words, the simulation's verdict."""
    limit_s = MAX_STEPS / robot.profile.action_space.rate_hz
    for seed in seeds:
        robot.go_to_neutral()
        instruction = robot.lay_table(task, seed)
        outcome = robot.operator.carry_out(instruction, limit_s)
        yield Trial(task, seed, instruction, outcome.succeeded, outcome.steps, outcome.duration_s)


def evaluate_live(request: EvaluationRequest, folder: Path, report: Callable[[Trial], None]) -> Evaluation:
    """Start the robot's processes and return the trials of every task and seed."""
    for task in request.tasks:
        find_task(task)
    trials: list[Trial] = []
    with LiveRobot(live_options(request), folder / "nodes.log") as robot:
        description = robot.policy_description()
        for task in request.tasks:
            for trial in run_live_trials(robot, task, request.seeds):
                trials.append(trial)
                report(trial)
    return Evaluation(description, tuple(trials))


def swap_adapter(robot: LiveRobot, adapter: str) -> str:
    """Have the running policy node take another adapter (empty: the base); return what it says."""
    robot.client.set_parameter("policy", "adapter", adapter)
    return robot.client.order("policy/reload_adapter")


def compare_on_robot(
    robot: str,
    comparison: BlindedComparison,
    instruction: Callable[[int], str],
    verdict: Callable[[str], bool],
    limit_s: float,
) -> None:
    """Run the trials that are left on a robot whose nodes are up.

    The operator gives the words and the verdict and is not told which policy acts. The policies are
    adapter folders of the running policy node; empty is the base.
    """
    options = GraphOptions(robot=robot)
    with LiveRobot(options, Path("compare.log"), graph=Graph("", (), {})) as live:
        while (policy := comparison.next_policy) is not None:
            words = instruction(len(comparison.verdicts))
            try:
                swap_adapter(live, policy)
            except DeviceError as error:
                raise DeviceError(f"a policy of this comparison cannot be loaded: {error}") from error
            outcome = live.operator.carry_out(words, limit_s)
            comparison.add(words, verdict(outcome.outcome))
