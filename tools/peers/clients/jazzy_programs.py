"""Runs in the environment of either ROS release, on a robot that is up in this ROS domain.

``lay TASK SEED`` has the simulation make a scene; ``order SERVICE`` asks for something; ``record WORDS``
starts an episode; ``watch SECONDS`` listens to images, chunks and the tool's path. The last line printed is
JSON.
"""

import json
import sys

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import String

from openvla_ros.discovery.client import RobotClient
from openvla_ros.errors import DeviceError
from openvla_ros.profile import load_profile
from openvla_ros.programs.measurements import Measurements
from openvla_ros.ros import qos
from openvla_ros.ros.image_messages import from_image

ROBOT = "sim_widowx"
TIMEOUT_S = 30.0
PLAIN = 5.0  # an image whose values deviate less than this shows nothing


def lay(client: RobotClient, task: str, seed: str) -> str:
    """Set the simulation's parameters and reset it; return what it asks for, in words."""
    client.set_parameter("simulation", "task", task)
    client.set_parameter("simulation", "seed", int(seed))
    return client.order("simulation/reset")


def order(client: RobotClient, service: str) -> dict:
    """Call a service; return whether it did as asked, and what it said."""
    try:
        return {"done": True, "said": client.order(service)}
    except DeviceError as error:
        return {"done": False, "said": str(error)}


def record(client: RobotClient, words: str) -> dict:
    """Have the recorder begin an episode of ``words``; return its last answer."""
    client.latched(String, "recorder/instruction").publish(String(data=words))
    answers = [{"done": False, "said": "not asked"}]

    def begun() -> bool:
        answers.append(order(client, "recorder/start"))
        client.listen(0.5)
        return answers[-1]["done"]

    client.wait(begun, TIMEOUT_S)
    return answers[-1]


def watch(client: RobotClient, seconds: str) -> dict:
    """Return how many images came and show something, how many chunks, and how far the tool went."""
    profile = load_profile(ROBOT)
    measured, shown = Measurements(client, profile), []

    def saw(message: Image) -> None:
        shown.append(float(np.std(from_image(message))) > PLAIN)

    client.node.create_subscription(Image, profile.cameras[0].topic, saw, qos.EVERY_IN)
    client.listen(float(seconds))
    steps = np.diff(np.array(measured.path)[:, 1:4], axis=0) if measured.path else np.zeros((0, 3))
    return {
        "images": sum(shown),
        "plain": len(shown) - sum(shown),
        "chunks": measured.chunks.received_count,
        "refused": dict(measured.interventions()),
        "moved_m": float(np.linalg.norm(steps, axis=1).sum()),
    }


PROGRAMS = {"lay": lay, "order": order, "record": record, "watch": watch}

if __name__ == "__main__":
    with RobotClient("peer", timeout_s=TIMEOUT_S) as client:
        result = PROGRAMS[sys.argv[1]](client, *sys.argv[2:])
    print(json.dumps(result))
