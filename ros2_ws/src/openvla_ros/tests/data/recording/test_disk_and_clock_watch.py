"""A clock that is set is noticed; one that is slewed, or read late, is not taken for that."""

import time

import numpy as np
from support.filled_recordings import messages
from support.recorder_process import number_of, payload, recorder

from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.recording_folder import OUTCOME
from openvla_ros.data.recording.disk_and_clock_watch import ClockWatch


def test_a_clock_that_is_set_raises_an_alarm_and_receive_stamps_still_rise(tmp_path):
    alarms = []
    shift_ns = 0
    recording = recorder(
        tmp_path,
        lambda level, text: alarms.append((level, text)),
        clock=lambda: time.time_ns() + shift_ns,
    )
    recording.start({})
    for i in range(100):
        shift_ns = -3_600_000_000_000 if i >= 50 else 0
        recording.write("/counted", payload(i, 40))
        time.sleep(0.001)
    assert alarms[0][0] == "error"
    assert "jumped by -3600.000 s" in alarms[0][1]
    folder = recording.stop("success")
    recording.close()
    got = messages(folder, "/counted")
    assert [number_of(data) for _, data in got] == list(range(100))
    stamps = [stamp for stamp, _ in got]
    assert np.all(np.diff(stamps) > 0)
    assert stamps[-1] - stamps[0] < 5e9
    with McapFile(next(folder.glob("*.mcap"))) as file:
        (jump,) = file.metadata[OUTCOME]["clock_jumps"].split()
    assert abs(int(jump.partition(":")[2]) + 3_600_000_000_000) < 20_000_000


def test_slewing_is_no_jump_and_a_simulated_clock_may_run_fast():
    watch = ClockWatch(time.time_ns, 0.05, simulated=False)
    assert all(watch.check(i * 1_000_500, i * 1_000_000)[1] == 0 for i in range(1000))
    fast = ClockWatch(time.time_ns, 0.05, simulated=True)
    assert all(fast.check(i * 10**9, i * 10**8)[1] == 0 for i in range(100))
    assert fast.check(0, 100 * 10**8)[1] < 0


def test_a_process_that_is_held_up_between_two_clocks_sees_no_jump():
    readings = 0

    def clock() -> int:
        nonlocal readings
        readings += 1
        if readings in (50, 80, 81, 82):
            time.sleep(0.1)
        return time.time_ns()

    watch = ClockWatch(clock, 0.05, simulated=False)
    stamps = []
    for _ in range(100):
        stamp, jump = watch.read()
        assert jump == 0
        stamps.append(stamp)
    assert readings > 100
    assert np.all(np.diff(stamps) >= 0)
