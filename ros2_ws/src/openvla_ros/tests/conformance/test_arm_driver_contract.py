"""Every arm driver of ours keeps the contract over DDS, and what breaks it is told in the right words."""

import time

import numpy as np
import pytest

from openvla_ros.conformance import check_arm_driver
from openvla_ros.drivers.protocol import ArmCommand
from openvla_ros.errors import ConformanceError, InvalidValueError
from openvla_ros.profile import load_profile
from openvla_ros.robot.motion.motion_limiter import JointMotion
from openvla_ros.values.geometry import Pose

KINDS = {
    "joint_trajectory": ("sim_widowx", "arm_controller/joint_trajectory"),
    "forward_position": ("sim_widowx", "forward/commands"),
    "interbotix": ("widowx", "/wx250s/commands/joint_group"),
    "cartesian_target": ("franka", "target_pose"),
    "servo_twist": ("franka", "/jazzy_servo/delta_twist_cmds"),
    "franky": ("franka_franky", "franky/setpoints"),
}


@pytest.mark.ros
@pytest.mark.timeout(600)  # the first run builds message packages
def test_every_arm_driver_keeps_the_contract(ros_domain):
    pytest.importorskip("rclpy", reason="needs ROS 2 (the extra [ros])")
    from support import foreign_messages
    from support.child_process import python_child

    env = {**foreign_messages.environment(), "ROS_DOMAIN_ID": str(ros_domain)}
    with (
        python_child("fake_driver_process.py", env=env) as robot,
        python_child("arm_driver_contract_process.py", env=env) as drivers,
    ):
        robot.expect(lambda e: "ready" in e, 120)
        for kind, (profile, topic) in KINDS.items():
            settings = {"franky": {}} if kind == "franky" else {}
            drivers.say(robot=profile, kind=kind, topic=topic, **settings)
            told = drivers.expect(lambda e: "checked" in e, 120)
            assert told == {"checked": kind, "error": None}
        # Nobody is there: the one that connects says so.
        drivers.say(robot="sim_widowx", kind="forward_position", topic="nowhere", timeout_s=1.0)
        told = drivers.expect(lambda e: "checked" in e, 120)
        assert "ForwardPositionArm.connect: the contract says that it returns None once" in told["error"]
        assert "no forward position controller subscribes to /nowhere" in told["error"]
        drivers.say(quit=True)


def test_the_kinds_are_all_there_are():
    from typing import get_args, get_type_hints

    from openvla_ros.driver_profile import ArmBackend

    assert set(get_args(get_type_hints(ArmBackend)["kind"])) == set(KINDS)


def commands(count=4, period_s=0.002, spacing_ns=2_000_000):
    q = np.array(load_profile("sim_widowx").arm.neutral)
    return [
        ArmCommand(
            1 + i * spacing_ns, period_s, JointMotion.at_rest(q), Pose.from_matrix(np.eye(4)), q.copy()
        )
        for i in range(count)
    ]


class Good:
    """A stranger's driver; its robot is there at the third try."""

    def __init__(self):
        self.tries, self.sent = 0, []

    def missing(self):
        return None if self.tries > 2 else "the arm's power"

    def connect(self):
        self.tries += 1
        return self.missing()

    def send(self, command):
        self.sent.append(command)

    def delivered(self, timeout_s):
        return True


def check(driver, **options):
    check_arm_driver(driver, commands(), **{"timeout_s": 0.5, **options})


def test_a_strangers_driver_keeps_the_contract_and_gets_every_command():
    driver, waited = Good(), []
    check(driver, wait=waited.append)
    assert len(driver.sent) == 4
    assert waited[:2] == [0.1, 0.1]  # between the tries to connect
    assert all(0.0 < seconds <= 0.002 for seconds in waited[2:])


def test_commands_that_tell_no_pace_are_refused():
    with pytest.raises(InvalidValueError, match="1 commands do not define a rate"):
        check_arm_driver(Good(), commands(1))
    with pytest.raises(InvalidValueError, match=r"comes 0\.003 s after one whose period is 0\.002 s"):
        check_arm_driver(Good(), commands(spacing_ns=3_000_000))


def broken(**members):
    return type("Broken", (Good,), members)()


def writes(self, command):
    command.motion.position[0] = 0.0


def raises(self, *_):
    raise ConnectionError("no route to host")


BROKEN = {
    "no delivered": (broken(delivered=None), r"Broken\.delivered: .*is a method"),
    "missing is False": (broken(missing=lambda s: False), r"missing: .*as text, or None; got: False"),
    "connect tells nothing": (broken(connect=lambda s: ""), r"connect: .*as text, or None; got: ''"),
    "connect blocks": (broken(connect=lambda s: time.sleep(0.7)), r"connect: .*never blocks; got: it took"),
    "connect raises": (broken(connect=raises), r"connect: .*does not raise here; got: ConnectionError"),
    "never there": (broken(missing=lambda s: "power"), r"connect: .*None once .*still 'power'"),
    "missing after all": (
        broken(connect=lambda s: None), r"missing: .*None once connect has.*got: \"the arm's power\"",
    ),
    "send raises": (broken(send=raises), r"send: .*does not raise here; got: ConnectionError"),
    "send returns": (broken(send=lambda s, c: True), r"send: .*returns nothing; got: True"),
    "send writes": (
        broken(send=writes), r"send: .*does not modify the command; got: its arrays were written to",
    ),
    "send is slow": (
        broken(send=lambda s, c: time.sleep(0.01)), r"send: .*less than a period; got: \d+\.\d ms \(median\)",
    ),
    "delivered tells nothing": (broken(delivered=lambda s, t: None), r"delivered: .*whether .*got: None"),
    "not delivered": (broken(delivered=lambda s, t: False), r"delivered: .*got: False after 0\.5 s"),
    "delivered waits": (
        broken(delivered=lambda s, t: time.sleep(1.1) or True),
        r"delivered: .*no longer than timeout_s; got: 1\.\d+ s",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_what_an_arm_driver_does_wrong_is_told(fault):
    driver, words = BROKEN[fault]
    with pytest.raises(ConformanceError, match=words) as caught:
        check(driver)
    assert "(see openvla_ros.drivers.protocol.ArmDriver." in str(caught.value)
