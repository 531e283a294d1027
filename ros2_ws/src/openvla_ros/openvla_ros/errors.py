"""The exceptions of the package: one base, and one class for each kind of problem that a user can fix.

A message names the bad value, where it came from, and the valid choices.
"""

from __future__ import annotations

import re
from pathlib import Path
from traceback import extract_tb

# A reason may quote the input; it is cut to this length.
DETAIL_LENGTH = 300


class OpenVLARosError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidValueError(OpenVLARosError, ValueError):
    """A value has the wrong shape, type, unit or range."""


class ProfileError(OpenVLARosError):
    """A robot profile is wrong: names the file, the key, the value and what is allowed."""


class CheckpointError(OpenVLARosError):
    """A model folder is incomplete, damaged or of an unknown kind."""


class ManifestError(CheckpointError):
    """A checkpoint does not match the robot: names the fields that differ."""


class StatisticsError(OpenVLARosError, ValueError):
    """Dataset statistics are missing, ambiguous or of the wrong width."""


class ModelOutputError(OpenVLARosError):
    """The model produced something that is not an action (early end of sequence, NaN)."""


class PolicyError(OpenVLARosError):
    """A policy cannot act on this observation: names what is missing or too old."""


class KinematicsError(OpenVLARosError):
    """A robot description or a kinematic request cannot be used."""


class DatasetError(OpenVLARosError):
    """A recording or dataset cannot be read or written."""


class ChecksumError(DatasetError, CheckpointError):
    """A file of a dataset or a checkpoint was damaged or changed after it was written."""


class ExportError(OpenVLARosError):
    """A policy cannot be exported: the bundle disagrees with the checkpoint, or cannot be written."""


class TrainingError(OpenVLARosError):
    """A training run cannot continue: the loss is NaN, memory ran out, or the folder is another run's."""


class DeviceError(OpenVLARosError):
    """A camera, input device or robot cannot be opened, or has stopped answering."""


class FatalNodeError(OpenVLARosError):
    """A node cannot continue and ends its process: the one exception that a node's guard lets through."""


class MissingDependencyError(OpenVLARosError):
    """An optional package is needed: says how to install it."""


class ConformanceError(OpenVLARosError):
    """An implementation violates its protocol: says what the contract is, what happened, and where."""


def error_key(error: OpenVLARosError) -> str:
    """Return the key under which an error of ours is counted: ``InvalidValueError`` → ``invalid_value``."""
    words = re.findall("[A-Z][a-z]+", type(error).__name__.removesuffix("Error"))
    return "_".join(words).lower()


def describe(error: BaseException) -> str:
    """Return the type, text and location of an unexpected exception."""
    frames = extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:DETAIL_LENGTH]}{place}"
