"""Who was away for too long is named once it is too long, and not before."""

from openvla_ros.streams.absence_watch import AbsenceWatch

SECOND_NS = 1_000_000_000


def at(seconds):
    return round((1000 + seconds) * SECOND_NS)


def test_a_process_that_ticks_has_not_stood_still():
    watch = AbsenceWatch(answer_s=0.6, suspended_s=5.0)
    assert watch.suspended(at(0)) is None  # nobody knows since when
    assert watch.tick(at(0)) == []
    assert watch.suspended(at(5)) is None
    assert watch.suspended(at(6)) == 6.0
    assert watch.tick(at(6)) == ["the policy node was suspended for 6.0 s"]
    assert watch.tick(at(6.1)) == []


def test_a_time_without_ticks_that_was_meant_is_forgotten():
    watch = AbsenceWatch(answer_s=0.6, suspended_s=5.0)
    watch.tick(at(0))
    watch.forget_tick()
    assert watch.suspended(at(100)) is None
    assert watch.tick(at(100)) == []


def test_a_controller_that_has_spoken_may_not_fall_silent():
    watch = AbsenceWatch(answer_s=0.6, suspended_s=5.0)
    assert watch.tick(at(0)) == []  # one that never spoke may be of another kind
    watch.controller_spoke(at(0))
    for tenths in range(1, 16):
        assert watch.tick(at(tenths / 10)) == []
    assert watch.tick(at(1.6)) == ["the controller has been silent for 1.5 s"]
    watch.begin()
    assert watch.tick(at(1.7)) == []


def test_a_controller_that_spoke_while_this_process_was_suspended_was_not_silent():
    watch = AbsenceWatch(answer_s=0.6, suspended_s=5.0)
    watch.tick(at(0))
    watch.controller_spoke(at(0))
    assert watch.tick(at(3)) == [], "nobody listened"
    for tenths in range(31, 45):
        assert watch.tick(at(tenths / 10)) == []
    assert watch.tick(at(4.6)) == ["the controller has been silent for 1.5 s"]


def test_a_policy_that_does_not_answer_is_named_with_the_limit():
    watch = AbsenceWatch(answer_s=9.0, suspended_s=5.0)
    watch.answers.begin()
    watch.answers.answered(at(0))
    watch.answers.asked(at(0))
    assert watch.tick(at(1)) == []
    watch.set_limits(answer_s=0.6, suspended_s=0.5)
    assert watch.tick(at(1.25)) == ["the policy did not answer for 1.25 s; the limit is 0.6 s"]
    assert watch.suspended(at(2)) == 0.75


def test_a_request_of_the_instruction_before_does_not_end_the_new_one():
    watch = AbsenceWatch(answer_s=0.6, suspended_s=5.0)
    watch.begin()
    watch.answers.asked(at(1))
    watch.answers.failed()
    assert watch.tick(at(2)) == ["the policy did not answer for 1.00 s; the limit is 0.6 s"]
    watch.begin()
    assert watch.tick(at(2.1)) == []
    watch.answers.failed()  # the old request, at last
    assert watch.tick(at(2.9)) == []
