"""Build file of the ament_python package; ``pip install`` uses it too, on a machine without ROS."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "openvla_ros"
HERE = Path(__file__).parent
SHARED = ("launch", "config", "urdf", "checkpoints", "servers")  # folders installed under share/openvla_ros

NODES = (
    "simulation_node",
    "simulated_camera_node",
    "camera_node",
    "policy_node",
    "controller_node",
    "setpoint_node",
    "franky_node",
    "recorder_node",
    "teleop_node",
)

# Where ROS 2 is installed, these come from apt; the extra is for machines without it.
ROS_WHEELS = [
    "ros-rclpy[fastrtps]",
    *(
        f"ros-{name}-msgs"
        for name in (
            "action",
            "diagnostic",
            "geometry",
            "lifecycle",
            "rosgraph",
            "sensor",
            "std",
            "trajectory",
            "visualization",
        )
    ),
    "ros-builtin-interfaces",
    "ros-rcl-interfaces",
    "ros-std-srvs",
]


def version() -> str:
    """Return the version of the package, which is defined in its ``__init__``."""
    text = (HERE / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{PACKAGE}/__init__.py names no __version__")
    return found[1]


def shared_files() -> list[tuple[str, list[str]]]:
    """Return (destination, files) for each folder below the shared ones."""
    files: dict[str, list[str]] = {}
    for path in sorted(p for folder in SHARED for p in (HERE / folder).rglob("*") if p.is_file()):
        relative = path.relative_to(HERE)
        if "__pycache__" not in relative.parts:
            files.setdefault(f"share/{PACKAGE}/{relative.parent}", []).append(str(relative))
    return list(files.items())


setup(
    name=PACKAGE,
    version=version(),
    description="OpenVLA on ROS 2 robot arms: inference, safe control, recording, fine-tuning",
    license="Apache-2.0",
    maintainer="openvla_ros maintainers",
    maintainer_email="maintainers@example.com",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "**/*.html", "**/*.json", "**/*.yaml", "**/*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *shared_files(),
    ],
    install_requires=[
        "numpy>=1.26",
        "PyYAML",
        "pydantic>=2",
        "pillow>=10",
        "opencv-python-headless>=4.8",
        "torch>=2.5",
        "transformers>=4.57",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "mcap",
        "lz4",
        "zstandard",
        "rosbags",
        "pyarrow",
        "h5py",
        "google-crc32c",
        "av",
        "matplotlib",
        "tensorboard",
        "typer",
        "rich",
        "tqdm",
        "msgpack",
        "websockets>=13",
        "h11",
    ],
    extras_require={
        "ros": ROS_WHEELS,
        "sim": ["mujoco==3.8.1"],
        "realsense": ["pyrealsense2"],
        "quantization": ["bitsandbytes"],
        "export": ["onnx>=1.16", "onnx-ir", "onnxruntime>=1.20"],
        "leapp": ["leapp==0.7.2"],
        # The wheel on PyPI is for arms of robot server 10; others: docs/franky.md.
        "franky": ["franky-control>=2,<3"],
        "ray": ["ray"],
        "meshes": ["pycollada"],
        "array_record": ["array-record"],
        # rerun-sdk changes its functions from release to release, and needs Python 3.11.
        "view": ["rerun-sdk>=0.41,<0.42; python_version >= '3.11'", "foxglove-sdk>=0.30,<0.31"],
        "tls": ["cryptography"],
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-rerunfailures",
            "pytest-xdist",
            "hypothesis",
            "peft>=0.15",
            "ruff",
            "mypy",
            "types-PyYAML",
            "xacro",
        ],
    },
    entry_points={
        "console_scripts": [
            "openvla = openvla_ros.entry_points:openvla",
            *(f"{node} = openvla_ros.entry_points:{node}" for node in NODES),
        ]
    },
    zip_safe=True,
)
