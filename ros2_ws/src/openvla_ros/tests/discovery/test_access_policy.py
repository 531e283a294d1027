"""The access policy for SROS 2: from what running nodes use to the XML that sros2 takes, and back."""

import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")

from openvla_ros.discovery.access import Access
from openvla_ros.discovery.access_policy import merged, read_policy, robot_access, to_xml
from openvla_ros.errors import InvalidValueError

SEEN = {
    ("/left", "controller"): Access(
        publish=frozenset({"/left/arm/command", "/left/controller/verdict"}),
        subscribe=frozenset({"/left/joint_states"}),
        reply=frozenset({"/left/controller/home"}),
    ),
    ("/left", "controller_stops"): Access(reply=frozenset({"/left/controller/e_stop"})),
    ("/left", "policy"): Access(
        publish=frozenset({"/left/policy/action_chunk"}),
        subscribe=frozenset({"/left/camera/image_raw"}),
        execute=frozenset({"/left/execute_instruction"}),
    ),
    ("/left", "recorder"): Access(reply=frozenset({"/left/recorder/start"})),
    ("/driver", "arm"): Access(
        publish=frozenset({"/left/joint_states"}), subscribe=frozenset({"/left/arm/command"})
    ),
}


@pytest.fixture
def nodes():
    return robot_access(SEEN, "left")


def test_who_moves_the_arm_is_what_was_seen_and_nobody_else(nodes):
    commands = [at for at, access in nodes.items() if "/left/arm/command" in access.publish]
    assert commands == [("/left", "controller")]
    assert [at for at, access in nodes.items() if "/left/joint_states" in access.publish] == [
        ("/driver", "arm")
    ]


def test_the_operator_asks_everything_and_watches_everything(nodes):
    operator = nodes["/left", "operator"]
    assert {"/left/controller/home", "/left/controller/e_stop", "/left/recorder/start"} <= operator.request
    assert operator.call == {"/left/execute_instruction"}
    assert {"/left/e_stop", "/left/instruction", "/left/teleop/action_chunk"} <= operator.publish
    every = frozenset().union(*(access.publish for access in SEEN.values()))
    assert every <= operator.subscribe
    assert every <= nodes["/left", "recorder"].subscribe
    assert "/left/recorder/instruction" in nodes["/left", "recorder"].publish
    assert "/left/arm/command" not in nodes["/left", "policy"].subscribe


@pytest.mark.parametrize("other", ["/right", "/"])
def test_another_robot_in_the_same_domain_gives_the_operator_nothing(nodes, other):
    space = other.rstrip("/")
    arm = {
        (other, "controller"): Access(
            publish=frozenset({f"{space}/controller/verdict"}), reply=frozenset({f"{space}/controller/home"})
        )
    }
    both = robot_access(SEEN | arm, "left")
    for name in ("operator", "recorder"):
        assert both["/left", name] == nodes["/left", name]
    assert both[other, "controller"].publish >= {f"{space}/controller/verdict"}


def test_it_is_read_as_it_was_written(nodes, tmp_path):
    path = tmp_path / "policy.xml"
    path.write_text(to_xml(nodes))
    assert read_policy(path) == nodes
    assert merged(read_policy(path), nodes) == nodes
    more = merged(nodes, {("/left", "policy"): Access(publish=frozenset({"/left/extra"}))})
    assert more["/left", "policy"].publish == nodes["/left", "policy"].publish | {"/left/extra"}


def test_second_nodes_of_a_process_are_in_its_enclave(nodes):
    root = ElementTree.fromstring(to_xml(nodes))
    found = {
        enclave.get("path"): [profile.get("node") for profile in enclave.iter("profile")]
        for enclave in root.iter("enclave")
    }
    assert found == {
        "/driver/arm": ["arm"],
        "/left/controller": ["controller", "controller_stops"],
        "/left/operator": ["operator"],
        "/left/policy": ["policy"],
        "/left/recorder": ["recorder"],
    }


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('version="0.2.0"', 'version="0.1.0"', "version 0.1.0; expected"),
        ('path="/left/policy"', 'path="/mine"', "enclave '/mine' holds the node 'policy'"),
        ('publish="ALLOW"', 'publish="DENY"', "would be lost"),
        ("</policy>", "", "no policy of SROS 2"),
    ],
)
def test_what_would_be_lost_on_writing_again_is_refused(nodes, tmp_path, old, new, said):
    path = tmp_path / "policy.xml"
    path.write_text(to_xml(nodes).replace(old, new, 1))
    with pytest.raises(InvalidValueError, match=said):
        read_policy(path)
