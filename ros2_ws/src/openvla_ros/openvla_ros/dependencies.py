"""Which installable package each imported module comes from, and the error message if one is missing.

``package.xml``, ``setup.py`` and ``requirements.txt`` must agree with this table, and the table with
every import of the package: ``tests/test_dependencies.py`` checks both. ROS packages are not listed:
their import name is also their package name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from openvla_ros.errors import MissingDependencyError


@dataclass(frozen=True)
class Source:
    """Where an imported module comes from."""

    pip: str  # the distribution on PyPI
    rosdep: str = ""  # the key in package.xml; empty: ``requirements.txt`` installs it on a robot's computer
    extra: str = ""  # the extra of ``setup.py`` that asks for it; empty: every installation needs it

    @property
    def command(self) -> str:
        """The command that installs it."""
        wanted = f"'openvla_ros[{self.extra}]' (or just {self.pip})" if self.extra else self.pip
        return f"pip install {wanted}"


# By the name that is imported. Jammy's and Noble's pydantic and websockets are too old: those come from PyPI.
SOURCES = {
    "PIL": Source("pillow", rosdep="python3-pil"),
    "array_record": Source("array-record", extra="array_record"),
    "av": Source("av"),
    "bitsandbytes": Source("bitsandbytes", extra="quantization"),
    "collada": Source("pycollada", extra="meshes"),
    "cryptography": Source("cryptography", extra="tls"),
    "cv2": Source("opencv-python-headless", rosdep="python3-opencv"),
    "foxglove": Source("foxglove-sdk", extra="view"),
    "franky": Source("franky-control", extra="franky"),
    "google_crc32c": Source("google-crc32c"),
    "h11": Source("h11"),
    "h5py": Source("h5py", rosdep="python3-h5py"),
    "huggingface_hub": Source("huggingface_hub"),
    "leapp": Source("leapp", extra="leapp"),
    "lz4": Source("lz4"),
    "matplotlib": Source("matplotlib", rosdep="python3-matplotlib"),
    "mcap": Source("mcap"),
    "msgpack": Source("msgpack", rosdep="python3-msgpack"),
    "mujoco": Source("mujoco", extra="sim"),
    "numpy": Source("numpy", rosdep="python3-numpy"),
    "onnx": Source("onnx", extra="export"),
    "onnx_ir": Source("onnx-ir", extra="export"),
    "onnxruntime": Source("onnxruntime", extra="export"),
    "pyarrow": Source("pyarrow"),
    "pydantic": Source("pydantic"),
    "pyrealsense2": Source("pyrealsense2", extra="realsense"),
    "ray": Source("ray", extra="ray"),
    "rerun": Source("rerun-sdk", extra="view"),
    "rerun_cli": Source("rerun-sdk", extra="view"),
    "rich": Source("rich"),
    "rosbags": Source("rosbags"),
    "safetensors": Source("safetensors"),
    "tensorboard": Source("tensorboard"),
    "tokenizers": Source("tokenizers"),
    "torch": Source("torch"),
    "tqdm": Source("tqdm", rosdep="python3-tqdm"),
    "transformers": Source("transformers"),
    "typer": Source("typer"),
    "websockets": Source("websockets"),
    "yaml": Source("PyYAML", rosdep="python3-yaml"),
    "zstandard": Source("zstandard"),
}
# What each process of the node graph imports at start besides numpy, pydantic and yaml; by executable.
NODE_NEEDS: dict[str, tuple[str, ...]] = {
    "camera_node": ("cv2", "rosbags"),
    "controller_node": (),
    "franky_node": (),
    "policy_node": ("PIL", "cv2", "rosbags"),
    "recorder_node": ("PIL", "cv2", "mcap", "rosbags"),
    "setpoint_node": (),
    "simulated_camera_node": ("cv2", "mujoco", "rosbags"),
    "simulation_node": ("av", "cv2", "mujoco", "rosbags"),
    "teleop_node": ("PIL",),
}
# What a policy imports when it is chosen.
POLICY_NEEDS: dict[str, tuple[str, ...]] = {
    "openvla": ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "PIL", "tqdm"),
    "remote": ("websockets", "msgpack"),
}
# What exporting a policy imports, by format.
EXPORT_NEEDS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime", "onnx_ir"),
    "leapp": ("leapp",),
}


def require(modules: Iterable[str], purpose: str) -> None:
    """Raise ``MissingDependencyError`` if one of ``modules`` is not installed. Imports none of them."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(_sentence(name, purpose))


@contextmanager
def needed_for(purpose: str) -> Iterator[None]:
    """Turn a failed import of a dependency inside the block into ``MissingDependencyError``.

    A missing module of this package itself is a bug, and is raised unchanged.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if missing_package(error) is None:
            raise
        raise MissingDependencyError(_sentence(str(error.name), purpose)) from error


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Return what to install for ``error`` in one sentence, or None for a module that is not a dependency."""
    root = (error.name or "").split(".")[0]
    return None if root in ("", "openvla_ros") else _sentence(root, "this")


def _sentence(module: str, purpose: str) -> str:
    root = module.split(".")[0]
    source = SOURCES.get(root)
    if source is None:
        how = f"if it is a ROS package, sudo apt install ros-$ROS_DISTRO-{root.replace('_', '-')}"
        return f"{purpose} needs the package {root}, which is not installed: {how}"
    apt = f", or sudo apt install {source.rosdep}" if source.rosdep else ""
    return f"{purpose} needs the package {root}, which is not installed: {source.command}{apt}"
