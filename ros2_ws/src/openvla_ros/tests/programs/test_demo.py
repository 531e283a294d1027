"""The main job, whole: real processes over DDS, an instruction, a video, a page, and clean ends."""

import json

import av
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from openvla_ros.programs.demo import DemoRequest, run_demo
from openvla_ros.resources import SMALL_BASE


@pytest.mark.ros
def test_the_demo_does_what_it_says_and_leaves_video_and_page(ros_domain, tmp_path):
    said = []
    request = DemoRequest("sim_widowx", "openvla", ("reach",), 60.0, tmp_path, {"checkpoint": SMALL_BASE})
    result = run_demo(request, said.append)
    assert result.outcomes[0].succeeded, said
    assert result.exit_codes == {"simulation": 0, "camera_primary": 0, "controller": 0, "policy": 0}
    assert "Traceback" not in (tmp_path / "nodes.log").read_text()
    assert result.clean
    assert SMALL_BASE in said[1]
    with av.open(str(result.video)) as video:
        assert sum(1 for _ in video.decode(video=0)) > 10
    page = result.page.read_text()
    assert 'src="robot.mp4"' in page
    assert result.outcomes[0].instruction in page
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["figures"] == result.figures
