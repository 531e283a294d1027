"""Loading: what is accepted, and that everything wrong with a folder is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.golden_checkpoints import REFERENCE, SETS

from openvla_ros.errors import CheckpointError
from openvla_ros.model.checkpoints.safetensors import INDEX, load_model, resolve, skeleton, stored_tensors
from openvla_ros.model.network.config import TOWERS
from openvla_ros.model.network.config_file import parse_config, read_config

NORM = "vision_backbone.featurizer.blocks.0.norm1.weight"
DEAD = "vision_backbone.featurizer.norm.weight"


@pytest.fixture
def folder(tmp_path):
    """A copy of the reference checkpoint as one file."""
    source = REFERENCE / "checkpoint"
    tensors = {}
    for shard in sorted(source.glob("*.safetensors")):
        tensors.update(load_file(shard))
    save_file(tensors, tmp_path / "model.safetensors")
    for path in source.glob("*.json"):
        if path.name != INDEX:
            shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_weight_has_the_dtype_and_the_stored_value(dtype):
    source = REFERENCE / "checkpoint"
    model = load_model(source, dtype=dtype)
    stored = {}
    for shard in sorted(source.glob("*.safetensors")):
        stored.update(load_file(shard))
    ours = model.state_dict()
    assert ours
    for key, value in ours.items():
        assert torch.equal(value, stored[key].to(dtype)), key
    never_computed = {key for key in stored if key not in ours}
    assert all(
        ".blocks.2." in key or "attn_pool" in key or "featurizer.norm." in key for key in never_computed
    )
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_one_file_is_the_same_as_shards(folder):
    one, many = load_model(folder), load_model(REFERENCE / "checkpoint")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), many.parameters(), strict=True))


def test_the_weights_do_not_depend_on_the_file_afterwards(folder):
    model = load_model(folder)
    before = model.projector.fc1.weight.clone()
    size = (folder / "model.safetensors").stat().st_size
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(bytes(size))
    assert torch.equal(model.projector.fc1.weight, before)


def test_published_7b_keys_and_shapes():
    """The skeleton of openvla-7b has exactly the 982 published tensors."""
    lines = (REFERENCE / "openvla_7b_keys.txt").read_text().splitlines()
    text = {"model_type": "llama", "vocab_size": 32064, "pad_token_id": 32000}
    config = json.loads((REFERENCE / "checkpoint" / "config.json").read_text()) | {"text_config": text}
    del config["timm_model_kwargs"]
    model = skeleton(parse_config(config, "test"))
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    wanted = {}
    for line in lines:
        if not line[:1].isdigit() or "(" not in line:
            continue
        count, key, shape = line.split(" ", 2)
        names = [key.replace(".N.", f".{i}.") for i in range(int(count))]
        wanted |= dict.fromkeys(names, tuple(int(n) for n in shape.strip("(),").split(",") if n.strip()))
    assert ours == wanted
    assert len(ours) == 982
    assert sum(p.numel() for p in model.parameters()) == 7_541_237_184


@pytest.mark.parametrize("key", [NORM, DEAD])
def test_missing_key(folder, key):
    change_weights(folder, lambda tensors: tensors.pop(key))
    with pytest.raises(CheckpointError, match=f"1 missing keys: {key}"):
        load_model(folder)


def test_extra_key(folder):
    change_weights(folder, lambda tensors: tensors.update({"surprise.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"1 unknown keys: surprise\.weight"):
        load_model(folder)


def test_misshaped_key(folder):
    change_weights(folder, lambda tensors: tensors.update({NORM: torch.zeros(7)}))
    with pytest.raises(CheckpointError, match=r"1 wrong shapes: .*norm1\.weight is \[7\], must be \[24\]"):
        load_model(folder)


def test_wrong_type(folder):
    change_weights(folder, lambda tensors: tensors.update({NORM: torch.zeros(24, dtype=torch.int8)}))
    with pytest.raises(CheckpointError, match=r"norm1\.weight is stored as I8; it must be one of F32"):
        load_model(folder)


def test_truncated_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated or damaged"):
        load_model(folder)


def test_index_that_names_a_shard_that_is_not_there(tmp_path):
    shutil.copytree(REFERENCE / "checkpoint", tmp_path, dirs_exist_ok=True)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"lists the shard {shard.name}, which is missing"):
        load_model(tmp_path)


def test_index_that_lists_a_key_its_shard_lacks(tmp_path):
    shutil.copytree(REFERENCE / "checkpoint", tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["ghost.weight"] = sorted(index["weight_map"].values())[0]
    (tmp_path / INDEX).chmod(0o644)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lists keys that are not in its shards: ghost\.weight"):
        stored_tensors(tmp_path)


def test_pickles_are_never_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(CheckpointError, match=r"contains pickles \(pytorch_model\.bin\) and no safetensors"):
        load_model(folder)


def test_adapter_given_as_a_checkpoint(folder):
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a LoRA adapter"):
        load_model(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"timm_model_ids": ["vit_giant", "vit_so400m_patch14_siglip_224"]}, "unknown tower 'vit_giant'"),
        ({"model_type": "llava"}, "model_type: .*'openvla' or 'prismatic'.*'llava'"),
        ({"use_fused_vision_backbone": False}, "use_fused_vision_backbone is False for 2 timm_model_ids"),
        ({"arch_specifier": "linear"}, "arch_specifier is 'linear'; it must end in 'gelu-mlp'"),
        ({"image_sizes": [224]}, "image_sizes has 1 entries for 2"),
        ({"image_sizes": [224, 0]}, r"image_sizes is \(224, 0\); each must be at least 1"),
        ({"image_sizes": "224"}, "image_sizes"),
        ({"n_action_bins": "256"}, "n_action_bins: .*'256'"),
        ({"n_action_bins": 40000}, "leaves no room for n_action_bins 40000"),
        ({"pad_to_multiple_of": -1}, "pad_to_multiple_of is -1; it must be at least 0"),
        ({"timm_model_ids": []}, "timm_model_ids lists 0 towers"),
        ({"text_config": {"rms_norm_eps": 0.0}}, "rms_norm_eps is 0.0; it must be above 0"),
        ({"timm_model_kwargs": [{"depth": 1}, {}]}, "timm_model_kwargs.0: depth is 1; it must be at least 2"),
        ({"timm_model_kwargs": [{"width": 3}, {}]}, r"timm_model_kwargs\.0\.width: unknown key"),
        ({"timm_model_kwargs": [{"embed_dim": 25}, {}]}, "embed_dim 25 is not a multiple of num_heads 16"),
        ({"timm_override_act_layers": ["quick_gelu", None]}, "timm_override_act_layers"),
        ({"text_config": {"model_type": "phi"}}, "text_config.model_type"),
        ({"text_config": {"hidden_size": 30, "num_attention_heads": 4}}, "not a multiple of 4"),
        ({"text_config": {"num_attention_heads": 4, "num_key_value_heads": 3}}, "num_key_value_heads 3"),
        ({"text_config": {"num_hidden_layers": 0}}, "text_config: num_hidden_layers is 0; it must be"),
        ({"text_config": {"hidden_act": "gelu"}}, "text_config.hidden_act"),
        ({"text_config": {"hidden_size": "24"}}, "text_config.hidden_size"),
    ],
)  # fmt: skip
def test_wrong_config_value_is_named(folder, values, message):
    change_config(folder, **values)
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


def test_unknown_tower_lists_the_choices(folder):
    change_config(folder, timm_model_ids=["vit_tiny", "vit_so400m_patch14_siglip_224"])
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert all(name in str(caught.value) for name in TOWERS)


def test_config_that_disagrees_with_the_weights(folder):
    change_config(folder, timm_model_kwargs=[{"embed_dim": 24, "depth": 4, "num_heads": 3}, {}])
    with pytest.raises(CheckpointError, match=r"does not match its config\.json: .*missing keys"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_config_that_is_no_json_object(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(folder)


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="neither a folder, nor a hub id"):
        resolve(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve(__file__)
    with pytest.raises(CheckpointError, match="not in the local cache"):
        resolve("nobody/nothing-here", offline=True)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_model(tmp_path)


def test_hub_id_from_the_cache(tmp_path, monkeypatch):
    """A snapshot that is already on this machine is found by its hub id, without a network."""
    repository = tmp_path / "models--owner--name"
    revision = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(REFERENCE / "checkpoint", repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve("owner/name", offline=True) == repository / "snapshots" / revision
    assert load_model("owner/name", offline=True).config == read_config(REFERENCE / "checkpoint")


@pytest.mark.parametrize("source", SETS, ids=lambda source: source.name)
def test_progress_goes_to_stderr_and_only_when_asked(source, capsys):
    load_model(source / "checkpoint", progress=True)
    assert "loading weights" in capsys.readouterr().err
    load_model(source / "checkpoint", progress=False)
    assert capsys.readouterr().err == ""
    load_model(source / "checkpoint")  # not a terminal here
    assert capsys.readouterr().err == ""
