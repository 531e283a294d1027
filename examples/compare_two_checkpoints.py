"""Which of two checkpoints is better? Run both on the same scenes, count successes, give the uncertainty.

.venv/bin/python examples/compare_two_checkpoints.py [A B [NUMBER_OF_SCENES]]

A and B are checkpoints (folders or hub ids) for the simulated WidowX. By default the small model is compared
with doing nothing, on four scenes. That is few, and the intervals show it.
"""

import sys

import openvla_ros
from openvla_ros.evaluation.closed_loop import run_trials
from openvla_ros.evaluation.wilson import SuccessRate
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot

a, b = sys.argv[1:3] if len(sys.argv) > 2 else ("small_base", "hold")
scenes = range(200, 200 + (int(sys.argv[3]) if len(sys.argv) > 3 else 4))

profile = openvla_ros.load_profile("sim_widowx")
successes: dict[str, list[bool]] = {}
with SimulatedRobot(profile, find_task("reach")) as robot:
    for name in (a, b):
        policy = openvla_ros.load_policy(name, robot=profile)
        # The seed determines everything about a scene: colours, positions, words. Both policies get the same
        # scenes, none of which were trained on.
        trials = run_trials(policy, robot, scenes, max_steps=20)
        successes[name] = [trial.success for trial in trials]
        policy.close()

for name, flags in successes.items():
    # The 95% Wilson interval of the true success rate. It stays sensible even for 4 of 4.
    print(f"{name:>12}: {SuccessRate(sum(flags), len(flags))}")

# Paired comparison: only scenes that one solved and the other did not can tell them apart.
only_a = sum(x and not y for x, y in zip(successes[a], successes[b], strict=True))
only_b = sum(y and not x for x, y in zip(successes[a], successes[b], strict=True))
print(f"only {a}: {only_a} scenes, only {b}: {only_b}")
(low_a, high_a), (low_b, high_b) = (SuccessRate(sum(f), len(f)).interval() for f in successes.values())
apart = low_a > high_b or low_b > high_a
print("the intervals are apart" if apart else "the intervals overlap: more scenes are needed to tell")
