"""Several robots at one server over real sockets: who hangs, floods or dies keeps nobody waiting."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from support import rude_robot_process
from support.crowd_policy import Crowd
from support.policy_doors import IMAGE, PROFILE, mirror_server, observation, post, running
from support.python_process import start_python
from support.waiting import wait_until
from websockets.sync.client import connect

from openvla_ros.errors import InvalidValueError, ModelOutputError, PolicyError
from openvla_ros.policy.remote import RemotePolicy
from openvla_ros.protocols import act_codec, message_codec, wire
from openvla_ros.protocols.act_codec import ActRequest
from openvla_ros.protocols.translation import Translation
from openvla_ros.serving import batches, places
from openvla_ros.serving.server import PolicyServer
from openvla_ros.values.observation import Observation

PASS_S = 0.02
MESSAGE = message_codec.pack(wire.observation_to_message(observation()))

ACT = act_codec.request_to_json(ActRequest(IMAGE, "lift"))


@contextmanager
def crowd_server(policy=None, **options):
    """A server for several robots; yields the policy and its address."""
    policy = policy or Crowd(PASS_S)
    translation = Translation.for_robot(PROFILE, "", (), "sim_widowx")
    with running(PolicyServer(policy, "127.0.0.1", 0, translation=translation, **options)) as server:
        yield policy, f"ws://127.0.0.1:{server.port}"


def port_of(address):
    return int(address.rpartition(":")[2])


def seen_by(robot):
    """What one robot sees, unlike the others."""
    return Observation(robot, {"primary": np.full((8, 8, 3), robot, np.uint8)}, "lift")


def latencies(address, asks, robot=7):
    """How long each of a robot's questions takes, seconds."""
    remote, taken = RemotePolicy(address), []
    for _ in range(asks):
        began = time.monotonic()
        assert remote.infer(seen_by(robot)).actions[0, 0] == robot / 1e4
        taken.append(time.monotonic() - began)
    remote.close()
    return taken


def test_robots_are_answered_together_and_each_gets_its_own_answer():
    with crowd_server() as (policy, address), ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda robot: latencies(address, 20, robot), range(1, 9)))
    assert sum(policy.batches) == 160
    assert max(policy.batches) > 4
    assert max(policy.batches) <= 8


def test_one_in_a_pass_if_told_so():
    with crowd_server(batch=1) as (policy, address), ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda robot: latencies(address, 5, robot), range(1, 5)))
    assert set(policy.batches) == {1}


@contextmanager
def rude_robot(how, address):
    """A process of its own that misbehaves."""
    small = message_codec.pack(wire.observation_to_message(seen_by(1)))
    program = Path(rude_robot_process.__file__)
    with start_python([str(program), how, address, small.hex()], with_errors=False) as process:
        assert process.stdout.readline() == "rude\n"
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("how", ["hangs", "floods", "floods deaf", "dies"])
def test_a_rude_robot_keeps_nobody_waiting(how):
    with crowd_server(Crowd(PASS_S)) as (policy, address):
        alone = sorted(latencies(address, 20))
        with rude_robot(how, address), ThreadPoolExecutor(3) as threads:
            several = threads.map(lambda robot: latencies(address, 20, robot), (2, 3, 4))
            beside = sorted(chain.from_iterable(several))
        # A pass in progress, then one's own; the rest is what a busy machine takes.
        assert beside[len(beside) // 2] < 4 * PASS_S + alone[len(alone) // 2], (alone, beside)
        assert beside[-1] < 1.0, beside
        assert policy.batches
        wait_until(lambda: len(latencies(address, 1)) == 1)


def test_a_flood_gets_no_more_than_its_turn():
    """One question in a pass: whoever asks as fast as it can has every second turn."""
    with crowd_server(batch=1) as (policy, address), rude_robot("floods", address):
        flood = policy.sessions[0]
        before = flood.asked
        latencies(address, 30)
        assert flood.asked - before <= 30 + 3


@pytest.mark.parametrize(("how", "within_s"), [("hangs", 2.0), ("floods deaf", 5.0)])
def test_where_there_is_one_place_a_rude_robot_gives_way(how, within_s, monkeypatch):
    monkeypatch.setattr(places, "SILENT_S", 0.5)
    with mirror_server() as (_, server), rude_robot(how, f"ws://127.0.0.1:{server.port}"):
        began = time.monotonic()

        def is_served():
            try:
                remote = RemotePolicy(f"ws://127.0.0.1:{server.port}")
            except PolicyError:
                return False
            remote.infer(observation())
            remote.close()
            return True

        wait_until(is_served)
        assert time.monotonic() - began < within_s


def test_one_robot_more_than_there_are_places_is_told_so_at_once_and_served_when_one_leaves():
    with crowd_server(robots=2) as (_, address), ExitStack() as stack:
        first = RemotePolicy(address)
        stack.callback(first.close)
        second = RemotePolicy(address)
        began = time.monotonic()
        with pytest.raises(PolicyError, match="2 robots are connected, and this server takes no more"):
            RemotePolicy(address)
        assert time.monotonic() - began < 1.0
        status, answer = post(port_of(address), ACT)
        assert (status, json.loads(answer)["error"]) == (503, "PolicyError")
        second.close()
        third = RemotePolicy(address)
        assert third.infer(seen_by(3)).actions[0, 0] == 3 / 1e4
        third.close()
        assert first.infer(seen_by(1)).actions[0, 0] == 1 / 1e4


def test_a_wait_is_bounded_and_the_refusal_says_why(monkeypatch):
    monkeypatch.setattr(batches, "WAIT_S", 0.2)
    policy = Crowd()
    with crowd_server(policy, batch=1) as (_, address), ThreadPoolExecutor(1) as threads:
        policy.may_go_on.clear()
        first = threads.submit(latencies, address, 1)
        wait_until(lambda: policy.batches)
        remote = RemotePolicy(address)
        began = time.monotonic()
        with pytest.raises(PolicyError, match=r"not begun within 0\.2 s: the policy is busy"):
            remote.infer(seen_by(1))
        assert 0.2 <= time.monotonic() - began < 1.0
        policy.may_go_on.set()
        assert first.result(10)  # what was begun is finished
        assert remote.infer(seen_by(1)) is not None
        remote.close()
        assert policy.batches == [1, 1]


def test_what_a_robot_sends_before_it_was_answered_supersedes_what_it_sent_before():
    policy = Crowd()
    with (
        crowd_server(policy) as (_, address),
        connect(address, subprotocols=[wire.SUBPROTOCOL]) as connection,
    ):
        connection.recv(5)
        policy.may_go_on.clear()
        connection.send(MESSAGE)
        wait_until(lambda: policy.batches)
        connection.send(MESSAGE)
        connection.send(message_codec.pack({"reset": True}))
        connection.send(message_codec.pack(wire.observation_to_message(seen_by(9))))
        time.sleep(0.2)
        policy.may_go_on.set()
        answers = [message_codec.unpack(connection.recv(5)) for _ in range(4)]
        assert "actions" in answers[0]
        assert "superseded by a newer message" in answers[1]["message"]
        assert answers[2] == {}  # a reset is never dropped
        assert answers[3]["actions"][0, 0] == 9 / 1e4
        assert policy.sessions[0].resets == 1


def test_a_robot_that_died_in_the_queue_is_not_answered():
    policy = Crowd()
    with crowd_server(policy, batch=1) as (_, address), ThreadPoolExecutor(1) as threads:
        policy.may_go_on.clear()
        first = threads.submit(latencies, address, 1)
        wait_until(lambda: policy.batches)
        with connect(address, subprotocols=[wire.SUBPROTOCOL]) as dying:
            dying.recv(5)
            dying.send(MESSAGE)
            wait_until(lambda: policy.sessions[-1].asked == 1)
            dying.socket.shutdown(socket.SHUT_RDWR)
        time.sleep(0.2)
        policy.may_go_on.set()
        assert first.result(10)
        latencies(address, 1)
        assert policy.batches == [1, 1]


def test_one_robots_error_or_bug_is_not_anothers():
    policy = Crowd()
    with crowd_server(policy) as (_, address), ThreadPoolExecutor(4) as threads, ExitStack() as stack:
        robots = [RemotePolicy(address) for _ in range(4)]
        for robot in robots:
            stack.callback(robot.close)
        policy.may_go_on.clear()
        head = threads.submit(robots[3].infer, seen_by(1))
        wait_until(lambda: policy.batches)
        words = ("lift", "fail", "break")
        found = [
            threads.submit(robot.infer, Observation(5, {"primary": IMAGE}, text))
            for robot, text in zip(robots, words, strict=False)
        ]
        wait_until(lambda: sum(session.asked for session in policy.sessions) == 4)
        policy.may_go_on.set()
        assert head.result(10) is not None
        assert found[0].result(10).observation_stamp_ns == 5
        with pytest.raises(ModelOutputError, match="early end"):
            found[1].result(10)
        with pytest.raises(PolicyError, match="the server's log says why"):
            found[2].result(10)
        assert policy.batches[:2] == [1, 3]


def test_the_path_of_the_address_names_the_adapter_at_every_door():
    with crowd_server() as (_, address):
        for path, expected in (("", 0.0), ("/carrot", 1e-2)):
            remote = RemotePolicy(address + path)
            assert remote.infer(seen_by(1)).actions[0, 2] == expected
            remote.close()
            status, answer = post(port_of(address), ACT, path=f"{path}/act")
            assert status == 200
            assert act_codec.action_from_json(answer)[2] == expected
            with connect(address + path, compression=None) as connection:
                connection.recv(5)
                connection.send(message_codec.pack({"observation/image": IMAGE, "prompt": "lift"}))
                assert message_codec.unpack(connection.recv(5))["actions"][0, 2] == expected
        with pytest.raises(PolicyError, match="no adapter 'cup': crowd is served with the adapters carrot"):
            RemotePolicy(address + "/cup")
        with connect(address + "/cup", compression=None) as connection:
            assert "no adapter 'cup'" in connection.recv(5)
        status, answer = post(port_of(address), b"{}", path="/cup/act")
        assert (status, b"POST /carrot/act" in answer) == (404, True)


@pytest.mark.parametrize("options", [{"robots": 0}, {"batch": 0}, {"robots": 65}])
def test_numbers_that_mean_nothing_are_refused(options):
    with pytest.raises(InvalidValueError, match=f"{next(iter(options))} is .*; it must be 1 .. 64"):
        PolicyServer(Crowd(), "127.0.0.1", 0, **options)
