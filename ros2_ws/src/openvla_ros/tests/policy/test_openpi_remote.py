"""Our robot under an openpi server: its form of the protocol, its errors, its actions checked."""

from contextlib import contextmanager

import numpy as np
import pytest
from support.fake_policy_servers import openpi_server
from support.policy_doors import IMAGE, PROFILE, SPACE, actions_of, mirror_server, observation

from openvla_ros.api import load_policy
from openvla_ros.conformance.policy_contract import check_policy
from openvla_ros.errors import InvalidValueError, ManifestError, ModelOutputError, PolicyError
from openvla_ros.policy import factory
from openvla_ros.policy.factory import PolicyOptions
from openvla_ros.policy.openpi_remote import OpenpiPolicy
from openvla_ros.policy.protocol import Policy
from openvla_ros.protocols import wire
from openvla_ros.protocols.observation_map import load_observation_map

GOOD = np.arange(14.0).reshape(2, 7) / 1000
MAP = load_observation_map("bridge", PROFILE)


@contextmanager
def remote(address, **options):
    policy = OpenpiPolicy(address, PROFILE, SPACE, MAP, timeout_s=2.0, **options)
    try:
        yield policy
    finally:
        policy.close()


def test_the_robot_sends_what_its_map_says_and_executes_the_chunk():
    seen = []
    with openpi_server(lambda m: seen.append(m) or {"actions": GOOD}) as address, remote(address) as policy:
        assert isinstance(policy, Policy)
        chunk = policy.infer(observation("push"))
        np.testing.assert_array_equal(chunk.actions, GOOD)
        assert chunk.observation_stamp_ns == 7
        policy.reset()
    (message,) = seen
    assert set(message) == set(MAP.keys)
    assert message["prompt"] == "push"
    np.testing.assert_array_equal(message["observation/image"], IMAGE)
    assert message["observation/state"].shape == (7,)


@pytest.mark.parametrize(
    ("reply", "kind", "wrong"),
    [
        ("Traceback ...\nRuntimeError: no GPU\n", PolicyError, "RuntimeError: no GPU"),
        (b"\xc1", PolicyError, "cannot decode"),
        ({"other": 1}, ModelOutputError, "actions NoneType"),
        ({"actions": np.zeros((4, 8))}, ModelOutputError, r"\(4, 8\); this robot's are \(steps, 7\)"),
        ({"actions": np.zeros(7)}, ModelOutputError, r"actions \(7,\)"),
        ({"actions": np.zeros((0, 7))}, ModelOutputError, "at least one action"),
        ({"actions": np.full((1, 7), np.nan)}, ModelOutputError, "must be finite"),
    ],
)
def test_what_is_no_action_is_an_error_and_the_next_answer_is_taken(reply, kind, wrong):
    replies = [reply]
    answer = lambda message: replies.pop() if replies else {"actions": GOOD}  # noqa: E731
    with openpi_server(answer) as address, remote(address) as policy:
        with pytest.raises(kind, match=wrong):
            policy.infer(observation())
        np.testing.assert_array_equal(policy.infer(observation()).actions, GOOD)


def test_a_server_that_states_another_space_is_refused():
    with mirror_server() as (_, server):
        address = f"openpi://127.0.0.1:{server.port}"
        with pytest.raises(PolicyError, match=r"action_space.gripper_open: 0.0 here, 1.0 there"):
            OpenpiPolicy(address, PROFILE, load_franka_space(), MAP)
        with remote(address) as policy:
            np.testing.assert_array_equal(policy.infer(observation()).actions, actions_of(observation()))
            check_policy(policy, observation())


def load_franka_space():
    fields = {**wire.space_to_message(SPACE), "gripper_open": 0.0}
    return wire.space_from_message(fields)


def test_a_recording_says_whose_server_it_was():
    metadata = {"reset_pose": [0.5], "policy": "pi0", "checkpoint": "v3"}
    with openpi_server(lambda m: {"actions": GOOD}, metadata) as address, remote(address) as policy:
        report = policy.report()
        assert policy.description == f"pi0 at {address}"
    assert report["policy_server_protocol"] == "openpi"
    assert '"checkpoint": "v3"' in report["policy_server_metadata"]
    assert '"rate_hz": 5.0' in report["policy_server_action_space"]


def test_the_factory_asks_for_what_it_cannot_know(tmp_path):
    with openpi_server(lambda m: {"actions": GOOD}) as address:
        with pytest.raises(InvalidValueError, match=r"franka has no observation map.*bridge, droid"):
            load_policy(address, robot="franka")
        given = load_policy(address, robot="franka", observation_map="bridge")
        given.close()
        with pytest.raises(InvalidValueError, match=r"ws://host:8765 \(openvla serve\), openpi://host:8000"):
            factory.load_policy(PolicyOptions("remote", address="http://host"), PROFILE, None)
        with pytest.raises(ManifestError, match="no manifest"):
            factory.load_policy(
                PolicyOptions("remote", address=address, checkpoint=str(tmp_path)), PROFILE, None
            )


def test_addresses_that_are_wrong_or_silent_are_named():
    with pytest.raises(PolicyError, match=r"openpi://127\.0\.0\.1:9 cannot be reached"):
        OpenpiPolicy("openpi://127.0.0.1:9", PROFILE, SPACE, MAP)
    with pytest.raises(InvalidValueError, match="something like openpi://host:8000"):
        OpenpiPolicy("host:8000", PROFILE, SPACE, MAP)
