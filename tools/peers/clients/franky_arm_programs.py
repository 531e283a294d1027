"""An arm for the franky node: franky-sim, what it lacks of a real arm, and a checker at its end.

Runs in an environment with franky-sim, without this project. franky-sim speaks libfranka's protocol, and
never stops by itself. Added here, as a real arm does it: a reflex on request, and one when commands stop
coming in the middle of torque control; both end the motion, are reported in the state, and last until error
recovery.

    franky_arm_programs.py ADDRESS LIMITS

LIMITS is JSON: ``lower`` and ``upper`` joint limits. Each line of the standard input is a request,
``reflex``, ``mark`` or ``report``, answered by one line of JSON.
"""

import contextlib
import json
import math
import os
import sys
import threading
import time

import numpy as np
from franky_sim import SimulationServer
from franky_sim.franka_robot_protocol import (
    AutomaticErrorRecoveryCommand,
    AutomaticErrorRecoveryStatus,
    MoveStatus,
    RobotCommand,
    RobotMode,
    UDPCommand,
)
from franky_sim.franka_server import BaseCommand
from franky_sim.mujoco_simulator import MujocoSimulator

# The real arm gives up after 20 ms; here the kernel is no real-time one, and others use the cores.
SILENCE_S = 1.0
# Indices in libfranka's list of errors.
CARTESIAN_REFLEX, COMMUNICATION_CONSTRAINTS = 7, 31
MOST_NM = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
MOST_NM_PER_CYCLE = 1.0
ROOM = 1e-6
STANDS_RAD_S = 0.02
# The FR3's velocity limits: min(most, max(0, sqrt(slope (end - q)) - offset)), from its data sheet.
MOST = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
SLOPE = (12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0)
OFFSET = (0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35)
UPPER = (2.75010, 1.79180, 2.90650, -0.1458, 2.81010, 4.52050, 3.01960)
LOWER = (-2.75010, -1.79180, -2.90650, -3.04810, -2.81010, 0.54092, -3.01960)


class Checker:
    """Looks at every millisecond of the simulated arm, and at every command that reaches it."""

    def __init__(self, lower, upper):
        self.lower, self.upper = lower, upper
        self.cycles = 0
        self.torque = None
        self.q = self.dq = np.zeros(7)
        self.still_since = 0
        self.counts = {}
        self.worst = dict.fromkeys(("velocity", "position", "torque", "torque_rate"), 0.0)
        self.mark()

    def mark(self):
        """Count distance and speed from here."""
        self.marked, self.farthest, self.fastest = self.q, 0.0, 0.0

    def note(self, kind, share):
        """Note a share of a limit; above 1 is a violation."""
        self.worst[kind] = max(self.worst[kind], share)
        if share > 1.0:
            self.counts[kind] = self.counts.get(kind, 0) + 1

    def moved(self, q, dq):
        """Look at a millisecond of motion."""
        self.cycles += 1
        self.q, self.dq = np.array(q), np.array(dq)
        for i in range(7):
            end = UPPER[i] - q[i] if dq[i] > 0.0 else q[i] - LOWER[i]
            limit = min(MOST[i], max(0.0, math.sqrt(max(0.0, SLOPE[i] * end)) - OFFSET[i]))
            self.note("velocity", abs(dq[i]) / (limit + 0.01))
            middle, half = 0.5 * (self.upper[i] + self.lower[i]), 0.5 * (self.upper[i] - self.lower[i])
            self.note("position", abs(q[i] - middle) / (half + 0.01))
        speed = float(np.abs(self.dq).max())
        self.fastest = max(self.fastest, speed)
        self.farthest = max(self.farthest, float(np.abs(self.q - self.marked).max()))
        if speed > STANDS_RAD_S:
            self.still_since = self.cycles

    def commanded(self, torque):
        """Look at a command."""
        torque = np.array(torque)
        self.note("torque", float((np.abs(torque) / MOST_NM).max()))
        if self.torque is not None:
            self.note("torque_rate", float(np.abs(torque - self.torque).max()) / (MOST_NM_PER_CYCLE + ROOM))
        self.torque = torque


class Arm:
    """The simulated arm with its server, and what is added to them."""

    def __init__(self, address, limits):
        self.checker = Checker(limits["lower"], limits["upper"])
        self.simulation = MujocoSimulator()
        self.simulation.init()
        self.robot = self.simulation.add_robot()
        self.checker.q = np.array(self.robot.initial_q)
        self.checker.mark()
        self.server = SimulationServer(self.simulation, hostname_candidates=[address])
        self.server.init()
        self.error = None
        self.wanted = None
        self.heard_s = time.monotonic()
        self.reflexes = {}
        self.recoveries = 0
        self.motions = 0
        self.gripper = []
        self.spread(self.server.robot_servers[0])

    def spread(self, server):
        """Put our own functions in front of the server's."""
        self.front = server
        state, command, start = server._get_state_bytes, server._handle_udp_command, server.start_motion
        grasp, move = server.gripper_server.start_grasp, server.gripper_server.start_move

        def reported():
            if self.error is None:
                return state()
            errors = tuple(i == self.error for i in range(41))
            changed = {"robot_mode": RobotMode.kReflex, "errors": errors, "reflex_reason": errors}
            return server.robot_state.replace(**changed).pack_state()

        def heard(data):
            self.heard_s = time.monotonic()
            if self.error is None:
                sent = UDPCommand.from_bytes(data)
                if sent.message_id > 0 and not sent.torque_command_finished:
                    self.checker.commanded(sent.tau_J_d)
                command(data)

        def started(*arguments):
            if self.error is not None:
                raise RuntimeError("in reflex")
            self.motions += 1
            self.checker.torque = None
            self.heard_s = time.monotonic()
            start(*arguments)

        def moved(width, speed, *rest):
            self.gripper.append(["move", width, speed])
            move(width, speed, *rest)

        def grasped(width, speed, force, *rest):
            self.gripper.append(["grasp", width, speed, force])
            grasp(width, speed, force, *rest)

        server._get_state_bytes, server._handle_udp_command, server.start_motion = reported, heard, started
        server.gripper_server.start_move, server.gripper_server.start_grasp = moved, grasped

        def recover(this, _server):
            self.error = None
            self.recoveries += 1
            this.reply(AutomaticErrorRecoveryStatus.kSuccess)

        AutomaticErrorRecoveryCommand.handle = recover

    def reflex(self, error):
        """End the motion as a reflex does."""
        server, name = self.front, "collision" if error == CARTESIAN_REFLEX else "silence"
        self.error = error
        self.reflexes[name] = self.reflexes.get(name, 0) + 1
        motion = server.current_motion_id
        server.stop_motion(send_preemption_signal=False)
        server.reset_current_motion_id()
        if motion:
            BaseCommand.send_response(
                server._tcp_socket, RobotCommand.kMove, motion, MoveStatus.kReflexAborted
            )

    def run(self):
        """Simulate in real time, catching up where the machine was busy."""
        due_s = time.monotonic()
        while True:
            self.server.run_once(realtime=False)
            state = self.robot.inner_state
            self.checker.moved(state.q, state.dq)
            if self.wanted is not None:
                error, self.wanted = self.wanted, None
                self.reflex(error)
            silent = time.monotonic() - self.heard_s > SILENCE_S
            if silent and self.front.current_motion_id and self.front.tcp_connected:
                self.reflex(COMMUNICATION_CONSTRAINTS)
            due_s += 0.001
            left_s = due_s - time.monotonic()
            if left_s > 0.0:
                time.sleep(left_s)
            elif left_s < -0.1:
                due_s = time.monotonic()

    def report(self):
        """Return what was seen so far."""
        c = self.checker
        return {
            "q": c.q.tolist(), "speed": float(np.abs(c.dq).max()), "cycles": c.cycles,
            "still_s": (c.cycles - c.still_since) * 1e-3, "farthest_rad": c.farthest, "fastest": c.fastest,
            "violations": dict(c.counts), "worst": dict(c.worst), "width_m": self.robot.hand_width,
            "gripper": list(self.gripper), "motions": self.motions, "reflexes": dict(self.reflexes),
            "recoveries": self.recoveries, "in_control": bool(self.front.current_motion_id),
            "error": self.error,
        }  # fmt: skip


def main():
    """Simulate, and answer."""
    arm = Arm(sys.argv[1], json.loads(sys.argv[2]))
    with contextlib.suppress(PermissionError):
        os.nice(-15)  # a real arm has a computer to itself
    threading.Thread(target=arm.run, daemon=True).start()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        answer = "done"
        match line.strip():
            case "reflex":
                arm.wanted = CARTESIAN_REFLEX
            case "mark":
                arm.checker.mark()
            case _:
                answer = arm.report()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
