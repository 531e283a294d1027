"""The ``features.json`` of a TFDS dataset: which columns a record has, and their types.

Nested features are flattened to paths joined with ``/``, as TFDS names them inside a record
(``steps/observation/image``). Features under a sequence have one value per step.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openvla_ros.data.formats.tf_example import Example, Values
from openvla_ros.errors import DatasetError

Kind = Literal["tensor", "image", "text"]


@dataclass(frozen=True)
class Feature:
    """One column of a record."""

    path: str
    kind: Kind
    dtype: str  # of a tensor
    shape: tuple[int | None, ...]  # of one value, without the steps
    encoding: str  # of a tensor: none, bytes or zlib; of an image: jpeg or png
    per_step: bool
    ragged: bool = False  # holds a second sequence of unknown length


def parse_features(description: Mapping[str, Any], origin: str) -> dict[str, Feature]:
    """Return the columns that ``features.json`` describes, by path.

    Raises ``DatasetError`` naming the feature of an unknown kind.
    """
    return {feature.path: feature for feature in _walk(description, (), None, origin)}


def _walk(
    node: Mapping[str, Any], path: tuple[str, ...], lengths: tuple[int | None, ...] | None, origin: str
) -> Iterator[Feature]:
    """``lengths``: of the sequences around this node inside the steps; None outside any sequence."""
    match node:
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
            raise DatasetError(f"{origin}: {'/'.join(path)} is {kind}, which is not supported")


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

    def text(self, path: str) -> str:
        """Return the first entry of a column of texts; raises ``DatasetError`` if it is not UTF-8."""
        blobs = self.blobs(path)
        try:
            return blobs[0].decode("utf-8") if blobs else ""
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{self.origin}: the text of feature {path!r} is not UTF-8: {blobs[0][:80]!r}"
            ) from error

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
