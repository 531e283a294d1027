"""What running nodes use, observed over DDS, and the verb that writes it as a policy."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from std_msgs.msg import String
from std_srvs.srv import Trigger
from support.node_processes import Listener
from support.openvla_program import run

from openvla_ros.discovery.access import Access, watch_access
from openvla_ros.discovery.access_policy import merged, read_policy, to_xml
from openvla_ros.discovery.client import RobotClient
from openvla_ros.errors import DeviceError

pytestmark = pytest.mark.ros
EARLIER = {("/left", "recorder"): Access(subscribe=frozenset({"/left/camera/image_raw"}))}


def test_the_verb_writes_what_running_nodes_use_and_keeps_what_the_file_allowed(ros_domain, tmp_path):
    path = tmp_path / "policy.xml"
    path.write_text(to_xml(EARLIER))
    with Listener("controller", "left") as robot:
        robot.node.create_publisher(String, "command", 1)
        robot.node.create_service(Trigger, "controller/home", lambda _, response: response)
        robot.node.create_client(Trigger, "driver/recover")
        said = run("security-policy", path, "--namespace", "left", "--seconds", "1").output
    nodes = read_policy(path)
    controller = nodes["/left", "controller"]
    assert "/left/command" in controller.publish
    assert {"/left/controller/home", "/left/controller/set_parameters"} <= controller.reply
    assert controller.request == {"/left/driver/recover"}
    assert "/left/controller/home" in nodes["/left", "operator"].request
    assert nodes["/left", "recorder"] == EARLIER["/left", "recorder"]
    assert not [name for _, name in nodes if "security_policy" in name]  # the program itself
    assert nodes == merged(nodes, EARLIER)
    assert "Not seen: teleop" in " ".join(said.split())


def test_without_a_robot_nothing_is_written(ros_domain):
    with (
        RobotClient("looks", "left", timeout_s=0.3) as client,
        pytest.raises(DeviceError, match=rf"no node /left/controller in ROS domain {ros_domain}"),
    ):
        watch_access(client, 1.0)


def test_programs_of_people_serve_nothing(ros_domain):
    with RobotClient("asks", "left") as client:
        assert list(client.node.services) == []
        assert {publisher.topic_name for publisher in client.node.publishers} <= {
            "/parameter_events",
            "/rosout",
        }
