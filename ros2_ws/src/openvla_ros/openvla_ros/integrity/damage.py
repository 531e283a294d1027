"""Turns whatever libraries raise on damaged bytes into one of our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from openvla_ros.errors import DatasetError, InvalidValueError, MissingDependencyError, OpenVLARosError


@contextmanager
def reading(origin: object, error_type: type[OpenVLARosError] = DatasetError) -> Iterator[None]:
    """Turn whatever a library raises on damaged data into an ``error_type`` that names ``origin``."""
    try:
        yield
    except (error_type, InvalidValueError, MissingDependencyError):
        raise
    except OpenVLARosError as error:
        raise error_type(str(error)) from error
    except Exception as error:  # on damaged bytes a library raises anything
        raise error_type(f"{origin}: cannot be read: {type(error).__name__}: {error}") from error
