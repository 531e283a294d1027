"""The graph of a whole prediction: the engine's actions, and NaN for what a robot must not follow."""

import numpy as np
import onnxruntime
import pytest
import torch
from support.exported_policies import source_of

from openvla_ros.exporting.bundle_check import cases
from openvla_ros.exporting.graph_writer import GraphWriter, WeightFile
from openvla_ros.exporting.network_weights import NetworkWeights
from openvla_ros.exporting.onnx_bundle import capacity
from openvla_ros.exporting.unrolled_graph import POLICY, write_policy
from openvla_ros.exporting.unrolled_policy import UnrolledPolicy
from openvla_ros.resources import shipped_checkpoints

SMALL, PROMPT = str(shipped_checkpoints()["small_base"]), 64


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("graph"), source_of(SMALL)
    with WeightFile(folder / f"{POLICY}.onnx.data") as file:
        graph = GraphWriter(POLICY, file)
        weights = NetworkWeights.of(source.predictor.model.network)
        write_policy(graph, source, weights, PROMPT, capacity(source, PROMPT))
        path = graph.save(folder, {})
    assert (folder / f"{POLICY}.onnx.data").stat().st_size < 9e6  # seven steps, and each weight once
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def inputs(image, words):
    source = source_of(SMALL)
    ids = source.predictor.model.prompt_ids(words)[0].tolist()
    return {
        "image": np.array(source.files.transform.levels(image)[:1]),
        "token_ids": np.array([[*ids, *[0] * (PROMPT - len(ids))]]),
        "prompt_length": np.array([len(ids)]),
    }


@pytest.mark.parametrize(("image", "words"), cases(()), ids=range(4))
def test_graph_and_torch_program_give_the_engines_action(session, image, words):
    source = source_of(SMALL)
    wanted = source.predictor.predict([image], words)
    given = inputs(image, words)
    program = UnrolledPolicy(source, source.statistics["sim_widowx"].action, PROMPT)
    with torch.inference_mode():
        traced = [value.numpy() for value in program(*map(torch.from_numpy, given.values()))]
    for action, tokens in (session.run(None, given), traced):
        np.testing.assert_array_equal(tokens, wanted.token_ids[0])
        np.testing.assert_allclose(action, wanted.actions[0], rtol=0, atol=1e-7)


def changed(given, **values):
    return {**given, **values}


@pytest.mark.parametrize(
    "broken",
    [
        lambda given: changed(given, token_ids=np.zeros_like(given["token_ids"])),
        lambda given: changed(given, prompt_length=np.zeros_like(given["prompt_length"])),
        lambda given: changed(given, prompt_length=given["prompt_length"] - 1),
        lambda given: changed(given, prompt_length=given["prompt_length"] + PROMPT),
        lambda given: {name: np.zeros_like(value) for name, value in given.items()},
    ],
    ids=["no prompt", "no length", "a shorter length", "a longer length", "nothing"],
)
def test_what_is_no_prompt_gives_nan(session, broken):
    """leapp's runner takes a missing input as zeros."""
    given = broken(inputs(*cases(())[3]))
    assert np.isnan(session.run(None, given)[0]).all()
    program = UnrolledPolicy(source_of(SMALL), source_of(SMALL).statistics["sim_widowx"].action, PROMPT)
    if given["prompt_length"][0] in range(1, PROMPT + 1):  # torch has no rows beyond
        with torch.inference_mode():
            assert program(*map(torch.from_numpy, given.values()))[0].isnan().all()
