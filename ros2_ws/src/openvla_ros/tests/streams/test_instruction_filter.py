"""An instruction on a latched topic counts once, and only if it was given while somebody listened."""

from openvla_ros.streams.instruction_filter import InstructionFilter

SECOND_NS = 1_000_000_000


def test_what_was_published_before_listening_began_does_not_count():
    inbox = InstructionFilter(100 * SECOND_NS)
    assert "2.0 s before" in inbox.objection(98 * SECOND_NS, 101 * SECOND_NS)
    assert "an unknown time before" in inbox.objection(0, 101 * SECOND_NS)
    assert inbox.objection(100 * SECOND_NS, 101 * SECOND_NS) == ""
    # A clock that is ahead makes what is old look new.
    assert "clock is 4.0 s ahead" in inbox.objection(105 * SECOND_NS, 101 * SECOND_NS)
    assert InstructionFilter(100 * SECOND_NS, resume=True).objection(98 * SECOND_NS, 101 * SECOND_NS) == ""


def test_a_message_counts_once_although_two_subscriptions_hear_it():
    inbox = InstructionFilter(100 * SECOND_NS)
    assert not inbox.is_repeat(101 * SECOND_NS)
    inbox.take(101 * SECOND_NS)
    assert inbox.is_repeat(101 * SECOND_NS)
    assert inbox.is_repeat(100 * SECOND_NS)  # a latched publisher that was lost and found again
    assert not inbox.is_repeat(102 * SECOND_NS)
    assert not inbox.is_repeat(0)
