"""The exceptions of the package: one base, and one class for each thing a user can put right.

A message names the bad value, where it came from, and the valid choices.
"""

from __future__ import annotations

import re


class OpenVLARosError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidValueError(OpenVLARosError, ValueError):
    """A value has the wrong shape, type, unit or range."""


class ProfileError(OpenVLARosError):
    """A robot profile is wrong: names the file, the key, the value and what is allowed."""


class CheckpointError(OpenVLARosError):
    """A model folder is incomplete, damaged or of an unknown kind."""


class ManifestError(CheckpointError):
    """A checkpoint does not fit the robot that it was given to: names the line that differs."""


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
    """A file of a dataset or a checkpoint is not the one that was written there."""


class TrainingError(OpenVLARosError):
    """A training run cannot go on: its loss is no number, memory is short, or its folder is another run's."""


class DeviceError(OpenVLARosError):
    """A camera, input device or robot cannot be opened, or has stopped answering."""


class FatalNodeError(OpenVLARosError):
    """A node cannot go on and ends its process: the one exception that a node's guard lets through."""


class MissingDependencyError(OpenVLARosError):
    """An optional package is needed for what was asked: names how to install it."""


class ConformanceError(OpenVLARosError):
    """An implementation breaks its protocol: names what the contract says, what was got, and where."""


def error_key(error: OpenVLARosError) -> str:
    """Return the key under which an error of ours is counted: ``InvalidValueError`` → ``invalid_value``."""
    words = re.findall("[A-Z][a-z]+", type(error).__name__.removesuffix("Error"))
    return "_".join(words).lower()
