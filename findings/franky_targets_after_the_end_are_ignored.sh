#!/usr/bin/env bash
# franky-control 2.0.0 (libfranka 0.21.2) on franky-sim 1.0.4:
# - A JointImpedanceTracker that has ended takes further targets without an error and without an effect: a program
#   that goes on streaming does not notice that its arm stands still. ``is_running`` is the only sign.
# - The joint velocity limits are those of the older arm, 2.175 and 2.61 rad/s, and also the most that can be set:
#   the FR3's (2.62 to 5.26 rad/s, less towards its joint limits) have to be kept by the program itself.
#
# Seen on 2026-11-30:
#   after the end: 50 targets 0.05 rad away, no error, running False, the arm moved 0.0000 rad
#   limits [2.175 2.175 2.175 2.175 2.61  2.61  2.61 ]
#   setting the FR3's: joint_velocity limit at index 0(2.62) cannot be greater than the maximum value (2.175).
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${simulator:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check franky-control==2.0.0 franky-sim==1.0.4
"$folder/venv/bin/franky-sim" --simulator mujoco --hostname 127.0.71.1 > "$folder/simulator.log" &
simulator=$!
"$folder/venv/bin/python" - <<'PYTHON'
import time

import franky
import numpy as np

for _ in range(60):
    try:
        robot = franky.Robot("127.0.71.1", realtime_config=franky.RealtimeConfig.Ignore)
        break
    except franky.NetworkException:
        time.sleep(0.5)
tracker = franky.JointImpedanceTracker(robot, stiffness=np.full(7, 300.0))
time.sleep(0.5)
tracker.stop()
time.sleep(0.5)
before = np.array(robot.state.q)
for _ in range(50):
    tracker.set_target(before + 0.05)
    time.sleep(0.01)
moved = np.abs(np.array(robot.state.q) - before).max()
print(f"after the end: 50 targets 0.05 rad away, no error, running {tracker.is_running}, the arm moved {moved:.4f} rad")
print("limits", robot.joint_velocity_limit.get())
refused = ""
try:
    robot.joint_velocity_limit.set([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
except RuntimeError as error:
    refused = str(error)
print("setting the FR3's:", refused)
assert moved < 0.01, "the behaviour has changed: the target is followed"
assert "cannot be greater" in refused, "the behaviour has changed: the limits can be raised"
PYTHON
