"""From recorded messages to steps: which action was commanded at which moment.

A step's stamp is the stamp of its action chunk; ``streams.sampling`` decides what was observed then,
live and recorded alike. Pure functions of arrays; knows nothing of files or messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from openvla_ros.errors import DatasetError
from openvla_ros.robot.kinematics.delta_actions import delta_between
from openvla_ros.streams.sampling import OVERTAKEN_NS
from openvla_ros.values.action import ActionChunk, ActionSpace
from openvla_ros.values.arrays import Bool, Float, Int
from openvla_ros.values.geometry import Pose
from openvla_ros.values.time import NS_PER_S, nanoseconds, seconds

# A person's chunk counts as "has the arm" for this many steps if the controller reported no owner.
TAKEOVER_STEPS = 2.5


@dataclass(frozen=True, eq=False)
class Steps:
    """When each step began, what was commanded then, and whether a person commanded it."""

    stamps_ns: Int  # (T,) rising
    actions: Float  # (T, D)
    intervention: Bool  # (T,)

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def keep(self, mask: Bool) -> Steps:
        """Return the steps where ``mask`` (T,) is true."""
        return Steps(self.stamps_ns[mask], self.actions[mask], self.intervention[mask])


@dataclass(frozen=True, eq=False)
class RecordedChunk:
    """A chunk that was published, by a policy or by a person."""

    chunk: ActionChunk
    by_person: bool
    received_ns: int

    @property
    def stamp_ns(self) -> int:
        """The observation's stamp."""
        return self.chunk.observation_stamp_ns


@dataclass(frozen=True, eq=False)
class OwnerChange:
    """From ``received_ns`` on the controller obeys a person, or the policy."""

    received_ns: int
    person: bool


def executed(
    chunks: Sequence[RecordedChunk],
    owners: Sequence[OwnerChange],
    refused: frozenset[tuple[bool, int]] = frozenset(),
) -> list[RecordedChunk]:
    """Return the chunks that the controller accepted, by stamp, each stamp once.

    ``refused`` contains (by a person, stamp) of those that it refused. A policy's chunk also counts as
    refused while a person had the arm, according to ``owners``; if the controller did not report owners,
    a person's chunk blocks a policy's for ``TAKEOVER_STEPS`` steps.
    """
    people = np.array(sorted(item.received_ns for item in chunks if item.by_person), dtype=np.int64)
    taken: list[RecordedChunk] = []
    for item in sorted(chunks, key=lambda item: item.stamp_ns):
        if (item.by_person, item.stamp_ns) in refused:
            continue
        if not item.by_person and person_has_the_arm(item, owners, people):
            continue
        if not taken or item.stamp_ns > taken[-1].stamp_ns:
            taken.append(item)
    return taken


def person_has_the_arm(item: RecordedChunk, owners: Sequence[OwnerChange], people: Int) -> bool:
    """Whether a person had the arm when ``item`` arrived; ``people``: when their chunks arrived (N,)."""
    known = [change.person for change in owners if change.received_ns <= item.received_ns]
    if known:
        return known[-1]
    newest = int(newest_before(people, np.array([item.received_ns]))[0])
    window = TAKEOVER_STEPS * item.chunk.space.step_s * NS_PER_S
    return newest >= 0 and item.received_ns - int(people[newest]) <= window


def commanded_steps(taken: Sequence[RecordedChunk], has_policy: bool) -> Steps:
    """Return the executed steps of each chunk, up to where the next chunk replaced it.

    A person's steps are interventions where a policy was at work in the same recording. Raises
    ``DatasetError`` if there is no chunk.
    """
    if not taken:
        raise DatasetError("no action chunk was executed, so there are no commanded actions to learn from")
    space = taken[0].chunk.space
    step_ns = nanoseconds(space.step_s)
    stamps: list[int] = []
    actions: list[Float] = []
    people: list[bool] = []
    for item, following in zip(taken, [*taken[1:], None], strict=True):
        count = len(item.chunk)
        if following is not None:
            until = (following.stamp_ns - item.stamp_ns) / step_ns
            count = min(count, max(1, round(until)))
        for k in range(count):
            stamp = item.stamp_ns + k * step_ns
            if following is not None and k and stamp >= following.stamp_ns:
                break
            stamps.append(stamp)
            actions.append(item.chunk.actions[k])
            people.append(item.by_person)
    return Steps(np.array(stamps, np.int64), np.array(actions), np.array(people, bool) & has_policy)


def target_steps(
    stamps_ns: Int, targets: Sequence[Pose], openings: Float, space: ActionSpace, person: Bool
) -> Steps:
    """Return steps on a regular grid whose actions are the differences of commanded targets.

    ``targets``, ``openings`` (gripper 0 closed .. 1 open) and ``person`` are the values at ``stamps_ns``
    (T+1,); the last grid point only ends the last step.
    """
    deltas = [delta_between(a, b, space) for a, b in pairwise(targets)]
    gripper = openings[1:] if space.gripper_open == 1.0 else 1.0 - openings[1:]
    actions = np.concatenate([np.array(deltas).reshape(-1, 6), gripper[:, None]], axis=1)
    return Steps(stamps_ns[:-1], actions, person[:-1])


def measured_steps(
    stamps_ns: Int, poses: Sequence[Pose], openings: Float, fresh: Bool, space: ActionSpace
) -> tuple[Steps, Int]:
    """Return steps on a regular grid whose actions are what the arm did, and those left out (K,).

    ``poses``, ``openings`` (measured, 0 closed .. 1 open) and ``fresh`` (whether that state was young enough)
    are those at ``stamps_ns`` (T+1,). A step needs a fresh state at both ends: across a gap its
    difference would be of another duration.
    """
    nobody = np.zeros(len(stamps_ns), bool)
    steps = target_steps(stamps_ns, poses, openings, space, nobody)
    whole = fresh[:-1] & fresh[1:]
    return steps.keep(whole), steps.stamps_ns[~whole]


def grid(first_ns: int, last_ns: int, rate_hz: float) -> Int:
    """Return the stamps (N,) from ``first_ns`` to at most ``last_ns``, ``rate_hz`` a second."""
    count = int(seconds(last_ns - first_ns) * rate_hz) + 1
    return first_ns + np.round(np.arange(max(count, 0)) * (NS_PER_S / rate_hz)).astype(np.int64)


def newest_before(stamps_ns: Int, at_ns: Int) -> Int:
    """Return for each of ``at_ns`` (T,) the index of the newest of rising ``stamps_ns``; -1 for none."""
    found: Int = np.searchsorted(stamps_ns, at_ns, side="right").astype(np.int64) - 1
    return found


def in_order(stamps_ns: Int, name: str) -> Int:
    """Return the indices (N,) that sort stamps given in order of arrival; stable for equal stamps.

    Raises ``DatasetError`` if stamps go back further than messages can overtake each other: the clock was
    set, so the messages before and after cannot be put in order.
    """
    if len(stamps_ns):
        back = np.maximum.accumulate(stamps_ns) - stamps_ns
        if back.max() > OVERTAKEN_NS:
            where = int(np.argmax(back > OVERTAKEN_NS))
            back_s = seconds(int(back[where]))
            raise DatasetError(
                f"{name}: the clock went back by {back_s:.1f} s at message {where}; steps cannot "
                "be put in order across that"
            )
    order: Int = np.argsort(stamps_ns, kind="stable")
    return order
