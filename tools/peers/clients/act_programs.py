"""Runs in an environment with json_numpy: scripts that speak ``POST /act``, and OpenVLA's own server.

``drive URL SEEDS FORM`` carries out instructions, ``manners URL`` tries what a script may meet, ``serve
DEPLOY_PY URL`` runs OpenVLA's ``deploy.py`` unchanged with a model that asks URL.
"""

import json
import runpy
import socket
import sys
import types

import json_numpy
import numpy as np
import requests
from piped_robot import PipedRobot, seeds

json_numpy.patch()


def ask(url: str, form: str, **fields: object) -> np.ndarray:
    """Return the action as scripts for OpenVLA's server get it."""
    if form == "plain":
        return requests.post(url, json=fields, timeout=60).json()
    # Where json_numpy is not patched in: everything as one string.
    answer = requests.post(url, json={"encoded": json_numpy.dumps(fields)}, timeout=60)
    return json_numpy.loads(answer.json())


def drive(url: str, which: str, form: str) -> None:
    """Run each scene to its end."""
    robot = PipedRobot()
    for seed in seeds(which):
        seen = robot.reset(seed)
        while not seen.over:
            seen = robot.step(ask(url, form, image=seen.image, instruction=seen.instruction))
    robot.report(form)


def manners(url: str) -> None:
    """Report the statuses and messages of requests that cannot be served, and of one that can."""
    robot, said = PipedRobot(), {}
    good = {"image": np.zeros((224, 224, 3), np.uint8), "instruction": "lift the red block"}
    requests_of = {
        "wrong unnorm_key": {**good, "unnorm_key": "bridge_orig"},
        "right unnorm_key": {**good, "unnorm_key": "sim_widowx"},
        "no instruction": {"image": good["image"]},
        "an OFT client's": {**good, "wrist_image": good["image"]},
    }
    with requests.Session() as session:
        for name, fields in requests_of.items():
            answer = session.post(url, json=fields, timeout=60)
            said[name] = [answer.status_code, answer.text[:300]]
    robot.report(said)


class Model:
    """What ``deploy.py`` loads: takes its inputs, and asks ``openvla serve`` for the action."""

    def __init__(self, url: str) -> None:
        self.url = url

    def to(self, *_: object, **__: object) -> "Model":
        """Stay."""
        return self

    def predict_action(self, prompt: str, image: np.ndarray, unnorm_key: str, do_sample: bool) -> np.ndarray:
        """Return the action for the words in the prompt."""
        words = prompt.split("take to ")[1].split("?")[0]
        if words == "fail":
            raise RuntimeError("the model is on fire")
        return ask(self.url, "plain", image=image, instruction=words)


class Inputs(dict):
    """What a processor returns."""

    def to(self, *_: object, **__: object) -> "Inputs":
        """Stay."""
        return self


def stand_ins(url: str) -> dict:
    """Return modules for those of ``deploy.py`` that load and run a network of 15 GB."""
    torch, transformers, draccus = (types.ModuleType(n) for n in ("torch", "transformers", "draccus"))
    torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    torch.device, torch.bfloat16 = str, "bfloat16"
    loader = lambda made: types.SimpleNamespace(from_pretrained=lambda *_, **__: made)  # noqa: E731
    transformers.AutoProcessor = loader(lambda prompt, image: Inputs(prompt=prompt, image=np.array(image)))
    transformers.AutoModelForVision2Seq = loader(Model(url))
    draccus.wrap = lambda: lambda function: function
    return {"torch": torch, "transformers": transformers, "draccus": draccus}


def serve(deploy: str, url: str) -> None:
    """Run OpenVLA's server on a free port, which is printed first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    sys.modules.update(stand_ins(url))
    namespace = runpy.run_path(deploy)
    print(json.dumps(own), flush=True)
    namespace["OpenVLAServer"]("openvla/openvla-7b").run("127.0.0.1", own)


if __name__ == "__main__":
    {"drive": drive, "manners": manners, "serve": serve}[sys.argv[1]](*sys.argv[2:])
