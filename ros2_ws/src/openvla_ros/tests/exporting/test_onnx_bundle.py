"""Exported graphs, run by ONNX Runtime without this package, give the original implementation's numbers."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from support.exported_policies import BASE, KEY, export, made_checkpoint, runner, source_of
from support.golden_checkpoints import RANK, case_id, cases, write_adapter

from openvla_ros.errors import ExportError, InvalidValueError, OpenVLARosError
from openvla_ros.exporting import bundle_formats, onnx_bundle
from openvla_ros.exporting.bundle_formats import export_bundle
from openvla_ros.exporting.network_weights import NetworkWeights
from openvla_ros.exporting.onnx_bundle import export_onnx
from openvla_ros.exporting.policy_source import ExportChoices
from openvla_ros.integrity.checksums import read_sums, sha256
from openvla_ros.resources import shipped_checkpoints

SMALL = str(shipped_checkpoints()["small_base"])
# The program in a bundle, where neither torch nor this package can be imported.
ALONE = """
import runpy, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "openvla_ros", "safetensors"):
            raise ImportError(f"{name} is not needed here")
sys.meta_path.insert(0, Block())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Return the bundle of a checkpoint and its choices; each is exported once."""
    made = {}

    def folder_of(checkpoint=BASE, weights="fp32", **choices):
        key = (checkpoint, weights, *choices.items())
        if key not in made:
            made[key] = export(tmp_path_factory.mktemp("bundles") / "bundle", checkpoint, weights, **choices)
        return made[key].folder

    return folder_of


@pytest.mark.parametrize("case", cases(), ids=case_id)
def test_the_golden_numbers(bundle, case):
    folder = bundle(str(case.checkpoint), center_crop=case.center_crop, prompt_style=case.style)
    program, numbers = runner(), case.numbers()
    policy = program.OnnxPolicy(folder)
    image = program.read_image(case.folder / "images" / case.image)
    np.testing.assert_array_equal(
        program.transform(image, policy.bundle["image_transform"]), numbers["pixel_values"]
    )
    for key in policy.bundle["statistics"]:
        action = policy.act(image, case.instruction, key)
        np.testing.assert_array_equal(action.token_ids, numbers[f"action_token_ids::{key}"])
        np.testing.assert_allclose(action.values, numbers[f"actions::{key}"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(action.logits[0], numbers["first_action_logits"], rtol=0, atol=1e-4)
    action = policy.act(image, case.instruction, case.unnorm_key)
    top = np.take_along_axis(action.logits, numbers["step_top8_ids"][: len(action.logits)], axis=1)
    np.testing.assert_allclose(top, numbers["step_top8_logits"], rtol=0, atol=1e-4)


def test_the_shipped_checkpoint_without_torch_and_without_this_package(bundle, tmp_path):
    folder = bundle(SMALL)
    source = source_of(SMALL)
    from PIL import Image

    from openvla_ros.exporting.bundle_check import made_images

    image = made_images()[3]
    Image.fromarray(image).save(tmp_path / "scene.png")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, folder / "run_policy.py", tmp_path / "scene.png", "lift it", "--json"],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, wanted = json.loads(done.stdout), source.predictor.predict([image], "lift it")
    assert said["token_ids"] == wanted.token_ids[0].tolist()
    assert said["actions"] == wanted.actions[0].tolist()
    assert said["unnorm_key"] == "sim_widowx"


def test_what_the_graphs_and_the_manifest_state(bundle):
    folder = bundle(SMALL)
    stated = json.loads((folder / "openvla_bundle.json").read_text())
    assert stated["action_space"]["names"][-1] == "gripper"
    assert stated["action_space"]["units"] == ["m", "m", "m", "rad", "rad", "rad", "1"]
    assert (stated["action_space"]["frame"], stated["action_space"]["gripper_open"]) == ("base", 1.0)
    assert stated["checkpoint"]["sha256"] == {
        "model.safetensors": sha256(shipped_checkpoints()["small_base"] / "model.safetensors")
    }
    assert len(stated["action_tokens"]["ids"]) == len(stated["action_tokens"]["values"]) == 256
    assert set(stated["files"]) == {p.name for p in folder.iterdir()} - {"openvla_bundle.json", "SHA256SUMS"}
    assert read_sums(folder).keys() == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    for name, graph in stated["graphs"].items():
        model = onnx.load(folder / graph["file"], load_external_data=False)
        said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        assert said["openvla_ros.graph"] == name
        assert (said["openvla_ros.opset"], model.opset_import[0].version) == (17, 17)
        for fact in (
            "action_tokens",
            "statistics",
            "action_space",
            "image_transform",
            "prompt",
            "checkpoint",
        ):
            assert said[f"openvla_ros.{fact}"] == stated[fact]
    both = [set(stated["graphs"][name]["data"]) for name in ("prefill", "decode")]
    assert both[0] == both[1] == {"language_model.onnx.data"}  # its weights are stored once
    assert (folder / "language_model.onnx.data").stat().st_size < 1.1 * 4 * sum(
        value.numel() for value in source_of(SMALL).predictor.model.network.language_model.parameters()
    )


@pytest.mark.parametrize(
    "text",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
        {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rms_norm_eps": 1e-5},
    ],
    ids=["grouped heads and biases", "tied head", "scaled positions"],
)
def test_language_models_of_other_shapes(tmp_path, text):
    report = export(tmp_path / "out", str(made_checkpoint(tmp_path / "made", **text)), unnorm_key=KEY)
    assert report.agreement.exact
    assert report.agreement.tokens == 28


def test_an_adapter_is_merged_into_the_graphs(tmp_path):
    modules = (
        "language_model.lm_head",
        "language_model.model.layers.1.mlp.down_proj",
        "language_model.model.layers.0.self_attn.q_proj",
        "vision_backbone.featurizer.patch_embed.proj",
        "projector.fc2",
    )
    adapter = write_adapter(
        tmp_path / "adapter", source_of().files.folder.parent, modules, lora_alpha=40 * RANK
    )
    report = export(tmp_path / "out", adapter=adapter, unnorm_key=KEY)
    assert report.agreement.exact
    policy, plain = runner().OnnxPolicy(report.folder), source_of(unnorm_key=KEY).predictor
    image = np.full((30, 40, 3), 90, np.uint8)
    assert (
        policy.act(image, "lift").token_ids.tolist() != plain.predict([image], "lift").token_ids[0].tolist()
    )
    assert "adapter_model.safetensors" in policy.bundle["checkpoint"]["sha256"]


def test_a_padded_prompt_gives_the_same_logits(bundle):
    """A runtime with fixed shapes pads the prompt; nothing looks at the padding."""
    policy = runner().OnnxPolicy(bundle(SMALL))
    ids = policy.prompt_ids("lift the red cube")
    image = np.random.default_rng(0).standard_normal((1, 64, 128)).astype(np.float32)
    logits = []
    for padding in (0, 64 - len(ids)):
        inputs = {
            "image_embeddings": image,
            "token_ids": np.array([[*ids, *[5] * padding]]),
            "prompt_length": np.array([len(ids)]),
        }
        first, cache = policy._step("prefill", inputs)
        given = {"token_id": np.array([[600]]), "position": np.array([64 + len(ids)]), **cache}
        logits.append(np.stack([first, policy._step("decode", given)[0]]))
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("weights", "smaller"), [("int8", 0.5), ("int4", 0.4)])
def test_integer_weights_are_smaller_and_their_difference_is_measured(bundle, tmp_path, weights, smaller):
    report = export(tmp_path / "out", SMALL, weights)
    whole = bundle(SMALL)
    for name in ("language_model.onnx.data", "vision.onnx.data"):
        assert report.files[name] < smaller * (whole / name).stat().st_size
    assert report.agreement.cases == 16
    assert 0 < report.agreement.same_tokens < report.agreement.tokens
    assert report.agreement.action_difference.max() > 0
    stated = json.loads((report.folder / "openvla_bundle.json").read_text())
    assert (stated["weights"], stated["verified"]["cases"]) == (weights, 16)
    assert "nothing" not in "\n".join(report.lines())


def test_a_bundle_that_disagrees_is_not_left(monkeypatch, tmp_path):
    put = NetworkWeights.put

    def wrong(self, graph, key):
        values = self[key]
        return (
            graph.weight(key, values * 1.5)
            if key.endswith("layers.1.input_layernorm.weight")
            else put(self, graph, key)
        )

    monkeypatch.setattr(NetworkWeights, "put", wrong)
    with pytest.raises(ExportError, match=r"do not compute what the checkpoint does: \d+ of 28 tokens"):
        export(tmp_path / "out", unnorm_key=KEY)
    assert list(tmp_path.iterdir()) == []


def test_rounding_alone_is_no_agreement(monkeypatch, tmp_path):
    """The same tokens are not enough: a wrong epsilon never changes one here, but the logits."""
    monkeypatch.setattr("openvla_ros.exporting.vision_graph.EPS", 1e-5)
    with pytest.raises(ExportError, match="28 of 28 tokens are the same, a logit differs by at most"):
        export(tmp_path / "out", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(ExportError, match="out already exists; choose a new folder"):
        export(tmp_path / "out", SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        export(tmp_path / "file" / "out", SMALL)
    assert (tmp_path / "out" / "mine").read_text() == "keep"


def test_more_positions_than_the_model_has(tmp_path):
    with pytest.raises(InvalidValueError, match="need a cache of 4288; the model has 2048 positions"):
        export_onnx(source_of(SMALL), tmp_path / "out", prompt_tokens=4200)
    with pytest.raises(InvalidValueError, match="--prompt-tokens 9 is too few: the prompt of 'reach' has 15"):
        export_onnx(source_of(SMALL), tmp_path / "out", prompt_tokens=9)
    assert export_onnx(source_of(SMALL), tmp_path / "out", prompt_tokens=20).agreement.exact


def test_the_program_refuses_what_it_cannot_use(bundle, tmp_path):
    import shutil

    program = runner()
    folder = tmp_path / "copy"
    shutil.copytree(bundle(), folder)
    policy = program.OnnxPolicy(folder)
    gray = np.zeros((20, 20, 3), np.uint8)
    for image, words, key, said in (
        (gray, "lift", None, "give an unnorm_key; the choices are bridge_orig, fractal"),
        (gray, "lift", "bridge", "no statistics for unnorm_key 'bridge'; the choices are"),
        (gray, " ", KEY, "the instruction is empty"),
        (gray, "lift " * 80, KEY, "this bundle takes 64: shorten the instruction"),
        (gray.astype(float), "lift", KEY, "must be uint8"),
        (gray[:, :0], "lift", KEY, "must be uint8"),
    ):
        with pytest.raises(program.PolicyError, match=said):
            policy.act(image, words, key)
    with pytest.raises(program.PolicyError, match="this onnxruntime has no NoProvider"):
        program.OnnxPolicy(folder, ["NoProvider"])
    with (folder / "vision.onnx.data").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")
    with pytest.raises(program.PolicyError, match=r"vision.onnx.data was damaged or changed"):
        program.OnnxPolicy(folder)
    (folder / "openvla_bundle.json").write_text('{"format": "openvla_ros leapp", "version": 1}')
    with pytest.raises(program.PolicyError, match="format and version are"):
        program.OnnxPolicy(folder)
    (tmp_path / "scene.png").write_bytes(b"no image")
    with pytest.raises(program.PolicyError, match="not a readable image"):
        program.read_image(tmp_path / "scene.png")


def test_the_verb(tmp_path):
    from typer.testing import CliRunner

    from openvla_ros.cli.program import app

    arguments = ["export-model", "small_base", "--to", "onnx", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["same_tokens"], said["tokens"], said["weights"]) == (28, 28, "fp32")
    assert said["action_space_from"] == "the manifest of small_base, robot sim_widowx"
    result = CliRunner().invoke(app, [*arguments[:-1], "--weights", "int4", "--to", "leapp"])
    assert isinstance(result.exception, OpenVLARosError)
    assert onnx_bundle.LANGUAGE_DATA in said["files"]


def test_a_bundle_whose_description_was_changed_is_refused(bundle, tmp_path):
    """Statistics and crop decide what an action is as much as the weights do."""
    import shutil

    program, folder = runner(), tmp_path / "copy"
    shutil.copytree(bundle(), folder)
    program.OnnxPolicy(folder)
    path = folder / "openvla_bundle.json"
    text = path.read_text()
    changed = text.replace('"center_crop": false', '"center_crop": true')
    assert changed != text
    path.write_text(changed)
    with pytest.raises(program.PolicyError, match=r"openvla_bundle.json was damaged or changed"):
        program.OnnxPolicy(folder)
    path.write_text(text)
    (folder / "SHA256SUMS").write_text("no sums\n")
    with pytest.raises(program.PolicyError, match="SHA256SUMS cannot be read"):
        program.OnnxPolicy(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(program.PolicyError, match="SHA256SUMS cannot be read"):
        program.OnnxPolicy(folder)


def test_an_existing_folder_is_refused_before_the_checkpoint_is_loaded(tmp_path, monkeypatch):
    """Loading openvla-7b takes minutes."""
    (tmp_path / "mine").write_text("keep")
    monkeypatch.setattr(bundle_formats, "load_policy_source", lambda choices: pytest.fail("was loaded"))
    for to in ("onnx", "leapp"):
        with pytest.raises(ExportError, match="already exists; choose a new folder"):
            export_bundle(ExportChoices("small_base"), tmp_path, to=to)
