"""A policy behind a websocket: the same actions to the bit, errors that arrive, and who may ask."""

import os
import pickle
import re
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.python_process import start_openvla, start_python
from support.waiting import wait_until
from websockets.sync.client import connect
from websockets.sync.server import serve

from openvla_ros.errors import InvalidValueError, ModelOutputError, PolicyError
from openvla_ros.policy.hold import HoldPolicy
from openvla_ros.policy.protocol import Policy
from openvla_ros.policy.remote import RemotePolicy
from openvla_ros.profile import load_profile
from openvla_ros.protocols import message_codec, wire
from openvla_ros.serving.server import PolicyServer
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation

SPACE = load_profile("sim_widowx").space()


class Echo(HoldPolicy):
    """Actions made from everything in the observation, with confidence."""

    resets = 0
    wait_s = 0.0

    def infer(self, observation):
        time.sleep(self.wait_s)
        if observation.instruction == "fail":
            raise ModelOutputError("early end of sequence")
        mean = observation.images["primary"].mean()
        action = np.array([[*observation.joint_positions[:5], mean, observation.gripper]]) * np.pi
        return ActionChunk(action, observation.stamp_ns, SPACE, action * 0 + 0.25, action * 0 + 1.5)

    def reset(self):
        self.resets += 1


def observation(seed=0, instruction="lift"):
    rng = np.random.default_rng(seed)
    return Observation(
        stamp_ns=1_790_000_000_123_456_789, instruction=instruction, gripper=0.5,
        images={"primary": rng.integers(0, 256, (48, 64, 3), np.uint8)},
        joint_positions=rng.normal(size=6), pose=Pose.from_euler(rng.normal(size=3), rng.normal(size=3)),
    )  # fmt: skip


@pytest.fixture
def served():
    policy = Echo(SPACE)
    server = PolicyServer(policy, "127.0.0.1", 0, token="secret")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield policy, f"ws://127.0.0.1:{server.port}"
    server.close()
    thread.join(5)


@pytest.fixture
def remote(served):
    policy = RemotePolicy(served[1], "secret", timeout_s=2.0)
    yield policy
    policy.close()


@given(st.integers(0, 2**32 - 1), st.booleans(), st.text(min_size=1).filter(str.strip))
@settings(max_examples=50, deadline=None)
def test_observations_survive_the_wire(seed, bare, words):
    before = observation(seed, words)
    if bare:
        before = Observation(before.stamp_ns, before.images, words)
    after = wire.observation_from_message(
        message_codec.unpack(message_codec.pack(wire.observation_to_message(before)))
    )
    assert (after.stamp_ns, after.instruction, after.gripper) == (before.stamp_ns, words, before.gripper)
    np.testing.assert_array_equal(after.images["primary"], before.images["primary"])
    if bare:
        assert after.joint_positions is None
        assert after.pose is None
    else:
        np.testing.assert_array_equal(after.joint_positions, before.joint_positions)
        np.testing.assert_array_equal(after.pose.matrix, before.pose.matrix)


def test_a_remote_policy_gives_the_local_ones_actions_to_the_bit(served, remote):
    local = Echo(SPACE)
    assert isinstance(remote, Policy)
    assert not remote.space.differences(SPACE)
    assert "hold" in remote.description
    for seed in range(5):
        ours, theirs = remote.infer(observation(seed)), local.infer(observation(seed))
        assert ours.observation_stamp_ns == theirs.observation_stamp_ns
        for name in ("actions", "probability", "entropy"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    remote.reset()
    assert served[0].resets == 1


def test_errors_of_the_policy_arrive_as_what_they_are(remote):
    with pytest.raises(ModelOutputError, match="early end of sequence"):
        remote.infer(observation(instruction="fail"))
    assert remote.infer(observation()) is not None


INF, NAN = float("inf"), float("nan")


def array(dtype, shape, data):
    """An array as it lies in a message."""
    return {b"__ndarray__": True, b"dtype": dtype, b"shape": shape, b"data": data}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("stamp_ns", [INF, -INF, NAN, 1.5, 2**64 - 1, -(2**63), True, "now", None, [1], {}]),
        ("gripper", [INF, NAN, -1, 2, 2**64 - 1, "open", [0.5], {}, True, np.zeros(1)]),
        ("joint_positions", [INF, 5, "x", [NAN], [INF] * 6, [[1.0], [1.0, 2.0]], {}, np.zeros((6, 6)), b"x"]),
        ("pose", [INF, 5, "x", [], np.eye(3), np.eye(4) * NAN, np.zeros((4, 4)), [[INF] * 4] * 4, {}]),
        ("images", [None, 5, [], {}, [[1]], {"primary": 5}, {"primary": np.zeros((2, 2, 3))}]),
        ("images", [{"primary": np.zeros(shape, np.uint8)} for shape in ((0, 0, 3), (4, 4), (4, 4, 4))]),
        ("images", [{"primary": array("|u1", shape, b"123")}
                    for shape in ([2**64 - 1, 1, 3], [-1, -1, 3], "abc", [INF], [1.0, 1.0, 3.0], None, [])]),
        ("images", [{"primary": array(dtype, [1, 1, 3], data)} for dtype, data in
                    ((["|u1"], b"123"), ("|O", b"123"), ("|u1", "123"), ("|u1", 7))]),
        ("instruction", [None, 5, NAN, "", " \n", b"lift", ["lift"], {}]),
    ],
)  # fmt: skip
def test_a_clients_value_that_means_nothing_is_an_error_answer_and_the_next_one_is_served(
    served, field, values
):
    message = wire.observation_to_message(observation())
    with connect(
        served[1], additional_headers={"Authorization": "Bearer secret"}, subprotocols=[wire.SUBPROTOCOL]
    ) as connection:
        connection.recv(5)
        for value in values:
            connection.send(message_codec.pack({**message, field: value}))
            answer = message_codec.unpack(connection.recv(5))
            assert answer.get("error") == "InvalidValueError", (value, answer)
            assert answer["message"]
        connection.send(message_codec.pack({key: value for key, value in message.items() if key != field}))
        assert message_codec.unpack(connection.recv(5))["error"] == "InvalidValueError"
        connection.send(message_codec.pack(message))
        assert "actions" in message_codec.unpack(connection.recv(5))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate_hz", INF), ("rate_hz", NAN), ("rate_hz", "5"), ("lower", [NAN] * 7), ("upper", INF),
        ("gripper_open", NAN), ("frame", "moon"), ("rotation", 5), ("names", 5), ("names", [1] * 7),
        ("units", None),
    ],
)  # fmt: skip
def test_a_servers_space_that_means_nothing_is_refused(field, value):
    with pytest.raises(InvalidValueError):
        wire.space_from_message({**wire.space_to_message(SPACE), field: value})
    with pytest.raises(InvalidValueError):
        wire.chunk_from_message(
            {"actions": [[0.0] * 7], "stamp_ns": INF, "probability": None, "entropy": None}, SPACE
        )


def test_a_slow_answer_is_an_error_and_never_taken_for_the_next_one(served):
    remote = RemotePolicy(served[1], "secret", timeout_s=0.2)
    served[0].wait_s = 0.6
    with pytest.raises(PolicyError, match=r"did not answer within 0\.2 s"):
        remote.infer(observation(1))
    served[0].wait_s = 0.0
    time.sleep(0.6)  # the server is still with the question that was given up
    expected = served[0].infer(observation(2)).actions
    np.testing.assert_array_equal(remote.infer(observation(2)).actions, expected)
    remote.close()
    with pytest.raises(PolicyError, match="is closed"):
        remote.infer(observation())


@pytest.mark.parametrize("token", ["", "wrong"])
def test_who_does_not_know_the_token_is_refused(served, token):
    with pytest.raises(PolicyError, match=r"401.*is the token right\?"):
        RemotePolicy(served[1], token)


def test_only_one_robot_at_a_time(served, remote):
    with pytest.raises(PolicyError, match="another robot is connected"):
        RemotePolicy(served[1], "secret")


ROBOT = """
import sys, time
from openvla_ros.policy.remote import RemotePolicy

remote = RemotePolicy(sys.argv[1], "secret")
print("served", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def robot(served):
    """Another robot, a process of its own that is connected."""
    with start_python(["-c", ROBOT, served[1]], with_errors=False) as process:
        assert process.stdout.readline() == "served\n"
        yield process
        process.kill()


def suspend(process):
    """Stop the process, and wait until it stands: on a busy machine its other threads run on for a while."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


def test_a_robot_that_has_fallen_silent_does_not_keep_the_next_one_out(served, robot):
    suspend(robot)  # its link is up, and nobody is there
    began = time.monotonic()
    remote = RemotePolicy(served[1], "secret")
    assert remote.infer(observation()) is not None
    took_s = time.monotonic() - began
    assert took_s < 3.0, f"served after {took_s:.1f} s"  # a ping's second, and a busy machine
    remote.close()


def test_a_robot_that_is_there_is_not_displaced_and_the_next_one_is_told_at_once(served, robot):
    began = time.monotonic()
    with pytest.raises(PolicyError, match="another robot is connected"):
        RemotePolicy(served[1], "secret")
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("size", [(48, 64), (3000, 4000)])  # one that is not read does not fit in the buffers
def test_a_server_that_hangs_is_given_up_after_the_time_of_one_answer_and_not_waited_for(size):
    asked = replace(observation(), images={"primary": np.zeros((*size, 3), np.uint8)})
    arguments = ["serve", "--policy", "hold", "--robot", "sim_widowx", "--port", "0"]
    with start_openvla(*arguments) as process:
        remote = RemotePolicy(process.stdout.readline().split()[-1], timeout_s=0.5)
        suspend(process)
        try:
            for _ in range(2):  # the second one has to connect anew
                began = time.monotonic()
                with pytest.raises(PolicyError):
                    remote.infer(asked)
                assert time.monotonic() - began < 2.5
        finally:
            process.send_signal(signal.SIGCONT)

        def answered():
            with suppress(PolicyError):  # it has half a second for connecting, on a busy machine too
                return remote.infer(observation())

        assert wait_until(answered) is not None
        remote.close()
        process.kill()


@contextmanager
def greeting_server(after):
    """A server that greets as ours does and then does ``after(connection)``; yields its address."""
    hello = {"protocol": wire.PROTOCOL, "description": "a test", "space": wire.space_to_message(SPACE)}

    def talk(connection):
        connection.send(message_codec.pack(hello))
        after(connection)

    with serve(talk, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(5)


def test_an_answer_for_another_image_is_refused():
    def answer_late(connection):
        asked = message_codec.unpack(connection.recv())
        chunk = ActionChunk(np.zeros((1, 7)), asked["stamp_ns"] + 1, SPACE)
        connection.send(message_codec.pack(wire.chunk_to_message(chunk)))

    with greeting_server(answer_late) as address:
        remote = RemotePolicy(address, timeout_s=5.0)
        with pytest.raises(PolicyError, match="answers for the image of 1790000000123456790 ns, asked was"):
            remote.infer(observation())
        remote.close()


def test_addresses_that_are_wrong_or_silent_are_named():
    with pytest.raises(InvalidValueError, match="something like ws://host:8765"):
        RemotePolicy("host:8765")
    with pytest.raises(PolicyError, match="cannot be reached"):
        RemotePolicy("ws://127.0.0.1:9")
    with pytest.raises(InvalidValueError, match="needs a token"):
        PolicyServer(Echo(SPACE), "0.0.0.0", 0)


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        ("hello", "is not a policy server"),
        (message_codec.pack({"protocol": 99}), "uses protocol 99"),
        (message_codec.pack({"protocol": wire.PROTOCOL}), "no description, space in its greeting"),
        (message_codec.pack({"error": "PolicyError", "message": "busy"}), "busy"),
    ],
)
def test_a_server_that_greets_otherwise_is_named_and_left(greeting, message):
    left = threading.Event()

    def greet(connection):
        connection.send(greeting)
        if next(iter(connection), None) is None:
            left.set()

    with serve(greet, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(PolicyError, match=message):
            RemotePolicy(f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        assert left.wait(10)
        server.shutdown()
        thread.join(5)


class Exploit:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(Exploit()), "cannot decode|expected a map"),
        (b"", "cannot decode"),
        ("text", "expected a binary"),
        (msgpack.packb([1]), "expected a map"),
        (msgpack.packb({"stamp_ns": 1}), "cannot decode the observation: KeyError"),
        (
            msgpack.packb({"a": array("|O", [1], b"12345678")}),
            r"an array of type '\|O'",
        ),
        (msgpack.packb({"a": array("|u1", [2**40], b"")}), "takes 1099511627776 bytes; got 0"),
    ],
)
def test_rubbish_is_answered_with_an_error_and_nothing_is_executed(served, capfd, data, message):

    with connect(
        served[1], additional_headers={"Authorization": "Bearer secret"}, subprotocols=[wire.SUBPROTOCOL]
    ) as connection:
        connection.recv(5)
        connection.send(data)
        answer = message_codec.unpack(connection.recv(5))
        assert answer["error"] == "InvalidValueError"
        assert re.search(message, answer["message"])
        connection.send(message_codec.pack(wire.observation_to_message(observation())))
        assert "actions" in message_codec.unpack(connection.recv(5))
    assert "executed" not in capfd.readouterr().out


def test_the_program_serves_and_stops_with_code_0():
    arguments = ["serve", "--policy", "hold", "--robot", "sim_widowx", "--port", "0"]
    with start_openvla(*arguments) as process:
        address = process.stdout.readline().split()[-1]
        remote = RemotePolicy(address)
        np.testing.assert_array_equal(remote.infer(observation()).actions, [[0, 0, 0, 0, 0, 0, 0.5]])
        remote.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
