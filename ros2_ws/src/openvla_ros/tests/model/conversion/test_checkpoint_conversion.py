"""Prismatic's native checkpoints become the published ones; a pickle that would run code is refused."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.golden_checkpoints import SETS, cases

from openvla_ros.errors import CheckpointError
from openvla_ros.model.checkpoints.safetensors import load_model, stored_tensors
from openvla_ros.model.conversion.checkpoint_conversion import convert_checkpoint
from openvla_ros.model.conversion.pickles import read_pickle
from openvla_ros.model.inference.inspection import describe
from openvla_ros.model.inference.loading import load_action_predictor
from openvla_ros.model.inference.options import LoadOptions

# The published names, turned back into Prismatic's.
TO_NATIVE = (
    (r"^vision_backbone\.featurizer\.", "vision_backbone/dino_featurizer."),
    (r"^vision_backbone\.fused_featurizer\.", "vision_backbone/siglip_featurizer."),
    (r"^projector\.fc1\.", "projector/projector.0."),
    (r"^projector\.fc2\.", "projector/projector.2."),
    (r"^projector\.fc3\.", "projector/projector.4."),
    (r"^language_model\.", "llm_backbone/llm."),
    (r"\.scale_factor$", ".gamma"),
)


def native_weights(folder, one_tower):
    parts = {"vision_backbone": {}, "projector": {}, "llm_backbone": {}}
    for path in sorted((folder / "checkpoint").glob("*.safetensors")):
        for key, value in load_file(path).items():
            name = key
            for pattern, replacement in TO_NATIVE:
                name = re.sub(pattern, replacement, name)
            part, _, rest = name.partition("/")
            rest = rest.replace("dino_featurizer", "featurizer") if one_tower else rest
            parts[part][rest] = value.float()
    return parts


@pytest.fixture(params=SETS, ids=lambda folder: folder.name)
def native(request, tmp_path):
    """A Prismatic run folder with the reference's weights."""
    published = json.loads((request.param / "checkpoint" / "config.json").read_text())
    one_tower = not published["use_fused_vision_backbone"]
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    base = "siglip-224px+7b" if one_tower else "prism-dinosiglip-224px+7b"
    config = {"vla": {"base_vlm": base}, "text_config": published["text_config"]}
    config["timm_model_kwargs"] = published["timm_model_kwargs"]
    (folder / "config.json").write_text(json.dumps(config))
    weights = native_weights(request.param, one_tower)
    torch.save({"model": weights}, folder / "checkpoints" / "step-000001-epoch-00-loss=1.0.pt")
    shutil.copyfile(
        request.param / "checkpoint" / "dataset_statistics.json", folder / "dataset_statistics.json"
    )
    return request.param, folder, tmp_path / "out"


def test_a_native_checkpoint_becomes_the_published_one(native):
    reference, folder, out = native
    assert describe(folder)["kind"] == "prismatic-native"
    assert convert_checkpoint(folder, out, tokenizer=reference / "checkpoint") == "prismatic-native"
    ours, published = (
        load_model(out, dtype=torch.float32),
        load_model(reference / "checkpoint", dtype=torch.float32),
    )
    theirs = published.state_dict()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.pop(key)), key
    assert not theirs
    assert describe(out)["problems"] == []
    assert describe(out)["prompt_style"] == describe(reference / "checkpoint")["prompt_style"]
    case = next(case for case in cases() if case.folder == reference)
    predictor = load_action_predictor(out, LoadOptions(unnorm_key=case.unnorm_key, dtype=torch.float32))
    assert np.isfinite(predictor.predict([np.zeros((50, 80, 3), np.uint8)], case.instruction).actions).all()


def test_what_a_native_checkpoint_may_lack_is_named(native):
    reference, folder, out = native
    tokenizer = reference / "checkpoint"
    with pytest.raises(CheckpointError, match="give --tokenizer"):
        convert_checkpoint(folder, out)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vla": {"base_vlm": "llava"}}))
    with pytest.raises(CheckpointError, match=r"vla\.base_vlm is 'llava'; known: prism-dinosiglip"):
        convert_checkpoint(folder, out, tokenizer=tokenizer)
    (folder / "config.json").write_text(json.dumps({"model": {"vision_backbone_id": "clip"}}))
    with pytest.raises(CheckpointError, match=r"model\.llm_backbone_id is missing"):
        convert_checkpoint(folder, out, tokenizer=tokenizer)
    (folder / "config.json").write_text(json.dumps(config))
    path = next((folder / "checkpoints").glob("*.pt"))
    weights = torch.load(path, weights_only=True)
    torch.save({"model": weights["model"] | {"vision_backbone": {}}}, path)
    with pytest.raises(CheckpointError, match="missing keys: vision_backbone"):
        convert_checkpoint(folder, out, tokenizer=tokenizer)
    torch.save({"model": {"projector": {}}}, path)
    with pytest.raises(CheckpointError, match=r"must contain model\.\{vision_backbone.*it has projector"):
        convert_checkpoint(folder, out, tokenizer=tokenizer)
    path.rename(path.with_name("a.pt"))
    torch.save({}, path.with_name("b.pt"))
    with pytest.raises(CheckpointError, match=r"must contain one \.pt file; it contains a\.pt, b\.pt"):
        convert_checkpoint(folder, out, tokenizer=tokenizer)
    assert not out.exists()


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, by_torch):
    path, sprung = tmp_path / "model.pt", tmp_path / "sprung"
    if by_torch:
        torch.save({"model": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Trap(sprung)}))
    with pytest.raises(CheckpointError, match="is damaged or would run code"):
        read_pickle(path)
    assert not sprung.exists()


def test_other_pickles(tmp_path):
    path = tmp_path / "model.pt"
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="contains a list"):
        read_pickle(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_pickle(path)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_pickle(tmp_path / "none.pt")


def test_kinds_that_need_no_conversion(tmp_path):
    with pytest.raises(CheckpointError, match="is a checkpoint of kind openvla, which needs no conversion"):
        convert_checkpoint(SETS[0] / "checkpoint", tmp_path / "out")
    assert stored_tensors(SETS[0] / "checkpoint")
    with pytest.raises(CheckpointError, match=r"lacks config\.json and adapter_config\.json"):
        convert_checkpoint(tmp_path, tmp_path / "out")
