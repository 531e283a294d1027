"""Writing a video leaves the process's scheduling as it was, whatever the encoder asks of the kernel."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.real_time import real_time_threads

from openvla_ros.data.episodes.scheduling import kept_scheduling
from openvla_ros.data.episodes.video_files import CODECS, VideoWriter


@pytest.fixture
def ordinary():
    """Yield the threads that were real-time before the test; its own thread is not one of them."""
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "an earlier test has left this thread real-time"
    yield real_time_threads()
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.mark.parametrize("codec", CODECS)
def test_an_encoder_does_not_run_before_the_control_loop(tmp_path, codec, ordinary):
    image = np.zeros((64, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "video.mp4", 10.0, codec) as video:
        for _ in range(20):
            video.add(image)
        found = real_time_threads()
    assert not found.items() - ordinary.items()
    look = "import os; print(os.sched_getscheduler(0))"
    child = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert int(child.stdout) == os.SCHED_OTHER


def test_nor_do_encoders_of_several_threads_at_once(tmp_path, ordinary):
    image = np.zeros((64, 64, 3), np.uint8)

    def write(index):
        with VideoWriter(tmp_path / f"{index}.mp4", 10.0, "av1") as video:
            video.add(image)
            return os.sched_getscheduler(0)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(write, range(12))) == {os.SCHED_OTHER}
        assert not real_time_threads().items() - ordinary.items()


def test_a_thread_that_was_real_time_before_stays_so(ordinary):
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    except PermissionError:
        pytest.skip("this user may not ask for real-time priority")
    with kept_scheduling():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))
    assert os.sched_getscheduler(0) == os.SCHED_FIFO
    assert os.sched_getparam(0).sched_priority == 5
