"""A disk that fills: warned of in time, and nothing of what was written is lost."""

import resource
import signal
import subprocess
import time

import pytest
from support.filled_recordings import fill, fill_until, messages
from support.recorder_process import number_of, recorder

from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.recording_folder import OUTCOME, Recordings
from openvla_ros.data.recording.episode_recorder import RecorderLimits
from openvla_ros.errors import DatasetError


def test_a_disk_that_fills_warns_before_it_stops_and_the_episode_ends_whole(tmp_path, monkeypatch):
    from openvla_ros.data.recording import disk_and_clock_watch

    alarms = []
    free = 600e6
    monkeypatch.setattr(disk_and_clock_watch, "free_bytes", lambda folder: free)
    recording = recorder(
        tmp_path,
        lambda level, text: alarms.append((level, text)),
        limits=RecorderLimits(reserve_bytes=100_000_000, warn_s=20.0),
    )
    recording.start({})
    fill(recording, 1.2)
    assert [level for level, _ in alarms] == ["warn"], alarms
    assert "will be full in" in alarms[0][1]
    free = 50e6
    count = fill(recording, 1.2)
    assert [level for level, _ in alarms] == ["warn", "error"]
    assert "is full: stop this episode" in alarms[1][1]
    assert recording.health().level == "error"
    folder = recording.stop("success")
    with McapFile(next(folder.glob("*.mcap"))) as file:
        outcome = file.metadata[OUTCOME]
        assert file.finished
    assert outcome["disk_full"] == "true"
    assert 0 < int(outcome["lost"]) < 2 * count + 500
    free = 150e6
    with pytest.raises(DatasetError, match="has 150 MB free"):
        recording.start({})
    recording.close()


def test_a_write_that_fails_raises_an_alarm_and_is_repeated_without_loss(tmp_path):
    alarms = []
    recording = recorder(tmp_path, lambda level, text: alarms.append((level, text)))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    recording.start({})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, limit[1]))
        count = fill(recording, 1.0)
        count = fill_until(recording, lambda: alarms, 0.1, count)
        assert alarms[0][0] == "error"
        assert "File too large" in alarms[0][1]
        assert "buffering until the disk works again" in alarms[0][1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    time.sleep(0.5)
    count = fill(recording, 0.5, count)
    folder = recording.stop("success")
    recording.close()
    assert [number_of(data) for _, data in messages(folder, "/large")] == list(range(count))


def test_a_disk_that_stays_full_leaves_what_was_flushed_recoverable(tmp_path):
    earlier = recorder(tmp_path)
    earlier.start({})
    before = fill(earlier, 0.1)
    earlier.stop("success")
    earlier.start({})
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, limit[1]))
        fill_until(earlier, lambda: earlier.health().level == "error", 0.2)
        with pytest.raises(DatasetError, match="openvla recover"):
            earlier.stop("success")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    earlier.close()
    store = Recordings(tmp_path)
    with store.locked():
        (done,) = store.recover()
    assert done.message_count > 10
    numbers = [number_of(data) for _, data in messages(done.folder, "/large")]
    assert numbers == list(range(len(numbers)))
    assert len(messages(tmp_path / "episode_000000", "/counted")) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a failed test may hold a file


def test_a_disk_that_is_really_full(small_disk):
    alarms = []
    limits = RecorderLimits(reserve_bytes=6_000_000, warn_s=5.0)
    recording = recorder(small_disk, lambda level, text: alarms.append((level, text)), limits=limits)
    recording.start({})
    first = fill(recording, 0.05)
    recording.stop("success")
    recording.start({})
    fill_until(recording, lambda: any("is full: stop" in text for _, text in alarms), 0.05, pause_s=0.1)
    assert [level for level, text in alarms if "full" in text] == ["warn", "error"]
    folder = recording.stop("success")
    with pytest.raises(DatasetError, match="MB free; recording needs at least 12 MB"):
        recording.start({})
    recording.close()
    numbers = [number_of(data) for _, data in messages(small_disk / "episode_000000", "/large")]
    assert numbers == list(range(first))
    with McapFile(next(folder.glob("*.mcap"))) as file:
        file.verify()
        assert file.finished
        assert file.metadata[OUTCOME]["disk_full"] == "true"


def test_without_a_reserve_a_full_disk_leaves_a_recording_that_recovers_once_there_is_room(small_disk):
    recording = recorder(small_disk, limits=RecorderLimits(reserve_bytes=1, warn_s=0.0))
    recording.start({})
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(16_000_000))
    fill_until(recording, lambda: recording.health().level == "error", 0.2)
    assert "write" in recording.health().message
    with pytest.raises(DatasetError, match=r"No space left on device.*openvla recover"):
        recording.stop("success")
    recording.close()
    store = Recordings(small_disk)
    with store.locked(), pytest.raises(DatasetError, match="No space left"):
        store.recover()
    assert sorted(path.name for path in small_disk.iterdir() if path.is_dir()) == ["episode_000000.recording"]
    ballast.unlink()
    with store.locked():
        (done,) = store.recover()
    numbers = [number_of(data) for _, data in messages(done.folder, "/large")]
    assert len(numbers) > 10
    assert numbers == list(range(len(numbers)))
