"""Runs in LeRobot's own environment: makes small policies, and says what LeRobot itself does with them.

``make FOLDER HEIGHT WIDTH STATE ACTIONS`` saves checkpoints with random weights and the statistics of made
data. ``reference CHECKPOINT OBSERVATIONS ANSWERS SEED`` runs LeRobot's own inference on the recorded
observations, one action at a time.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.common.control_utils import predict_action
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

STATE, CAMERA = "observation.state", "observation.images.primary"
WORDS = "lift push put reach the red blue green block plate on to and a"
ACT = {
    "chunk_size": 8, "n_action_steps": 5, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32,
    "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
}  # fmt: skip
DIFFUSION = {
    "horizon": 8, "n_action_steps": 4, "down_dims": (16, 32), "diffusion_step_embed_dim": 16,
    "num_train_timesteps": 10, "num_inference_steps": 4, "drop_n_last_frames": 3,
    "pretrained_backbone_weights": None, "use_group_norm": True, "crop_shape": (64, 64),
}  # fmt: skip
SMOLVLA = {
    "chunk_size": 6, "n_action_steps": 4, "num_vlm_layers": 2, "num_steps": 3, "max_state_dim": 8,
    "max_action_dim": 8, "resize_imgs_with_padding": (64, 64), "tokenizer_max_length": 16,
}  # fmt: skip


def make(folder: str, height: str, width: str, state: str, actions: str) -> None:
    """Save a checkpoint of each kind; the last line printed names them, or says why there is none."""
    shapes = (int(height), int(width), int(state), int(actions))
    vlm = small_vlm(Path(folder) / "vlm")
    configs = {
        "act": ACTConfig(**ACT),
        "act_ensembled": ACTConfig(**{**ACT, "n_action_steps": 1, "temporal_ensemble_coeff": 0.01}),
        "diffusion": DiffusionConfig(**DIFFUSION),
        "smolvla": SmolVLAConfig(**SMOLVLA, vlm_model_name=str(vlm)),
    }
    for seed, (name, config) in enumerate(configs.items()):
        torch.manual_seed(seed)
        save(Path(folder) / name, config, *shapes)
    save(Path(folder) / "no_statistics", ACTConfig(**ACT), *shapes, with_statistics=False)
    print(json.dumps(list(configs)))


def save(path: Path, config: PreTrainedConfig, height, width, state, actions, with_statistics=True) -> None:
    """Save a policy with random weights, and its processors."""
    config.device = "cpu"
    config.input_features = {
        CAMERA: PolicyFeature(FeatureType.VISUAL, (3, height, width)),
        STATE: PolicyFeature(FeatureType.STATE, (state,)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (actions,))}
    policy = get_policy_class(config.type)(config)
    for part in (
        policy,
        *make_pre_post_processors(
            config, dataset_stats=statistics(state, actions) if with_statistics else None
        ),
    ):
        part.save_pretrained(path)


def statistics(state: int, actions: int) -> dict:
    """Return the statistics of made data, as LeRobot keeps those of a dataset."""
    rng = np.random.default_rng(0)
    data = {
        "action": rng.uniform(-1.0, 1.0, (500, actions)) * np.append(np.full(actions - 1, 0.04), 1.0),
        STATE: rng.normal(0.3, 0.2, (500, state)),
        CAMERA: rng.uniform(0.0, 1.0, (500, 3)),
    }
    functions = {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std}
    shape = {CAMERA: (3, 1, 1)}
    return {
        key: {
            name: torch.tensor(function(values, axis=0), dtype=torch.float32).reshape(shape.get(key, (-1,)))
            for name, function in functions.items()
        }
        for key, values in data.items()
    }


def small_vlm(folder: Path) -> Path:
    """Save the configuration, tokenizer and processor of a SmolVLM small enough for a test."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    special = ["<pad>", "<unk>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS.split(), "\n"])}
    core = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", extra_special_tokens={
            "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
        },
    )  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "head_dim": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 16,
    }  # fmt: skip
    SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, image_token_id=2).save_pretrained(
        folder
    )
    SmolVLMProcessor(
        SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=4
    ).save_pretrained(folder)
    return folder


def reference(checkpoint: str, observations: str, answers: str, seed: str) -> None:
    """Save what LeRobot's own inference gives for each observation, one action (D,) for each."""
    recorded = dict(np.load(observations))
    words = str(recorded.pop("task"))
    config = PreTrainedConfig.from_pretrained(checkpoint)
    policy = get_policy_class(config.type).from_pretrained(checkpoint, config=config, strict=True)
    before, after = make_pre_post_processors(config, checkpoint)
    policy.reset()
    torch.manual_seed(int(seed))
    actions = []
    for step in range(len(recorded[STATE])):
        seen = {key: values[step] for key, values in recorded.items()}
        device = torch.device(config.device)
        actions.append(
            predict_action(seen, policy, device, before, after, config.use_amp, task=words)[0].numpy()
        )
    np.savez(answers, actions=np.stack(actions))


if __name__ == "__main__":
    {"make": make, "reference": reference}[sys.argv[1]](*sys.argv[2:])
