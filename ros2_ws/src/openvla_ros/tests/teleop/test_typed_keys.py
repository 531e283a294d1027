"""What a terminal sends for arrows and function keys is no letter that a person typed."""

import os
import pty
import sys
import time

import pytest

from openvla_ros.cli.keys import pressed_keys
from openvla_ros.teleop.keyboard import PRESSES, Keyboard
from openvla_ros.teleop.typed_keys import ESCAPE, TypedKeys

# What xterm, VTE, the Linux console and tmux send (ECMA-48, xterm's ctlseqs, console_codes(4)).
OTHER_KEYS = {
    "up": "\x1b[A", "down": "\x1b[B", "right": "\x1b[C", "left": "\x1b[D",
    "up, application mode": "\x1bOA", "down, application mode": "\x1bOB",
    "home": "\x1b[H", "end": "\x1b[F", "home, vt": "\x1b[1~", "insert": "\x1b[2~", "delete": "\x1b[3~",
    "end, vt": "\x1b[4~", "page up": "\x1b[5~", "page down": "\x1b[6~",
    "F1": "\x1bOP", "F3": "\x1bOR", "F5": "\x1b[15~", "F1, console": "\x1b[[A", "F5, console": "\x1b[[E",
    "ctrl right": "\x1b[1;5C", "shift tab": "\x1b[Z", "focus out": "\x1b[O",
}  # fmt: skip


@pytest.mark.parametrize("sent", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_other_keys_type_nothing(sent):
    assert TypedKeys().feed(sent, 0.0) == ""
    assert TypedKeys().feed(f"w{sent}x", 0.0) == "wx"
    assert TypedKeys().feed(sent * 5 + "h", 0.0) == "h"


@pytest.mark.parametrize("sent", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_nor_where_a_slow_line_cuts_the_sequence(sent):
    for cut in range(1, len(sent)):
        keys, at = TypedKeys(), 0.0
        typed = keys.feed(sent[:cut], at) + keys.feed("", at + 0.01) + keys.feed(sent[cut:] + "w", at + 0.02)
        # After its first character it cannot be told from the Escape key, which holds the arm.
        assert typed == (ESCAPE if cut == 1 else "") + "w"


@pytest.mark.parametrize("begun", ["\x1b", "\x1b[", "\x1bO", "\x1b[1;"])
@pytest.mark.parametrize("key", ["x", "h", " "])
def test_a_stop_typed_later_is_never_part_of_a_sequence(begun, key):
    keys = TypedKeys()
    keys.feed(begun, 0.0)
    keys.feed("", 0.05)
    assert keys.feed(key, 0.2) == key


def test_escape_holds_the_arm():
    assert PRESSES[ESCAPE] == "hold"
    keys = TypedKeys()
    assert [keys.feed(part, at) for part, at in (("\x1b", 0.0), ("", 0.1), ("x", 0.2))] == [ESCAPE, "", "x"]
    assert TypedKeys().feed("\x1b\x1b", 0.0) == ESCAPE * 2
    assert TypedKeys().feed("\x1bx", 0.0) == "\x1bx"  # Alt and x


def test_a_real_terminal_s_arrows_move_nothing():
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as stream:
        keyboard = Keyboard(stream)
        os.write(master, "".join(OTHER_KEYS.values()).encode())
        time.sleep(0.05)
        command = keyboard.read(0.0)
        assert not command.held
        assert command.events == ()
        os.write(master, b"\x1b")
        time.sleep(0.05)
        assert keyboard.read(0.1).events == ("hold",)
        keyboard.close()
    os.close(master)


@pytest.mark.parametrize("sent", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_where_any_key_stops_the_arm_these_do_too(monkeypatch, sent):
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pressed_keys() as pressed:
            os.write(master, sent.encode())
            time.sleep(0.02)
            assert pressed() == sent
    os.close(master)
