"""The controller's core without ROS: time, joint states and chunks in, joint commands and verdicts out.

.venv/bin/python examples/drive_the_controller.py

This code sits between every policy and the arm. It has no clock: each call gets the time as an argument,
so it behaves the same in a test, in simulation and on the robot.
"""

import dataclasses

import numpy as np

import openvla_ros
from openvla_ros import ActionChunk, ArmController

PERIOD_NS = 10_000_000  # 100 Hz

profile = openvla_ros.load_profile("sim_widowx")
space = profile.space()
controller = ArmController(profile)
joints = np.array(profile.arm.neutral)  # radians; this "arm" is always where it was last commanded to be
now_ns = 1_000_000_000


def act(x: float) -> ActionChunk:
    """Return one step of ``x`` metres along x, gripper open, computed from an observation made now."""
    return ActionChunk(np.array([[x, 0, 0, 0, 0, 0, space.gripper_open]]), now_ns, space)


def run(seconds: float) -> None:
    """Tick the controller for ``seconds``; the arm follows perfectly."""
    global joints, now_ns
    for _ in range(round(seconds * 1e9 / PERIOD_NS)):
        now_ns += PERIOD_NS
        controller.observe(joints, None, None, now_ns, now_ns)
        output = controller.tick(now_ns)
        if output.joint_positions is not None:  # None: nothing to command
            joints = output.joint_positions
    x = controller.chain.forward(joints).position[0]
    print(f"  after {seconds:g} s: {output.state}, tool at x = {x:.3f} m; {output.verdict}")


print("nothing has been asked for:")
run(0.1)

print(f"a step of 3 cm: {controller.accept(act(0.03), 'policy', now_ns)}")
run(0.3)

print("no further chunk arrives, so the arm comes to rest by itself:")
run(1.0)

# Every refusal is a value with a reason, and the arm stays where it is.
print(f"half a metre in one step: {controller.accept(act(0.5), 'policy', now_ns)}")
old = dataclasses.replace(act(0.03), observation_stamp_ns=now_ns - 2_000_000_000)
print(f"an old observation: {controller.accept(old, 'policy', now_ns)}")
print(f"from another source: {controller.accept(act(0.03), 'teleoperation', now_ns)}")

print(f"emergency stop: {controller.e_stop('the example')}")
print(f"a good chunk, but: {controller.accept(act(0.03), 'policy', now_ns)}")
run(0.5)

# The stop latches. Clearing it and giving the arm to an owner are two separate steps, on purpose.
controller.reset_e_stop()
controller.give_to("policy")
run(0.1)
print(f"again: {controller.accept(act(0.02), 'policy', now_ns)}")
run(0.5)
counted = {str(reason): count for reason, count in controller.tick(now_ns).counters.items()}
print(f"what was refused or limited: {counted}")
