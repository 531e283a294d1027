"""Recordings cannot be lost: killed, permission lost, overrun with messages, numbers and renames."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader
from support.filled_recordings import fill, messages
from support.openvla_program import run
from support.recorder_process import NAMES, TYPE, number_of, recorder
from support.shared_data import TESTS

from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.bags.recording_folder import OUTCOME, Recordings
from openvla_ros.data.bags.rosbag2_writer import Topic
from openvla_ros.data.recording.episode_recorder import RecordedTopic, RecorderLimits
from openvla_ros.errors import DatasetError

RECORDER = TESTS / "support" / "recorder_process.py"


def _kill_at_random(root: Path, times: int, seed: int) -> None:
    rng = random.Random(seed)
    finished: dict[str, int] = {}
    saved = 0
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, str(RECORDER), str(root), "0.6"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout.readline() == "READY\n"
        time.sleep(rng.uniform(0.05, 2.0))
        process.send_signal(signal.SIGKILL)
        killed_ns = time.time_ns()
        process.wait()
        process.stdout.close()
        store = Recordings(root)
        with store.locked():
            recovered = store.recover()
        saved += len(recovered)
        for done in recovered:
            assert done.damage is None
            assert killed_ns - done.last_ns < 1e9, "more than a second before the kill is gone"
        assert not store.folders(".recording")
        assert not store.folders(".recovering")
        for folder in store.folders():
            numbers = [number_of(data) for _, data in messages(folder, "/counted")]
            assert numbers == list(range(len(numbers)))
            assert numbers, folder
            # What was there after an earlier kill is there still.
            assert finished.setdefault(folder.name, len(numbers)) == len(numbers)
        names = [folder.name for folder in store.folders()]
        assert names == [f"episode_{i:06d}" for i in range(len(names))]
    assert saved
    with AnyReader(store.folders()) as reader:
        assert reader.message_count >= sum(finished.values())


def test_killed_at_random_moments(tmp_path):
    _kill_at_random(tmp_path / "set", times=5, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_100_times_at_random_moments(tmp_path):
    _kill_at_random(tmp_path / "set", times=100, seed=1)


def test_the_next_start_recovers_and_counts_on(tmp_path):
    recording = recorder(tmp_path)
    recording.start({"a": {"b": "c"}})
    count = fill(recording, 0.3)
    time.sleep(0.7)
    recording.close()  # as if the process had ended without a word
    again = recorder(tmp_path)
    (done,) = again.recovered
    assert done.folder.name == "episode_000000"
    assert len(messages(done.folder, "/counted")) == count
    with McapFile(next(done.folder.glob("*.mcap"))) as file:
        assert file.metadata["a"] == {"b": "c"}
        assert file.metadata[OUTCOME]["recovered"] == "true"
    assert again.start({}).name == "episode_000001.recording"
    fill(again, 0.05)
    again.discard()
    assert again.start({}).name == "episode_000001.recording"
    fill(again, 0.05)
    assert again.stop("failure").name == "episode_000001"
    again.close()
    assert [f.name for f in Recordings(tmp_path).folders()] == ["episode_000000", "episode_000001"]


def test_two_recorders_cannot_share_a_folder(tmp_path):
    first = recorder(tmp_path)
    with pytest.raises(DatasetError, match="another process is recording"):
        recorder(tmp_path)
    first.close()
    recorder(tmp_path).close()


def test_an_existing_episode_is_never_overwritten(tmp_path):
    recording = recorder(tmp_path)
    recording.start({})
    fill(recording, 0.05)
    (tmp_path / "episode_000000").mkdir()
    with pytest.raises(DatasetError, match="already exists"):
        recording.stop("success")
    recording.close()
    assert (tmp_path / "episode_000000.recording").is_dir()


def test_recovery_that_is_killed_is_done_again(tmp_path):
    recording = recorder(tmp_path)
    recording.start({})
    count = fill(recording, 0.2)
    time.sleep(0.7)
    recording.close()
    half = tmp_path / "episode_000000.recovering"
    half.mkdir()
    (half / "episode_000000_0.mcap").write_bytes(b"half a file")
    store = Recordings(tmp_path)
    with store.locked():
        (done,) = store.recover()
    assert len(messages(done.folder, "/counted")) == count
    # Killed between the last rename and the removal of the original: nothing is done twice.
    left = tmp_path / "episode_000000.recording"
    left.mkdir()
    with store.locked():
        assert store.recover() == []
    assert [p.name for p in sorted(tmp_path.iterdir())] == [".lock", "episode_000000"]


def _unfinished(root: Path, seconds: float, start: int) -> Path:
    """An episode whose recorder was killed; its numbers count from ``start``."""
    recording = recorder(root)
    recording.start({})
    fill(recording, seconds, start)
    time.sleep(0.7)
    recording.close()
    return root / "episode_000000.recording"


def test_an_unfinished_recording_is_kept_if_another_episode_has_its_number(tmp_path):
    """Folders of two machines were merged."""
    other = _unfinished(tmp_path / "other", 0.2, 5000)
    mine = recorder(tmp_path / "mine")
    mine.start({})
    fill(mine, 0.1)
    finished = mine.stop("success")
    mine.close()
    theirs = len(messages(other, "/counted"))
    other.rename(tmp_path / "mine" / other.name)
    done = run("recover", tmp_path / "mine")
    assert done.stdout.startswith("episode_000001: ")
    assert "(from episode_000000.recording: another episode has that number)" in done.stdout
    assert sorted(p.name for p in finished.parent.iterdir()) == [".lock", "episode_000000", "episode_000001"]
    found = [number_of(data) for _, data in messages(finished.parent / "episode_000001", "/counted")]
    assert len(found) == theirs
    assert min(found) >= 5000
    assert min(number_of(data) for _, data in messages(finished, "/counted")) == 0


def test_what_a_recovery_left_behind_is_deleted_only_if_it_is_a_copy(tmp_path):
    folder = _unfinished(tmp_path, 0.2, 0)
    kept = shutil.copytree(folder, tmp_path / "kept")
    store = Recordings(tmp_path)
    with store.locked():
        (done,) = store.recover()
        shutil.copytree(kept, folder)  # killed before the original was deleted
        assert store.recover() == []
        assert not folder.exists()
        folder.with_suffix(".recovering").mkdir()
        done.folder.rename(tmp_path / "episode_000000.recovering")  # whose original is on another machine
        (again,) = store.recover()
        assert (again.folder, again.message_count) == (done.folder, done.message_count)
        shutil.copytree(kept, folder.with_suffix(".recovering"))
        shutil.rmtree(done.folder)
        shutil.copytree(_unfinished(tmp_path / "other", 0.1, 5000), folder)
        assert [recovered.folder.name for recovered in store.recover()] == [
            "episode_000000",
            "episode_000001",
        ]
        several = shutil.copytree(kept, tmp_path / "episode_000007.recording")
        shutil.copyfile(next(several.iterdir()), several / "second.mcap")
        (left,) = store.recover()
    assert left.folder == several
    assert "2 MCAP files" in left.damage
    assert len(list(several.iterdir())) == 2


LOSES_PERMISSION = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.openvla_program import run
from support.recorder_process import recorder, payload
root = Path({root!r})
os.setgid(65534); os.setuid(65534)
alarms = []
recording = recorder(root, lambda level, text: alarms.append(text))
recording.start({{}})
def fill(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        recording.write("/counted", payload(1, 40), time.time_ns())
        time.sleep(0.01)
fill(0.3)
root.chmod(0o555)
fill(1.5)
print(alarms)
try:
    recording.stop("success")
except Exception as error:
    print(error)
root.chmod(0o755)
recording.close()
again = recorder(root)
print([r.message_count for r in again.recovered])
again.close()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become an ordinary user")
def test_permission_lost_raises_an_alarm_and_costs_nothing():
    import shutil
    import tempfile

    root = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(root, 65534, 65534)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOSES_PERMISSION.format(tests=str(TESTS), root=str(root))],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        alarms, refused, counts = done.stdout.splitlines()
        assert "is no longer writable" in alarms
        assert "Permission denied" in refused
        assert int(counts.strip("[]")) > 100
    finally:
        shutil.rmtree(root)


def test_a_message_that_cannot_be_looked_at_or_stored_costs_no_other(tmp_path):
    def inspect(topic: str, data: bytes, stamp_ns: int) -> None:
        if number_of(data) % 7 == 0:
            raise ZeroDivisionError("seven")

    def transform(data: bytes) -> bytes:
        if number_of(data) % 5 == 0:
            raise RuntimeError("five")
        return data

    alarms = []
    recording = recorder(tmp_path, lambda level, text: alarms.append(text), inspect=inspect)
    recording.add_topic(RecordedTopic(Topic("/large", TYPE, message_definition(TYPE)), transform=transform))
    recording.start({})
    count = fill(recording, 0.3)
    folder = recording.stop("success")
    recording.close()
    assert [number_of(data) for _, data in messages(folder, "/counted")] == list(range(count))
    stored = [number_of(data) for _, data in messages(folder, "/large")]
    assert stored == [number for number in range(count) if number % 5]
    assert recording.lost == {"/large": count - len(stored)}
    assert any("failed: seven" in text for text in alarms)
    assert any("a message on /large cannot be stored: five" in text for text in alarms)


def test_messages_that_come_faster_than_they_can_be_stored_are_counted_and_told(tmp_path):
    alarms = []
    recording = recorder(
        tmp_path,
        lambda level, text: alarms.append((level, text)),
        inspect=lambda topic, data, stamp: time.sleep(0.02),  # a storage that takes 50 a second
        limits=RecorderLimits(backlog_bytes=12_000_000, backlog_s=0.2),
    )
    recording.start({})
    count = fill(recording, 2.0)
    assert {level for level, _ in alarms} == {"warn", "error"}, alarms
    assert any("are not stored yet: a crash would lose them" in text for _, text in alarms)
    assert any("are lost: they arrive faster than they can be stored" in text for _, text in alarms)
    assert recording.health().level == "error"
    folder = recording.stop("success")
    lost = recording.lost
    recording.close()
    with McapFile(next(folder.glob("*.mcap"))) as file:
        outcome = file.metadata[OUTCOME]
    assert int(outcome["lost"]) == lost.total() > 0
    assert outcome["lost_by_topic"] == ", ".join(f"{name} {lost[name]}" for name in sorted(lost))
    for name in NAMES:
        assert len(messages(folder, name)) == count - lost[name], name
