"""The definitions that are written into bags are complete; an unknown type is named."""

import pytest
from rosbags.typesys import Stores, get_typestore

from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.errors import DatasetError

STORE = get_typestore(Stores.ROS2_KILTED)


@pytest.mark.parametrize(
    "type_name", ["sensor_msgs/msg/Image", "diagnostic_msgs/msg/DiagnosticArray", "tf2_msgs/msg/TFMessage"]
)
def test_definitions_are_complete(type_name):
    from rosbags.typesys import get_types_from_msg

    names = get_types_from_msg(message_definition(type_name), type_name)
    store = get_typestore(Stores.EMPTY)
    store.register(names)
    assert store.hash_rihs01(type_name) == STORE.hash_rihs01(type_name)


def test_an_unknown_type_is_named():
    with pytest.raises(DatasetError, match="no definition of 'no_msgs/msg/Nothing' found"):
        message_definition("no_msgs/msg/Nothing")
