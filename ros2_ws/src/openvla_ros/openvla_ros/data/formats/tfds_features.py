"""The ``features.json`` of a TFDS dataset: which columns a record has, and their types.

Nested features are flattened to paths joined with ``/``, as TFDS names them inside a record
(``steps/observation/image``). Features under a sequence have one value per step.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openvla_ros.data.episodes.encoded_images import ArrayFrames, EncodedFrames
from openvla_ros.data.formats.tf_example import Example, Values
from openvla_ros.errors import DatasetError
from openvla_ros.values.episode import ImageSequence

Kind = Literal["tensor", "image", "text", "other"]


@dataclass(frozen=True)
class Feature:
    """One column of a record."""

    path: str
    kind: Kind
    dtype: str  # of a tensor; of another kind its class
    shape: tuple[int | None, ...]  # of one value, without the steps
    encoding: str  # of a tensor: none, bytes or zlib; of an image: jpeg or png
    per_step: bool
    ragged: bool = False  # holds a second sequence of unknown length


def parse_features(description: Mapping[str, Any], origin: str) -> dict[str, Feature]:
    """Return the columns that ``features.json`` describes, by path.

    A kind that is not read, such as audio, is an error only where its column is asked for. Raises
    ``DatasetError`` if the description is not one of features.
    """
    return {feature.path: feature for feature in _walk(description, (), None, origin)}


def _walk(
    node: Mapping[str, Any], path: tuple[str, ...], lengths: tuple[int | None, ...] | None, origin: str
) -> Iterator[Feature]:
    """``lengths``: of the sequences around this node inside the steps; None outside any sequence."""
    match _current(node, f"{origin}: {'/'.join(path) or 'features'}"):
        case {"featuresDict": {"features": features}}:
            for name, child in features.items():
                yield from _walk(child, (*path, name), lengths, origin)
        case {"sequence": {"feature": child} as sequence}:
            length = int(sequence.get("length", -1))
            inner = () if lengths is None else (*lengths, None if length < 0 else length)
            yield from _walk(child, path, inner, origin)
        case {"tensor": tensor}:
            yield _feature(path, "tensor", tensor, lengths)
        case {"image": image}:
            yield _feature(path, "image", {**image, "encoding": image.get("encodingFormat", "")}, lengths)
        case {"text": _}:
            yield _feature(path, "text", {"dtype": "string"}, lengths)
        case {"classLabel": _}:
            yield _feature(path, "tensor", {"dtype": "int64"}, lengths)
        case _:
            kind = node.get("pythonClassName", "a feature without a class")
            yield _feature(path, "other", {"dtype": kind}, lengths)


def _current(node: Mapping[str, Any], origin: str) -> Mapping[str, Any]:
    """Return ``node`` as TFDS describes it since 4.5; before, it was a class and its content.

    Such a content is the same message, possibly as JSON text, or, before 4.3, plain values.
    """
    if "type" not in node or "content" not in node:
        return node
    name = str(node["type"]).rpartition(".")[2]
    content = node["content"]
    if isinstance(content, str):
        try:
            content = json.loads(content or "{}")
        except ValueError as error:
            raise DatasetError(f"{origin}: the content of {name} is not JSON: {error}") from error
    content = content or {}
    shape = content.get("shape") if isinstance(content, dict) else None
    if isinstance(shape, list):
        content = {**content, "shape": {"dimensions": [-1 if n is None else n for n in shape]}}
    match name:
        case "FeaturesDict":
            return {"featuresDict": {"features": content.get("features", content)}}
        case "Sequence" | "Dataset":
            length = content.get("length")
            return {"sequence": {**content, "length": -1 if length is None else length}}
        case "Tensor" | "Scalar":
            return {"tensor": content}
        case "Image":
            found = content.get("encodingFormat", content.get("encoding_format")) or ""
            return {"image": {**content, "encodingFormat": found}}
        case "Text":
            return {"text": {}}
        case "ClassLabel":
            return {"classLabel": content}
    return {"pythonClassName": name}


def _feature(
    path: tuple[str, ...], kind: Kind, spec: Mapping[str, Any], lengths: tuple[int | None, ...] | None
) -> Feature:
    dimensions = spec.get("shape", {}).get("dimensions", [])
    shape = (*(lengths or ()), *(None if int(n) < 0 else int(n) for n in dimensions))
    return Feature(
        path="/".join(path),
        kind=kind,
        dtype=spec.get("dtype", "uint8"),
        shape=shape,
        encoding=spec.get("encoding", "none"),
        per_step=lengths is not None,
        ragged=kind != "image" and None in shape,
    )


class Record:
    """One episode's record; columns are decoded on access."""

    def __init__(self, features: Mapping[str, Feature], example: Example, origin: str) -> None:
        self._features = features
        self._example = example
        self.origin = origin

    def __contains__(self, path: str) -> bool:
        return path in self._features

    def _values(self, path: str) -> tuple[Feature, Values]:
        if path not in self._features:
            known = ", ".join(sorted(self._features))
            raise DatasetError(f"{self.origin}: no feature {path!r}; it has {known}")
        feature = self._features[path]
        if feature.kind == "other":
            raise DatasetError(f"{self.origin}: feature {path!r} is {feature.dtype}, which is not supported")
        if feature.ragged or path not in self._example:
            why = "is a sequence of sequences" if feature.ragged else "is missing in this record"
            raise DatasetError(f"{self.origin}: feature {path!r} {why}")
        return feature, self._example[path]

    def blobs(self, path: str) -> list[bytes]:
        """Return a column of texts or of encoded images, one entry a step."""
        _, values = self._values(path)
        if not isinstance(values, list):
            raise DatasetError(f"{self.origin}: feature {path!r} contains numbers, not texts or images")
        return values

    def is_text(self, path: str) -> bool:
        """Return whether column ``path`` contains texts; raises ``DatasetError`` if it does not exist."""
        feature, values = self._values(path)
        return isinstance(values, list) and feature.encoding == "none"

    def is_float(self, path: str) -> bool:
        """Return whether column ``path`` is of floating-point numbers."""
        return self._features[path].dtype.startswith("float")

    def outside_steps(self) -> list[str]:
        """Return the single texts and numbers outside the steps that this record has."""
        return [
            feature.path
            for feature in self._features.values()
            if not feature.per_step
            and feature.kind in ("text", "tensor")
            and feature.shape == ()
            and feature.path in self._example
        ]

    def value(self, path: str) -> bytes | float | int | bool:
        """Return a single text, as bytes, or number outside the steps."""
        if self.is_text(path):
            blobs = self.blobs(path)
            return blobs[0] if blobs else b""
        number: float | int | bool = self.array(path).item()
        return number

    def text(self, path: str) -> str:
        """Return the first entry of a column of texts; raises ``DatasetError`` if it is not UTF-8."""
        return (self.texts(path) or [""])[0]

    def texts(self, path: str) -> list[str]:
        """Return a column of texts, one entry a step; raises ``DatasetError`` if one is not UTF-8."""
        found: dict[bytes, str] = {}
        blobs = self.blobs(path)
        for blob in blobs:
            try:
                found.setdefault(blob, blob.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DatasetError(
                    f"{self.origin}: the text of feature {path!r} is not UTF-8: {blob[:80]!r}"
                ) from error
        return [found[blob] for blob in blobs]

    def images(self, path: str, camera: str, steps: slice) -> ImageSequence:
        """Return the images of ``steps``, whether they are stored compressed or as pixels (H, W, 3)."""
        feature, _ = self._values(path)
        if feature.kind != "tensor":
            return EncodedFrames(self.blobs(path)[steps], f"{self.origin} {camera}")
        if feature.dtype != "uint8" or len(feature.shape) != 3 or feature.shape[2] != 3:
            raise DatasetError(
                f"{self.origin}: feature {path!r} is {feature.dtype} {feature.shape}; images are compressed, "
                "or uint8 (height, width, 3)"
            )
        return ArrayFrames(self.array(path)[steps])

    def array(self, path: str) -> NDArray[Any]:
        """Return a column of numbers (T, …) for a feature in the steps, (…) for one outside."""
        feature, values = self._values(path)
        dtype = np.dtype(bool if feature.dtype == "bool" else feature.dtype)
        flat = self._unpack(feature, values, dtype) if isinstance(values, list) else values.astype(dtype)
        shape = tuple(n or 0 for n in feature.shape)
        try:
            return flat.reshape((-1, *shape) if feature.per_step else shape)
        except ValueError as error:
            raise DatasetError(
                f"{self.origin}: feature {path!r} has {flat.size} numbers, which do not fit the shape {shape}"
            ) from error

    def _unpack(self, feature: Feature, values: list[bytes], dtype: np.dtype[Any]) -> NDArray[Any]:
        match feature.encoding:
            case "bytes":
                joined = b"".join(values)
            case "zlib":
                joined = b"".join(zlib.decompress(value) for value in values)
            case _:
                raise DatasetError(f"{self.origin}: feature {feature.path!r} contains texts, not numbers")
        return np.frombuffer(joined, dtype)
