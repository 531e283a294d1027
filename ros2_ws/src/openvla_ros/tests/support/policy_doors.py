"""A policy behind a running server, and requests to it, byte by byte where that matters."""

import socket
import threading
from contextlib import contextmanager

import numpy as np

from openvla_ros.errors import ModelOutputError
from openvla_ros.policy.hold import HoldPolicy
from openvla_ros.profile import load_profile
from openvla_ros.protocols.translation import Translation
from openvla_ros.serving.server import PolicyServer
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.geometry import Pose
from openvla_ros.values.observation import Observation

PROFILE = load_profile("sim_widowx")
SPACE = PROFILE.space()
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


class Mirror(HoldPolicy):
    """Actions made from the image; remembers what it was asked."""

    def __init__(self):
        super().__init__(SPACE)
        self.asked, self.resets = [], 0

    def infer(self, observation):
        self.asked.append(observation)
        if observation.instruction == "fail":
            raise ModelOutputError("early end of sequence")
        if observation.instruction == "break":
            raise RuntimeError("a bug")
        return ActionChunk(actions_of(observation), observation.stamp_ns, SPACE)

    def reset(self):
        self.resets += 1


def actions_of(observation):
    """What ``Mirror`` answers: two steps."""
    mean = observation.images["primary"].mean() / 1e4
    return np.array([[mean] * 6 + [1.0], [0.0] * 7])


def observation(words="lift"):
    """An observation with everything in it."""
    pose = Pose.from_euler([0.3, 0.0, 0.2], [0.1, 1.2, -0.3])
    return Observation(7, {"primary": IMAGE}, words, np.linspace(-1, 1, 6), pose, 0.25)


@contextmanager
def running(server):
    """Run ``server`` on a thread."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def mirror_server(token="", dataset_key="sim_widowx"):
    """A server for others' clients; yields the policy and the server."""
    policy = Mirror()
    translation = Translation.for_robot(PROFILE, "", (), dataset_key)
    with running(PolicyServer(policy, "127.0.0.1", 0, token, translation)) as server:
        yield policy, server


def raw(port, data, *more, timeout_s=10.0):
    """Send ``data``, then each of ``more`` once something was answered; return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(data)
        back = b""
        for part in more:
            back += connection.recv(65536)
            connection.sendall(part)
        while received := connection.recv(65536):
            back += received
        return back


def post(port, body, headers=(), path="/act"):
    """POST ``body`` and return the status and the answer's body."""
    head = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", "Connection: close", *headers]
    back = raw(port, "\r\n".join([*head, "", ""]).encode() + body)
    answer_head, _, answer = back.partition(b"\r\n\r\n")
    return int(answer_head.split()[1]), answer
