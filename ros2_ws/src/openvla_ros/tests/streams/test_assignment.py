"""An instruction ends once, for the reason that came first, and says it."""

from openvla_ros.streams.assignment import Assignment, Outcome, StepReport
from openvla_ros.streams.buffer import Refusal

STEP = StepReport(1, 0.01, 0.02, "ok", "")
STALE = Refusal("stale_image", "camera 'primary': 3.000 s old")


def make(**options):
    heard, endings = [], []
    assignment = Assignment("lift the cube", 100.0, report=heard.append, ended=endings.append, **options)
    return assignment, heard, endings


def test_without_limits_it_goes_on_for_ever():
    assignment, _, endings = make()
    assignment.refused(STALE)
    assert assignment.overdue(1e9) is None
    assert not endings


def test_the_time_limit_ends_it_and_tells_the_last_refusal():
    assignment, _, _ = make(time_limit_s=10.0, give_up_s=50.0)
    assert assignment.overdue(109.9) is None
    assert assignment.overdue(110.0) == (Outcome.TIME_LIMIT, "the time limit of 10 s was reached")
    assignment.refused(STALE)
    assert "last refusal: stale_image" in assignment.overdue(110.0)[1]


def test_it_gives_up_when_nothing_was_possible_refused_before_and_aborted_after_the_first_step():
    assignment, heard, _ = make(give_up_s=5.0)
    assignment.refused(STALE)
    assert (heard[-1].verdict, heard[-1].step) == ("stale_image", 0)
    assert assignment.overdue(104.9) is None
    outcome, words = assignment.overdue(105.0)
    assert outcome is Outcome.REFUSED
    assert "5.0 s: stale_image: camera 'primary'" in words
    assignment.steps = 1
    assignment.stepped(105.0, STEP)
    assert heard[-1] == STEP
    assert assignment.overdue(200.0) is None  # a slow policy is not a refusal
    assignment.refused(STALE)
    assert assignment.overdue(109.0) is None
    assert assignment.overdue(110.0)[0] is Outcome.ABORTED


def test_only_the_first_ending_counts():
    assignment, _, endings = make()
    assignment.steps = 3
    assignment.end(Outcome.CANCELED, "cancelled", 104.0)
    assignment.end(Outcome.SUCCEEDED, "too late", 105.0)
    (ending,) = endings
    assert (ending.outcome, ending.message, ending.steps, ending.duration_s) == (
        Outcome.CANCELED, "cancelled", 3, 4.0,
    )  # fmt: skip
    assert str(ending.outcome) == "canceled"
