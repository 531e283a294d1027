#!/usr/bin/env bash
# vla-eval 0.8.0: the gripper sign that a benchmark declares (get_action_spec), which the runner compares with the
# model server's before a run, is not always what the benchmark's own code does with the number.
#   - CALVIN declares "binary_close_negative" in both of its modes; with absolute_action=True the number's sign is
#     turned over, with deltas it is passed on.
#   - ManiSkill2 declares "binary_close_negative" too; a server that says -1 (close) is passed on as 1, and one that
#     says 1 (open) as -1: the number is turned over, at a threshold of 0.5 instead of 0.
# So two programs that declare the same, and that the runner therefore lets pass, close where they should open. The
# sign has to be read from each benchmark's code.
#
# Seen on 2026-11-30:
#   calvin, deltas    declared binary_close_negative; told 1 -> 1, told -1 -> -1
#   calvin, absolute  declared binary_close_negative; told 1 -> -1, told -1 -> 1
#   maniskill2        declared binary_close_negative; told 1 -> -1, told 0.4 -> 1, told -1 -> 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'vla-eval==0.8.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import types

import numpy as np
from vla_eval.benchmarks.calvin.benchmark import CALVINBenchmark
from vla_eval.benchmarks.maniskill2.benchmark import ManiSkill2Benchmark
from vla_eval.recording import NullEpisodeRecorder


def action(gripper):
    return {"actions": np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, gripper])}


def show(name, benchmark, passed_on):
    declared = benchmark.get_action_spec()["gripper"].format
    said = ", ".join(f"told {told:g} -> {sent:g}" for told, sent in passed_on.items())
    print(f"{name:17} declared {declared}; {said}")
    return declared


deltas, absolute = CALVINBenchmark(absolute_action=False), CALVINBenchmark(absolute_action=True)
deltas._last_act = np.zeros(7)
with_deltas = {told: float(deltas._process_delta_action(action(told))[6]) for told in (1.0, -1.0)}
with_poses = {told: float(absolute._process_absolute_action(action(told))[6]) for told in (1.0, -1.0)}

# A simulator that only notes what it is told: the assets of the real one are not needed to see the number.
sent = []


def step(array):
    sent.append(float(np.asarray(array).flatten()[-1]))
    return {}, 0.0, False, False, {}


maniskill = ManiSkill2Benchmark()
maniskill._recorder = NullEpisodeRecorder()
maniskill._env = types.SimpleNamespace(step=step)
maniskill._render_goal_site = lambda _env: None
for told in (1.0, 0.4, -1.0):
    maniskill.step(action(told))
with_maniskill = dict(zip((1.0, 0.4, -1.0), sent, strict=True))

declared = {
    show("calvin, deltas", deltas, with_deltas),
    show("calvin, absolute", absolute, with_poses),
    show("maniskill2", maniskill, with_maniskill),
}
assert declared == {"binary_close_negative"}, f"the declarations have changed: {declared}"
assert with_deltas == {1.0: 1.0, -1.0: -1.0}, with_deltas
assert with_poses == {1.0: -1.0, -1.0: 1.0}, with_poses
assert with_maniskill == {1.0: -1.0, 0.4: 1.0, -1.0: 1.0}, with_maniskill
PYTHON
