"""The kernel and the versions between this computer and a Franka arm."""

import pytest

from openvla_ros.franka_driver.host import COMPATIBILITY, bundled_libfranka, has_realtime_kernel, mismatch


@pytest.mark.parametrize(("text", "expected"), [("1\n", True), ("0\n", False), (None, False)])
def test_a_realtime_kernel_says_so(tmp_path, text, expected):
    flag = tmp_path / "realtime"
    if text is not None:
        flag.write_text(text)
    assert has_realtime_kernel(flag) is expected


def test_the_version_of_libfranka_is_read_from_the_wheel(tmp_path):
    assert bundled_libfranka(tmp_path / "franky") == ""
    libraries = tmp_path / "franky_control.libs"
    libraries.mkdir()
    (libraries / "libfranka-b351eea7.so.0.21.2").touch()
    assert bundled_libfranka(tmp_path / "franky") == "0.21.2"


def test_a_mismatch_says_what_fits():
    text = mismatch(
        "libfranka: Incompatible library version (server version: 9, library version: 10).", "0.21.2"
    )
    assert "0.21.2" in text
    assert all(f"server {row.server}: libfranka {row.libfranka}" in text for row in COMPATIBILITY)
