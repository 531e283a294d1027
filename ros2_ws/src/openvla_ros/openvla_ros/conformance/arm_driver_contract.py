"""Conformance check for arm drivers (``openvla_ros.drivers.protocol.ArmDriver``).

Knows nothing of ROS: how to spin the driver's node is passed in. What arrives at the robot is not
checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from openvla_ros.conformance.contract import Contract, timed
from openvla_ros.drivers.protocol import ArmCommand, ArmDriver
from openvla_ros.errors import InvalidValueError
from openvla_ros.values.arrays import Float
from openvla_ros.values.time import seconds

MEMBERS = {"missing": True, "connect": True, "send": True, "delivered": True}
BLOCKING_S = 0.5  # a call that takes longer has blocked
RETRY_S = 0.1  # between two calls of ``connect``


def check_arm_driver(
    driver: ArmDriver,
    commands: Sequence[ArmCommand],
    *,
    wait: Callable[[float], object] = time.sleep,
    timeout_s: float = 20.0,
) -> None:
    """Check ``driver`` against its protocol, on a running robot or a stand-in for one.

    The commands are sent at their own rate, and MOVE THE ARM: begin and end at rest, within its limits.

    Args:
        driver: The driver to check.
        commands: At least 2, evenly spaced by ``period_s``; joints in radians, (J,) each.
        wait: Called with seconds; waits that long while the driver's node is served, such as
            ``lambda s: executor.spin_once(s)``. By default just sleeps.
        timeout_s: How long connecting and delivering may each take, seconds.

    Raises:
        ConformanceError: The first violation: what the contract says, what happened instead, and where
            the contract is written.
        InvalidValueError: Fewer than 2 commands, or they are not evenly spaced.
    """
    _check_commands(commands)
    contract = Contract(ArmDriver, type(driver).__name__)
    contract.check_members(driver, MEMBERS)
    _answer(contract, "missing", driver.missing)
    _connect(contract, driver, wait, timeout_s)
    _send_all(contract, driver, commands, wait)
    told, took_s = timed(lambda: contract.call("delivered", lambda: driver.delivered(timeout_s)))
    says = "it returns whether the robot has received the last command"
    contract.require(isinstance(told, bool), "delivered", says, repr(told))
    contract.require(told, "delivered", says, f"False after {timeout_s:g} s, with a running robot")
    contract.require(
        took_s <= timeout_s + BLOCKING_S, "delivered", "it waits no longer than timeout_s",
        f"{took_s:.2f} s for a timeout of {timeout_s:g} s",
    )  # fmt: skip


def _check_commands(commands: Sequence[ArmCommand]) -> None:
    if len(commands) < 2:
        raise InvalidValueError(f"{len(commands)} commands do not define a rate; give at least 2")
    for last, command in pairwise(commands):
        step_s = seconds(command.stamp_ns - last.stamp_ns)
        if abs(step_s - last.period_s) > 1e-3 * last.period_s:
            raise InvalidValueError(
                f"a command comes {step_s:g} s after one whose period is {last.period_s:g} s"
            )


def _answer(contract: Contract, member: str, ask: Callable[[], str | None]) -> str | None:
    """Return what is missing; the driver must answer at once, with text or None."""
    answer, took_s = timed(lambda: contract.call(member, ask))
    contract.require(
        answer is None or (isinstance(answer, str) and bool(answer.strip())),
        member, "it returns what is missing as text, or None", repr(answer),
    )  # fmt: skip
    contract.require(took_s <= BLOCKING_S, member, "it never blocks", f"it took {took_s:.2f} s")
    return answer


def _connect(
    contract: Contract, driver: ArmDriver, wait: Callable[[float], object], timeout_s: float
) -> None:
    deadline = time.monotonic() + timeout_s
    while (missing := _answer(contract, "connect", driver.connect)) is not None:
        contract.require(
            time.monotonic() < deadline, "connect", "it returns None once nothing is missing",
            f"after {timeout_s:g} s still {missing!r}",
        )  # fmt: skip
        wait(RETRY_S)
    still = _answer(contract, "missing", driver.missing)
    contract.require(still is None, "missing", "it returns None once connect has returned None", repr(still))


def _send_all(
    contract: Contract, driver: ArmDriver, commands: Sequence[ArmCommand], wait: Callable[[float], object]
) -> None:
    took: list[float] = []
    for command in commands:
        before = [part.copy() for part in _arrays(command)]
        told, seconds = timed(partial(contract.call, "send", partial(driver.send, command)))
        contract.require(told is None, "send", "it returns nothing", repr(told))
        unchanged = all(map(np.array_equal, before, _arrays(command)))
        contract.require(unchanged, "send", "it does not modify the command", "its arrays were written to")
        took.append(seconds)
        wait(max(0.0, command.period_s - seconds))
    # The median: other load on the machine is not the driver's fault.
    typical_s, period_s = float(np.median(took)), commands[0].period_s
    contract.require(
        typical_s <= period_s, "send", "it is called at the control rate, so it must take less than a period",
        f"{1e3 * typical_s:.1f} ms (median) for a period of {1e3 * period_s:g} ms",
    )  # fmt: skip


def _arrays(command: ArmCommand) -> tuple[Float, ...]:
    motion = command.motion
    return motion.position, motion.velocity, motion.acceleration, command.measured
