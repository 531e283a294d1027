"""The QoS of every stream, defined once.

A publisher offers, a subscription requests; they match if the offer is at least as strong. So publishers
here are reliable (a recorder or RViz may request that), and subscriptions that want the newest value are
best effort with a queue of one: they match any driver, and nothing queues.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(reliability: ReliabilityPolicy, depth: int, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


# Images and states: offered reliable, requested best effort with the newest only. The depth is one second
# of a fast stream: a recorder's process may stall that long before a message is overwritten unsent.
STREAM_OUT = _profile(ReliabilityPolicy.RELIABLE, depth=100)
IMAGE_OUT = _profile(ReliabilityPolicy.RELIABLE, depth=30)
NEWEST_IN = _profile(ReliabilityPolicy.BEST_EFFORT, depth=1)
# Every message of a stream in order, as a recorder wants it; matches best-effort drivers too.
EVERY_IN = _profile(ReliabilityPolicy.BEST_EFFORT, depth=100)
# Commands: must arrive, in order.
COMMAND = _profile(ReliabilityPolicy.RELIABLE, depth=10)
# For late subscribers too: the instruction, camera info, the current verdict.
LATCHED = _profile(ReliabilityPolicy.RELIABLE, depth=1, latched=True)
# Latched by several publishers at once: the static frames of tf.
LATCHED_BY_MANY = _profile(ReliabilityPolicy.RELIABLE, depth=100, latched=True)
# Verdicts: every refusal in order, and the newest one for late subscribers.
VERDICT = _profile(ReliabilityPolicy.RELIABLE, depth=10, latched=True)
DIAGNOSTICS = _profile(ReliabilityPolicy.RELIABLE, depth=10)
