"""The time of a simulation: how far it has come, and which stamp each tick has."""

from __future__ import annotations

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from openvla_ros.ros import qos
from openvla_ros.ros.messages import NS_PER_S, to_stamp
from openvla_ros.sim.real_time_clock import LARGEST_DEBT_S

# The clock starts here: a time of 0 means "no clock yet" in ROS.
FIRST_STAMP_NS = NS_PER_S


class SimulationTime:
    """Counts ticks of ``period_s``; says what time it is, by ``/clock`` or by the node's own clock."""

    def __init__(self, node: Node, period_s: float, publish_clock: bool) -> None:
        """``publish_clock``: stamps are simulated time, which is published for the other nodes."""
        self._clock, self._period_s = node.get_clock(), period_s
        self._publisher = node.create_publisher(Clock, "/clock", qos.STREAM_OUT) if publish_clock else None
        self.elapsed_s = 0.0  # simulated, since the node started
        self._tick_ns = self.now_ns()  # the stamp of that moment, but for the jitter of this thread

    def now_ns(self) -> int:
        """Return the stamp of this moment."""
        if self._publisher is not None:
            return FIRST_STAMP_NS + round(self.elapsed_s * NS_PER_S)
        return int(self._clock.now().nanoseconds)

    def seconds_of(self, stamp_ns: int) -> float:
        """Return the simulated seconds at ``stamp_ns``."""
        return self.elapsed_s + (stamp_ns - self._tick_ns) / NS_PER_S

    def advance(self, real_time_factor: float) -> None:
        """Begin the next tick; ``real_time_factor`` is how fast ticks follow each other."""
        self.elapsed_s += self._period_s
        self._tick_ns = self._stamp_of_tick(real_time_factor)

    def publish(self, stamp_ns: int) -> None:
        """Publish ``stamp_ns`` on ``/clock``, if that is published."""
        if self._publisher is not None:
            self._publisher.publish(Clock(clock=to_stamp(stamp_ns)))

    def _stamp_of_tick(self, real_time_factor: float) -> int:
        """Return what the clock said when this tick was due: stamps must not jitter as this thread does.

        A clock that is published here is the simulation's own and knows no jitter.
        """
        now_ns = self.now_ns()
        if self._publisher is not None:
            return now_ns
        period_ns = round(self._period_s / real_time_factor * NS_PER_S)
        due_ns = self._tick_ns + period_ns
        late_ns = now_ns - due_ns
        if abs(late_ns) > LARGEST_DEBT_S * NS_PER_S:  # the pacer has given that up
            return now_ns
        if abs(late_ns) > period_ns / 2:
            return due_ns + (1 if late_ns > 0 else -1) * period_ns // 20
        return due_ns
