"""Which publisher of the arm's state is believed, and when another one stops the arm."""

from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from openvla_ros.nodes.control import state_sources
from openvla_ros.nodes.control.state_sources import GONE_S, Rivals, StateSources

ARM, TWIN = b"arm", b"twin"


class Bench:
    """Publishers that say something now and then, and what is told of them."""

    def __init__(self, monkeypatch, gids):
        self.gids, self.numbers = gids, Counter({ARM: 5000})
        self.now_s, self.told, self.alive = 1000.0, [], [ARM, TWIN]
        monkeypatch.setattr(state_sources.time, "monotonic", lambda: self.now_s)
        self.rivals = Rivals(self.told.append)
        node = SimpleNamespace(
            resolve_topic_name=lambda topic: f"/{topic}", get_publishers_info_by_topic=self.listed
        )
        self.sources = StateSources(node, "joint_states", self.rivals)

    def listed(self, _topic):
        return [
            SimpleNamespace(node_namespace="/", node_name=gid.decode(), endpoint_gid=list(gid))
            for gid in self.alive
        ]

    def say(self, gid, count=1):
        believed = []
        for _ in range(count):
            self.now_s += 0.01
            self.numbers[gid] += 1
            info = {"publication_sequence_number": self.numbers[gid]}
            if self.gids:
                info["publisher_gid"] = {"data": list(gid)}
            believed.append(self.sources.believe(info))
        assert len(set(believed)) == 1
        return believed[0]


@pytest.fixture(params=["gids", "numbers"])  # as rclpy since Kilted, and as Jazzy's
def bench(monkeypatch, request):
    return Bench(monkeypatch, request.param == "gids")


def test_one_publisher_is_believed_and_nobody_is_told(bench):
    assert bench.say(ARM, 500)
    bench.now_s += 60.0
    assert bench.say(ARM)
    assert bench.told == []


def test_the_one_that_was_there_first_is_believed_and_both_are_named(bench):
    assert bench.say(ARM)
    assert not bench.say(TWIN)
    assert bench.say(ARM)
    assert bench.told == ["/arm, /twin report the arm's state on /joint_states: only one can be right"]


def test_a_busy_machine_that_keeps_the_arm_s_driver_quiet_does_not_make_the_other_one_right(bench):
    bench.say(ARM)
    bench.say(TWIN)
    bench.now_s += 0.9 * GONE_S
    assert not bench.say(TWIN, 10)
    assert bench.say(ARM)
    assert len(bench.told) == 1


def test_a_publisher_that_has_ended_is_forgotten(bench):
    bench.say(ARM)
    bench.say(TWIN)
    bench.alive.remove(TWIN)
    assert bench.say(ARM, 120)
    assert bench.told[1:] == [None]
    bench.alive = [TWIN]  # another driver takes its place
    bench.now_s += 2.0
    assert bench.say(TWIN, 10)
    assert bench.told[1:] == [None]


def test_a_killed_publisher_that_is_still_listed_is_waited_for(bench):
    bench.say(ARM)
    bench.say(TWIN)
    for _ in range(round(GONE_S) + 1):
        bench.now_s += 1.0
        bench.say(ARM)
    assert bench.told[1:] == [None]


def test_releases_that_do_not_say_who_sent_a_message_believe_all(bench):
    assert bench.sources.believe({})
    assert bench.told == []


def test_several_watches_make_one_text(bench):
    bench.rivals.note("commands", None)
    bench.rivals.note("commands", "a")
    bench.rivals.note("joint_states", "b")
    bench.rivals.note("joint_states", "b")
    bench.rivals.note("commands", None)
    bench.rivals.note("joint_states", None)
    assert bench.told == [None, "a", "a; b", "b", None]
