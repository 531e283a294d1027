"""Runs in openpi's own environment: its client against ``openvla serve``, and its server for our robot.

``drive PORT SEEDS`` carries out instructions, ``manners PORT TOKEN`` tries what a client may meet, ``serve
PORT`` is openpi's server with a policy that asks ``openvla serve`` on PORT.
"""

import socket
import sys
import urllib.request

import numpy as np
from openpi_client.base_policy import BasePolicy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from openpi_server import WebsocketPolicyServer
from piped_robot import PipedRobot, seeds
from websockets.exceptions import InvalidStatus

IMAGE, STATE, PROMPT = "observation/image", "observation/state", "prompt"


def drive(port: str, which: str) -> None:
    """Run each scene to its end."""
    robot, policy = PipedRobot(), WebsocketClientPolicy("127.0.0.1", int(port))
    for seed in seeds(which):
        seen = robot.reset(seed)
        policy.reset()
        while not seen.over:
            answer = policy.infer({IMAGE: seen.image, STATE: seen.state, PROMPT: seen.instruction})
            for action in answer["actions"]:
                seen = robot.step(action)
    robot.report(str(policy.get_server_metadata()))


def manners(port: str, token: str) -> None:
    """Report what the server says to a client with and without the key, and to a wrong message."""
    robot, said = PipedRobot(), {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        said["healthz"] = answer.read().decode()
    try:
        WebsocketClientPolicy("127.0.0.1", int(port), api_key="wrong")
        said["wrong key"] = "connected"
    except InvalidStatus as error:
        said["wrong key"] = repr(error)
    policy = WebsocketClientPolicy("127.0.0.1", int(port), api_key=token)
    said["metadata"] = {key: str(value) for key, value in policy.get_server_metadata().items()}
    good = {IMAGE: np.zeros((224, 224, 3), np.uint8), PROMPT: "lift the red block"}
    for name, message in (("wrong key in message", {**good, "image": 1}), ("no image", {PROMPT: "lift"})):
        try:
            policy.infer(message)
            said[name] = "answered"
        except RuntimeError as error:
            said[name] = str(error)
    said["after the errors"] = np.shape(policy.infer(good)["actions"])
    robot.report(said)


class Relay(BasePolicy):
    """A policy whose answers come from another server; ``fail`` and ``wide`` are tricks of it."""

    def __init__(self, port: int) -> None:
        self._policy = WebsocketClientPolicy("127.0.0.1", port)

    def infer(self, obs: dict) -> dict:
        """Return the other server's actions."""
        if obs[PROMPT] == "fail":
            raise RuntimeError("the model is on fire")
        answer = self._policy.infer(obs)
        if obs[PROMPT] == "wide":
            answer["actions"] = np.zeros((10, 8))
        return answer


def serve(port: str) -> None:
    """Serve on a free port, which is printed first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    print(own, flush=True)
    metadata = {"reset_pose": [0.0, 0.1], "versions": {"pi0": "0.0"}}
    WebsocketPolicyServer(Relay(int(port)), "127.0.0.1", own, metadata).serve_forever()


if __name__ == "__main__":
    {"drive": drive, "manners": manners, "serve": serve}[sys.argv[1]](*sys.argv[2:])
