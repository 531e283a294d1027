"""``features.json`` as the versions of TensorFlow Datasets have written it, and kinds that are not read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from openvla_ros.data.formats.tf_example import parse_example, serialise_example
from openvla_ros.data.formats.tfds_features import Record, parse_features
from openvla_ros.errors import DatasetError

_CLASS = "tensorflow_datasets.core.features"


def old(kind, content, **more):
    return {"type": f"{_CLASS}.{kind}", "content": content, **more}


def dictionary(**features):
    return old("features_dict.FeaturesDict", features)


# Before 4.3 every feature wrote its class and its own values.
PLAIN = dictionary(
    steps=old(
        "dataset_feature.Dataset",
        {
            "feature": dictionary(
                action=old("feature.Tensor", {"shape": [2], "dtype": "float32"}),
                reward=old("feature.Tensor", {"shape": [], "dtype": "float32"}),
                image=old(
                    "image_feature.Image",
                    {"shape": [None, None, 3], "dtype": "uint8", "encoding_format": "png"},
                ),
                words=old("text_feature.Text", {"use_encoder": False}),
            ),
            "length": None,
        },
    ),
)
# Then the content was the message of today, first as text.
MESSAGES = dictionary(
    steps=old(
        "dataset_feature.Dataset",
        {
            "feature": old(
                "features_dict.FeaturesDict",
                json.dumps(
                    {
                        "features": {
                            "action": {"tensor": {"shape": {"dimensions": ["2"]}, "dtype": "float32"}},
                            "reward": {"tensor": {"shape": {}, "dtype": "float32"}},
                            "image": {
                                "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "encodingFormat": "png"}
                            },
                            "words": {"text": {}},
                        }
                    }
                ),
                proto_cls="tensorflow_datasets.FeaturesDict",
            ),
            "length": -1,
        },
    ),
)


@pytest.mark.parametrize("description", [PLAIN, MESSAGES])
def test_older_descriptions_mean_the_same(description):
    features = parse_features(description, "test")
    example = {
        "steps/action": np.arange(6, dtype=np.float32),
        "steps/reward": np.array([0, 0, 1], np.float32),
        "steps/image": [b"a", b"b", b"c"],
        "steps/words": [b"x", b"y", b"z"],
    }
    record = Record(features, parse_example(serialise_example(example), "test"), "test")
    np.testing.assert_array_equal(record.array("steps/action"), [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(record.array("steps/reward"), [0, 0, 1])
    assert record.blobs("steps/image") == [b"a", b"b", b"c"]
    assert record.texts("steps/words") == ["x", "y", "z"]


def test_a_description_that_is_no_json_is_named():
    broken = dictionary(steps=old("feature.Tensor", "{shape"))
    with pytest.raises(DatasetError, match="steps: the content of Tensor is not JSON"):
        parse_features(broken, "features.json")


def test_a_kind_that_is_not_read_matters_only_where_it_is_asked_for():
    steps = {
        "sound": {"pythonClassName": f"{_CLASS}.audio_feature.Audio", "audio": {}},
        "action": {"tensor": {"shape": {"dimensions": ["1"]}, "dtype": "float32"}},
    }
    inner = {"featuresDict": {"features": steps}}
    description = {"featuresDict": {"features": {"steps": {"sequence": {"feature": inner, "length": "-1"}}}}}
    values = {"steps/action": np.zeros(2, np.float32), "steps/sound": [b"", b""]}
    features = parse_features(description, "test")
    record = Record(features, parse_example(serialise_example(values), "test"), "test")
    assert record.array("steps/action").shape == (2, 1)
    with pytest.raises(DatasetError, match=r"'steps/sound' is .*audio_feature.Audio, which is not supported"):
        record.blobs("steps/sound")
