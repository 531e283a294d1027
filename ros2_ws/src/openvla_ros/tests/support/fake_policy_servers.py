"""Fake servers of other people's policies: openpi's, and this package's server of a LeRobot policy."""

import threading
from contextlib import contextmanager

import numpy as np
from support.policy_doors import SPACE
from websockets.sync.server import serve

from openvla_ros.protocols import message_codec, wire

LEROBOT_KEY, LEROBOT_STATE = "observation.images.primary", "observation.state"


@contextmanager
def openpi_server(answer, metadata=None):
    """A server that sends ``metadata``, then what ``answer`` returns for each message."""

    def handle(connection):
        connection.send(message_codec.pack(metadata or {}))
        for data in connection:
            reply = answer(message_codec.unpack(data))
            connection.send(reply if isinstance(reply, str | bytes) else message_codec.pack(reply))
            if isinstance(reply, str):
                return  # openpi's server closes after an error

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"openpi://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(5)


class FakeLeRobotServer:
    """What ``servers/serve_lerobot_policy.py`` says and answers, without LeRobot; ``changed`` metadata."""

    def __init__(self, **changed):
        self.metadata = {**self.stated(), **changed}
        self.asked, self.resets = [], 0

    @staticmethod
    def stated():
        space = wire.space_to_message(SPACE)
        return {
            "server": "serve_lerobot_policy 1, LeRobot 0.6.1",
            "policy": "LeRobot act runs/cups",
            "policy_type": "act",
            "lerobot_version": "0.6.1",
            "checkpoint": "runs/cups",
            "action_space": {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in space.items()},
            "observation_map": {
                "images": {LEROBOT_KEY: "primary"},
                "state": {LEROBOT_STATE: ["tool_euler", "gripper_open"]},
                "instruction": "task",
            },
            "shapes": {LEROBOT_KEY: [224, 224, 3], LEROBOT_STATE: [7]},
            "steps": 2,
            "reset": True,
        }

    def answer(self, message):
        if message == {"reset": True}:
            self.resets += 1
            return {}
        self.asked.append(message)
        return {"actions": np.full((2, 7), 0.01, np.float32)}

    @contextmanager
    def running(self):
        with openpi_server(self.answer, self.metadata) as address:
            yield address
