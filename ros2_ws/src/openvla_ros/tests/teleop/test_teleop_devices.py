"""Devices as the kernel gives them: a terminal, a joystick's events, a SpaceMouse's reports."""

import os
import pty
import socket
import struct
import termios
import time

import pytest

from openvla_ros.errors import DeviceError
from openvla_ros.teleop.gamepad import EVENT, JoystickDevice
from openvla_ros.teleop.keyboard import Keyboard
from openvla_ros.teleop.spacemouse import SILENT_S, SpaceMouseDevice, find_spacemouse


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "r")
    yield master, stream
    stream.close()
    os.close(master)


def test_a_terminal_is_read_key_by_key_without_echo_and_given_back(terminal):
    master, stream = terminal
    before = termios.tcgetattr(stream.fileno())
    keyboard = Keyboard(stream)
    assert not termios.tcgetattr(stream.fileno())[3] & (termios.ECHO | termios.ICANON)
    assert not keyboard.read(0.0).held
    os.write(master, b"wg")
    time.sleep(0.05)
    command = keyboard.read(0.0)
    assert command.held
    assert command.translation.tolist() == [1, 0, 0]
    assert command.events == ("gripper",)
    os.write(master, b" ")
    time.sleep(0.05)
    assert not keyboard.read(0.1).held
    keyboard.close()
    keyboard.close()
    assert termios.tcgetattr(stream.fileno()) == before


def test_what_is_no_terminal_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (tmp_path / "file").open() as stream, pytest.raises(DeviceError, match="needs a terminal"):
        Keyboard(stream)


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "device"
    os.mkfifo(path)
    reader_keeps_it_open = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield path, reader_keeps_it_open
    os.close(reader_keeps_it_open)


def event(kind, number, value, initial=False):
    return EVENT.pack(0, value, kind | (0x80 if initial else 0), number)


def test_a_joysticks_events_become_commands(pipe):
    path, end = pipe
    pad = JoystickDevice(path)
    os.write(end, b"".join(event(2, n, -32767 if n in (2, 5) else 0, True) for n in range(8)))
    os.write(end, b"".join(event(1, n, 0, True) for n in range(11)))
    assert not pad.read(0.0).held
    os.write(end, event(2, 1, -32767) + event(1, 4, 1))  # stick up (the kernel's minus), LB
    command = pad.read(0.0)
    assert command.held
    assert command.translation.tolist() == [1, 0, 0]
    whole = event(1, 0, 1)
    os.write(end, whole[:3])
    assert pad.read(0.0).events == ()
    os.write(end, whole[3:])
    assert pad.read(0.0).events == ("gripper",)
    os.write(end, event(1, 4, 0))
    assert not pad.read(0.0).held
    pad.close()
    pad.close()


def test_a_gamepad_that_is_pulled_out_is_an_error(tmp_path):
    path = tmp_path / "device"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    pad = JoystickDevice(path)
    os.close(end)
    with pytest.raises(DeviceError, match="was disconnected"):
        pad.read(0.0)
    pad.close()


def test_devices_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DeviceError, match=r"cannot open gamepad .*nothing: No such file"):
        JoystickDevice(tmp_path / "nothing")
    with pytest.raises(DeviceError, match="udev rule"):
        SpaceMouseDevice(tmp_path / "nothing")
    with pytest.raises(DeviceError, match="no SpaceMouse"):
        find_spacemouse(tmp_path)


class Reports:
    """A stand-in for hidraw: one report a read, as a datagram socket gives them."""

    def __init__(self, monkeypatch, tmp_path):
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.theirs.setblocking(False)
        path = tmp_path / "hidraw0"
        path.touch()
        real = os.open
        monkeypatch.setattr(
            os, "open", lambda p, *a: os.dup(self.theirs.fileno()) if p == path else real(p, *a)
        )
        self.path = path

    def close(self):
        self.ours.close()
        self.theirs.close()

    def send(self, number, *values):
        self.ours.send(bytes([number]) + struct.pack(f"<{len(values)}h", *values))


def test_a_spacemouses_reports_become_commands(monkeypatch, tmp_path):
    reports = Reports(monkeypatch, tmp_path)
    mouse = SpaceMouseDevice(reports.path)
    assert not mouse.read(0.0).held
    reports.send(1, 0, -350, 0)  # pushed away from the person: forward
    assert mouse.read(0.0).translation.tolist() == [1, 0, 0]
    reports.send(1, -350, 0, 0)  # to the left
    assert mouse.read(0.0).translation.tolist() == [0, 1, 0]
    reports.send(1, 0, 0, -350)  # lifted
    assert mouse.read(0.0).translation.tolist() == [0, 0, 1]
    reports.send(1, 0, 0, 0)
    reports.send(2, 0, 0, -350)  # turned to the left, seen from above
    command = mouse.read(0.0)
    assert command.translation.tolist() == [0, 0, 0]
    assert command.rotation.tolist() == [0, 0, 1]
    reports.send(1, 0, -350, 0, 0, 0, 0)  # a newer model: all six in one report
    assert mouse.read(1.0).rotation.tolist() == [0, 0, 0]
    assert not mouse.read(1.0 + SILENT_S + 0.01).held, "a device that is silent is not held"
    reports.ours.send(bytes([3, 0b10, 0]))
    assert mouse.read(2.0).events == ("gripper",)
    mouse.close()
    reports.close()


def test_a_spacemouse_is_found_by_its_vendor(tmp_path):
    for name, line in (("hidraw0", "0003:0000046D:0000C52B"), ("hidraw1", "0003:0000256F:0000C635")):
        folder = tmp_path / name / "device"
        folder.mkdir(parents=True)
        (folder / "uevent").write_text(f"DRIVER=hid-generic\nHID_ID={line}\n")
    assert str(find_spacemouse(tmp_path)) == "/dev/hidraw1"
