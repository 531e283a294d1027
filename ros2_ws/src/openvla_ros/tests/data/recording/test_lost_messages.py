"""What was lost is counted from the messages' numbers, with and without their publishers' names."""

from openvla_ros.data.recording.lost_messages import AnonymousSequenceWatch, SequenceWatch


def missing(numbers, alone=True):
    watch = AnonymousSequenceWatch()
    return [watch.missing(number, 1000 + i, lambda: alone) for i, number in enumerate(numbers)]


def test_gaps_are_counted_by_publisher():
    watch = SequenceWatch()
    assert [watch.missing(b"a", n) for n in (5, 6, 9)] == [0, 0, 2]
    assert watch.missing(b"b", 100) == 0
    assert watch.missing(b"a", 9) is None


def test_gaps_of_a_topic_with_one_publisher_are_counted_without_its_name():
    assert missing([5, 6, 9, 10]) == [0, 0, 2, 0]


def test_a_restarted_publisher_loses_nothing():
    """Its numbers start anew: they must not be taken for duplicates, which are not recorded."""
    assert missing([500, 501, 1, 2, 4]) == [0, 0, 0, 0, 1]


def test_of_several_publishers_nothing_is_counted_and_nothing_left_out():
    assert missing([500, 3, 501, 4, 502, 9], alone=False) == [0] * 6


def test_what_a_new_subscription_receives_again_is_a_duplicate():
    watch = AnonymousSequenceWatch()
    assert watch.missing(7, 1000, lambda: True) == 0
    assert watch.missing(7, 1000, lambda: True) is None
    assert watch.missing(7, 2000, lambda: True) == 0  # another publisher's


def test_publishers_that_come_and_go_make_no_gap():
    watch = AnonymousSequenceWatch()
    watch.missing(7, 1000, lambda: True)
    watch.restart()
    assert watch.missing(5000, 2000, lambda: True) == 0
