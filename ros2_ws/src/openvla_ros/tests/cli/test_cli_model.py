"""The verbs about checkpoints, as a user runs them."""

import json
import shutil

import numpy as np
import pytest
from support.golden_checkpoints import REFERENCE, case_id, cases, write_adapter
from typer.testing import CliRunner

from openvla_ros.cli.program import app
from openvla_ros.errors import OpenVLARosError

CHECKPOINT = str(REFERENCE / "checkpoint")
IMAGE = str(REFERENCE / "images" / "02.png")


def openvla(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("case", cases(), ids=case_id)
def test_predict_prints_the_golden_action(case):
    arguments = ["--unnorm-key", case.unnorm_key, "--dtype", "fp32", "--json", "--prompt-style", case.style]
    image = case.folder / "images" / case.image
    crop = ["--center-crop"] if case.center_crop else []
    out = json.loads(openvla("predict", case.checkpoint, image, case.instruction, *arguments, *crop))
    numbers = case.numbers()
    assert out["token_ids"] == numbers["action_token_ids"].tolist()
    np.testing.assert_allclose(out["actions"], numbers["actions"][None], rtol=0, atol=1e-12)
    assert len(out["confidence"]) == len(out["entropy"]) == len(out["token_ids"])
    assert out["seconds"] > 0


def test_predict_among_action_tokens_alone():
    actions = range(31744, 32000)
    case = next(case for case in cases() if not set(case.numbers()["action_token_ids"]) <= set(actions))
    arguments = [case.checkpoint, case.folder / "images" / case.image, case.instruction]
    options = ["--unnorm-key", "bridge_orig", "--only-action-tokens", "--json"]
    assert set(json.loads(openvla("predict", *arguments, *options))["token_ids"]) <= set(actions)


def test_predict_says_what_is_wrong(tmp_path):
    with pytest.raises(OpenVLARosError, match="give an unnorm_key"):
        openvla("predict", CHECKPOINT, IMAGE, "lift")
    with pytest.raises(OpenVLARosError, match="not a readable image"):
        openvla("predict", CHECKPOINT, tmp_path / "none.png", "lift", "--unnorm-key", "bridge_orig")
    with pytest.raises(OpenVLARosError, match="the instruction is empty"):
        openvla("predict", CHECKPOINT, IMAGE, " ", "--unnorm-key", "bridge_orig")
    with pytest.raises(OpenVLARosError, match="device 'tpu'"):
        openvla("predict", CHECKPOINT, IMAGE, "lift", "--unnorm-key", "bridge_orig", "--device", "tpu")


def test_predict_in_words():
    out = openvla("predict", CHECKPOINT, IMAGE, "lift", "--unnorm-key", "bridge_orig")
    assert len(out.splitlines()[0].split()) == 7
    assert "probability" in out


def test_ask_prints_text():
    out = openvla("ask", IMAGE, "what is it?", "--checkpoint", CHECKPOINT, "--max-tokens", "4")
    assert out.strip()


def test_inspect_names_what_is_there():
    found = json.loads(openvla("inspect", CHECKPOINT, "--json"))
    assert found["kind"] == "openvla"
    assert found["parameters"] == 1_643_648
    assert found["problems"] == []
    assert found["datasets"]["bimanual_14d"]["action_width"] == 14
    assert found["stored_types"] == {"BF16": 130}
    assert "bridge_orig:" in openvla("inspect", CHECKPOINT)


def test_inspect_reads_headers_only(tmp_path):
    """Weights that are all holes on the disk are described like real ones, and wrong ones are named."""
    folder = shutil.copytree(CHECKPOINT, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 48
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config))
    problems = json.loads(openvla("inspect", folder, "--json"))["problems"]
    assert any("wrong shapes" in line and "language_model" in line for line in problems)


def test_inspect_and_merge_an_adapter(tmp_path):
    modules = ["language_model.lm_head", "vision_backbone.featurizer.patch_embed.proj"]
    folder = write_adapter(tmp_path / "adapter", REFERENCE, modules)
    found = json.loads(openvla("inspect", folder, "--json"))
    assert found["kind"] == "lora-adapter"
    assert found["modules"] == 2
    assert found["adapts_output_head"]
    assert found["adapts_patch_embedding"]
    assert "merged checkpoint" in openvla("merge", CHECKPOINT, folder, tmp_path / "merged")
    options = ["--unnorm-key", "bridge_orig", "--dtype", "bf16", "--json"]
    merged = json.loads(openvla("predict", tmp_path / "merged", IMAGE, "lift", *options))
    beside = json.loads(openvla("predict", CHECKPOINT, IMAGE, "lift", "--adapter", folder, *options))
    base = json.loads(openvla("predict", CHECKPOINT, IMAGE, "lift", *options))
    assert merged["token_ids"][0] == beside["token_ids"][0] != base["token_ids"][0]


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--benchmark", "liber"], "no benchmark 'liber'; those of vla-eval are openvla_ros, libero"),
        (["--benchmark", "simpler", "--robot", "widowx"], "takes the place of a robot; leave out --robot"),
        (["--benchmark", "simpler", "--observation-map", "droid"], "leave out --observation-map"),
        (["--benchmark", "robotwin"], "cannot be served: it has two arms"),
        (["--benchmark", "libero"], "libero makes 20 steps in a second; the policy's actions are for 5"),
        (["--benchmark", "simpler", "--policy", "hold"], "--benchmark simpler needs a checkpoint"),
    ],
)
def test_serve_says_what_a_benchmark_cannot_be_served(arguments, wrong):
    with pytest.raises(OpenVLARosError, match=wrong):
        openvla("serve", "small_base", "--port", "0", *arguments)
