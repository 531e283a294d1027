"""Calibration files of lenses."""

import pytest

from openvla_ros.cameras.calibration import read_calibration
from openvla_ros.errors import ProfileError

CALIBRATION = """
image_width: 640
image_height: 480
camera_name: wrist
camera_matrix: {rows: 3, cols: 3, data: [600.0, 0.0, 320.0, 0.0, 601.0, 240.0, 0.0, 0.0, 1.0]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0.0, 0.0, 0.0]}
"""


def test_a_calibration_file_is_read_and_its_mistakes_named(tmp_path):
    path = tmp_path / "lens.yaml"
    path.write_text(CALIBRATION)
    lens = read_calibration(path)
    assert (lens.width, lens.height, lens.matrix[1, 1]) == (640, 480, 601.0)
    path.write_text(CALIBRATION.replace("distortion_model: plumb_bob\n", ""))
    with pytest.raises(ProfileError, match=r"lens\.yaml: distortion_model: this key is missing"):
        read_calibration(path)
