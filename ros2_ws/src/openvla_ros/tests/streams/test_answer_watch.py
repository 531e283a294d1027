"""A policy that has answered once may not be silent for long."""

from openvla_ros.streams.answer_watch import AnswerWatch

SECOND_NS = 1_000_000_000


def test_only_the_first_answer_may_take_its_time():
    watch = AnswerWatch(0.6)
    watch.begin()
    watch.asked(0)
    assert watch.silent_s(10 * SECOND_NS) is None
    assert watch.answered(10 * SECOND_NS) is None
    assert watch.silent_s(90 * SECOND_NS) is None  # nothing was asked: a camera was away
    watch.asked(90 * SECOND_NS)
    assert watch.silent_s(90 * SECOND_NS + SECOND_NS // 2) is None
    assert watch.silent_s(91 * SECOND_NS) == 1.0
    assert watch.answered(92 * SECOND_NS) == 2.0
    assert watch.answered(93 * SECOND_NS) is None


def test_failed_questions_add_up_to_one_silence():
    watch = AnswerWatch(0.6)
    watch.begin()
    watch.asked(0)
    watch.failed()
    assert watch.silent_s(SECOND_NS // 2) is None
    watch.asked(SECOND_NS // 2)
    watch.failed()
    assert watch.silent_s(SECOND_NS) == 1.0
