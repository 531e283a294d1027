"""Text files that are not UTF-8 are named with line and byte, wherever a user hands one in."""

import os
import subprocess
import sys

import pytest

from openvla_ros.cameras.calibration import read_calibration
from openvla_ros.errors import DatasetError, InvalidValueError, ProfileError
from openvla_ros.policy.factory import read_token
from openvla_ros.profile import load_profile
from openvla_ros.training.data.question_answers import read_questions


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (load_profile, ProfileError),
        (read_calibration, ProfileError),
        (read_questions, DatasetError),
        (lambda path: read_token(str(path)), InvalidValueError),
    ],
)
def test_a_byte_that_is_not_utf8_is_named(tmp_path, read, kind):
    path = tmp_path / "file.yaml"
    path.write_bytes(b"name: a\n# 3 \xb0C\n")
    with pytest.raises(kind, match=r"file.yaml, line 2: byte 0xb0 at offset 12 is not UTF-8"):
        read(path)


@pytest.mark.ros
def test_a_log_folder_that_cannot_be_made_is_one_line_and_code_1(ros_domain):
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    environment = {**os.environ, "ROS_LOG_DIR": "/proc/nowhere"}
    command = [sys.executable, "-m", "openvla_ros.nodes.camera_node"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "ROS_LOG_DIR" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
