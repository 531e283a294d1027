"""vla-eval's client at our server: one answer to each question, none to one that it has given up."""

import logging
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from support.policy_doors import PROFILE, Mirror, mirror_server, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from openvla_ros.errors import ModelOutputError
from openvla_ros.policy.hold import HoldPolicy
from openvla_ros.protocols import vla_eval_codec
from openvla_ros.protocols.benchmark_actions import benchmark_called
from openvla_ros.protocols.vla_eval_codec import EvaluationMessage
from openvla_ros.serving.benchmark_dialogue import BenchmarkDialogue
from openvla_ros.serving.server import PolicyServer
from openvla_ros.values.action import ActionChunk

OURS = "vla_eval_openvla.benchmark:SimulatedRobotBenchmark"
SIMPLER = "vla_eval.benchmarks.simpler.benchmark:SimplerEnvBenchmark"
CALVIN = "vla_eval.benchmarks.calvin.benchmark:CALVINBenchmark"


class Numbering(HoldPolicy):
    """Answers with the number that the image shows; waits for ``gate`` at the first one, if there is one."""

    cameras = ("primary",)
    dataset_key = ""

    def __init__(self, steps=1, gate=None):
        super().__init__(PROFILE.space())
        self.asked, self.resets, self._steps, self._gate = [], 0, steps, gate
        self.fails = False  # at the first question

    def infer(self, observation):
        number = float(observation.images["primary"][0, 0, 0])
        self.asked.append(number)
        if number == 255.0:
            raise ModelOutputError("early end of sequence")
        if self._gate is not None and len(self.asked) == 1:
            assert self._gate.wait(10)
            if self.fails:
                raise ModelOutputError("early end of sequence")
        actions = np.full((self._steps, 7), number / 1000.0)
        actions[:, 6] = 1.0
        actions[:, 0] += np.arange(self._steps)
        return ActionChunk(actions, observation.stamp_ns, self.space)

    def reset(self):
        self.resets += 1


class Client:
    """What vla-eval's connection does, without its habit of taking any answer for the last question's."""

    def __init__(self, connection, benchmark):
        self.connection, self.number = connection, 0
        self.send("hello", {"harness_version": "0.8.0", "protocol_version": 1, "benchmark": benchmark})
        self.greeting = self.recv().payload

    def send(self, kind, payload):
        self.number += 1
        self.connection.send(vla_eval_codec.pack(EvaluationMessage(kind, payload, self.number)))
        return self.number

    def recv(self, timeout=10):
        return vla_eval_codec.unpack(self.connection.recv(timeout))

    def start(self, **payload):
        self.send("episode_start", {"task": {"name": "lift"}, **payload})

    def ask(self, shown, words="lift", camera="primary", **more):
        image = np.full((8, 8, 3), shown, np.uint8)
        return self.send("observation", {"images": {camera: image}, "task_description": words, **more})

    def act(self, shown, **more):
        number = self.ask(shown, **more)
        answer = self.recv()
        assert answer.number == number
        return answer.payload["actions"] if answer.kind == "action" else answer.payload["error"]


@contextmanager
def client_of(server, benchmark=OURS, **options):
    address = f"ws://127.0.0.1:{server.port}{vla_eval_codec.PATH}"
    with connect(address, compression=None, max_size=None, **options) as connection:
        yield Client(connection, benchmark)


def server_of(policy, **options):
    return running(PolicyServer(policy, "127.0.0.1", 0, **options))


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_greeting_says_what_is_sent_and_wanted():
    with server_of(Numbering()) as server, client_of(server, CALVIN) as client:
        greeting = client.greeting
    assert greeting["protocol_version"] == vla_eval_codec.PROTOCOL
    assert greeting["action_spec"]["gripper"] == {
        "name": "gripper",
        "dims": 1,
        "format": "binary_close_negative",
    }
    assert set(greeting["observation_spec"]) == {"rgb_static", "language"}
    assert greeting["observation_params"] == {"send_state": True}
    assert "hold" in greeting["policy"]


def test_another_version_of_the_protocol_is_refused_with_both_versions():
    with server_of(Numbering()) as server, client_of(server, CALVIN) as client:
        client.send("hello", {"harness_version": "2.0", "protocol_version": 99, "benchmark": CALVIN})
        with pytest.raises(ConnectionClosed, match=r"the client speaks version 99 .* this server 1"):
            client.recv()


def test_the_actions_of_a_chunk_are_played_one_by_one_in_the_benchmarks_terms():
    policy = Numbering(steps=3)
    with server_of(policy) as server, client_of(server, SIMPLER) as client:
        client.start()
        got = [client.act(20) for _ in range(4)]
    np.testing.assert_allclose([action[0] for action in got], [0.02, 1.02, 2.02, 0.02])
    assert [action[6] for action in got] == [1.0] * 4
    assert len(policy.asked) == 2


@pytest.mark.parametrize("change", [{"words": "push"}, {"episode_restart": True}])
def test_nothing_is_left_of_a_chunk_for_other_words_or_another_episode(change):
    policy = Numbering(steps=3)
    with server_of(policy) as server, client_of(server) as client:
        client.start()
        client.act(10)
        assert client.act(20, **change)[0] == pytest.approx(0.020)
        client.start()
        assert client.act(30)[0] == pytest.approx(0.030)
    assert policy.resets >= 2


def test_a_question_that_was_given_up_gets_no_answer_and_the_next_one_its_own(caplog):
    gate = threading.Event()
    policy = Numbering(steps=4, gate=gate)
    with server_of(policy) as server, client_of(server) as client, caplog.at_level(logging.WARNING):
        client.start()
        first = client.ask(11)
        wait_until(lambda: policy.asked)
        second = client.ask(12)  # the client has stopped waiting
        time.sleep(0.2)
        gate.set()
        answer = client.recv()
        assert answer.number == second
        assert answer.payload["actions"][0] == pytest.approx(0.012)  # not the rest of the chunk for 11
        assert client.act(13)[0] == pytest.approx(1.012)
    assert f"question {first} is not answered" in caplog.text


def test_an_error_about_a_question_that_was_given_up_is_not_sent_either():
    gate = threading.Event()
    policy = Numbering(gate=gate)
    policy.fails = True
    with server_of(policy) as server, client_of(server) as client:
        client.start()
        client.ask(11)
        wait_until(lambda: policy.asked)
        client.ask(12)
        client.connection.send(b"\xc1")  # a question that cannot be read is one too
        time.sleep(0.2)
        gate.set()
        assert "cannot decode" in client.recv().payload["error"]
        assert client.act(13)[0] == pytest.approx(0.013)
    assert policy.asked == [11.0, 13.0]


def test_added_angles_do_not_count_an_answer_that_was_not_sent():
    gate = threading.Event()
    policy = Numbering(gate=gate)
    state = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0, 1.0])
    sent = {"camera": "rgb_static", "states": state}
    with server_of(policy) as server, client_of(server, CALVIN) as client:
        client.start()
        client.ask(50, **sent)
        wait_until(lambda: policy.asked)
        client.ask(50, **sent)
        time.sleep(0.2)
        gate.set()
        late = client.recv().payload["actions"]
        client.start()
        np.testing.assert_array_equal(late, client.act(50, **sent))


def test_the_episode_that_was_given_up_does_not_answer_the_first_question_of_the_next():
    gate = threading.Event()
    policy = Numbering(gate=gate)
    with server_of(policy) as server, client_of(server) as client:
        client.start()
        client.ask(11)
        wait_until(lambda: policy.asked)
        client.send("episode_end", {})
        client.start()
        time.sleep(0.2)
        gate.set()
        assert client.act(12)[0] == pytest.approx(0.012)


def test_a_client_that_does_not_wait_gets_answers_to_the_newest_of_its_questions():
    gate = threading.Event()
    policy = Numbering(gate=gate)
    with server_of(policy) as server, client_of(server) as client:
        client.start(mode="live")
        first = client.ask(11)
        wait_until(lambda: policy.asked)
        asked = [client.ask(shown) for shown in (12, 13, 14)]
        time.sleep(0.2)
        gate.set()
        answers = [client.recv(), client.recv()]
    assert [answer.number for answer in answers] == [first, asked[-1]]
    assert policy.asked == [11.0, 14.0]


def test_errors_are_answers_to_their_question_and_the_connection_stays():
    with server_of(Numbering()) as server, client_of(server) as client:
        client.start()
        assert "ModelOutputError: early end" in client.act(255)
        assert "images lacks 'primary'; it has front" in client.act(1, camera="front")
        assert "'task_description' is ''" in client.act(1, words="")
        client.connection.send(b"\xc1")
        assert "cannot decode" in client.recv().payload["error"]
        client.send("error", {"error": "what?"})
        assert client.act(20)[0] == pytest.approx(0.020)


def test_a_state_that_the_rotation_is_counted_from_must_come():
    with server_of(Numbering()) as server, client_of(server, CALVIN) as client:
        client.start()
        assert "did not send 'states'" in client.act(20, camera="rgb_static")
        state = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0, 1.0])
        assert client.act(20, camera="rgb_static", states=state).shape == (7,)


def test_an_observation_before_the_greeting_is_refused():
    with server_of(Numbering()) as server:
        address = f"ws://127.0.0.1:{server.port}{vla_eval_codec.PATH}"
        with connect(address) as connection:
            connection.send(vla_eval_codec.pack(EvaluationMessage("observation", {}, 1)))
            assert "before the greeting" in vla_eval_codec.unpack(connection.recv(10)).payload["error"]


@pytest.mark.parametrize(
    ("benchmark", "wrong"),
    [
        ("my.bench:Robot", "what the actions of benchmark 'my.bench:Robot' mean is not known"),
        (None, "the client does not name its benchmark"),
        ("vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark", "libero makes 20 steps in a second"),
    ],
)
def test_a_benchmark_that_does_not_fit_is_refused_with_the_reason(benchmark, wrong):
    with server_of(Numbering()) as server:
        with pytest.raises(ConnectionClosed) as closed, client_of(server, benchmark):
            pass
        assert closed.value.rcvd.code == 1008
        assert closed.value.rcvd.reason.startswith(f"vla-eval's {wrong}" if "libero" in wrong else wrong)
        with client_of(server) as client:  # and the next one is served
            assert client.greeting["capabilities"] == {}


def test_a_camera_that_the_benchmark_lacks_is_refused():
    policy = Numbering()
    policy.cameras = ("primary", "wrist")
    with (
        server_of(policy) as server,
        pytest.raises(ConnectionClosed, match="needs camera 'wrist'"),
        client_of(server, SIMPLER),
    ):
        pass


@pytest.mark.parametrize(
    ("camera", "seen"), [("primary", "agentview"), ("wrist", "wrist"), ("front", "agentview")]
)
def test_an_only_camera_goes_by_its_name_and_one_of_another_name_is_the_main_one(camera, seen):
    policy = Mirror()
    policy.cameras, policy.dataset_key = (camera,), ""
    dialogue = BenchmarkDialogue(policy, None)
    assert dialogue._cameras(benchmark_called("libero")) == {seen: camera}


def test_a_policy_that_looks_from_the_wrist_is_not_shown_the_main_camera():
    policy = Numbering()
    policy.cameras = ("wrist",)
    with (
        server_of(policy) as server,
        pytest.raises(ConnectionClosed, match="needs camera 'wrist'"),
        client_of(server, SIMPLER),
    ):
        pass


def test_a_server_for_one_benchmark_serves_no_other():
    with server_of(Numbering(), benchmark=benchmark_called("simpler")) as server:
        told = "the client runs openvla_ros; this server was started for simpler"
        with pytest.raises(ConnectionClosed, match=told), client_of(server):
            pass
        with client_of(server, SIMPLER) as client:
            client.start()
            assert client.act(20)[0] == pytest.approx(0.020)


def test_one_client_at_a_time_and_a_token_as_for_every_other():
    with (
        server_of(Numbering()) as server,
        client_of(server),
        pytest.raises(ConnectionClosed, match="another robot"),
        client_of(server),
    ):
        pass
    with mirror_server(token="secret") as (_, server):
        with pytest.raises(InvalidStatus), client_of(server):
            pass
        with client_of(server, additional_headers={"Authorization": "Bearer secret"}):
            pass


def test_a_policy_that_names_no_camera_sees_the_main_one():
    policy = Mirror()
    with server_of(policy) as server, client_of(server, SIMPLER) as client:
        client.start()
        assert client.act(100).shape == (7,)
    assert list(policy.asked[0].images) == ["primary"]
