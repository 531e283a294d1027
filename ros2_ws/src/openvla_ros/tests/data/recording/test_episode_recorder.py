"""Recordings cannot be lost: killed, disk full, permission lost, clock set, numbers and renames."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from support.recorder_process import NAMES, SIZES, TYPE, number_of, payload, recorder
from support.shared_data import TESTS
from support.waiting import wait_until

from openvla_ros.data.bags.mcap_reader import McapFile
from openvla_ros.data.bags.message_definition import message_definition
from openvla_ros.data.bags.recording_folder import OUTCOME, Recordings
from openvla_ros.data.bags.rosbag2_writer import BagWriter, QualityOfService, Topic, parse_qos
from openvla_ros.data.recording.disk_and_clock_watch import ClockWatch
from openvla_ros.data.recording.episode_recorder import RecordedTopic, RecorderLimits
from openvla_ros.errors import DatasetError

STORE = get_typestore(Stores.ROS2_KILTED)
RECORDER = TESTS / "support" / "recorder_process.py"


def messages(folder: Path, topic: str) -> list[tuple[int, bytes]]:
    (path,) = folder.glob("*.mcap")
    with McapFile(path) as file:
        channel = file.channel(topic).id
        found = [file.message(channel, i) for i in range(len(file.times_ns(channel)))]
        values = [(m.log_ns, bytes(m.data)) for m in found]
        del found
    return values


def test_rosbags_reads_what_was_written(tmp_path):
    qos = (QualityOfService("best_effort", "transient_local", 3),)
    writer = BagWriter(tmp_path / "bag", chunk_bytes=5000)
    joint_type = "sensor_msgs/msg/JointState"
    topic = writer.add_topic(Topic("/joint_states", joint_type, message_definition(joint_type), qos))
    store_type = STORE.types[joint_type]
    header = STORE.types["std_msgs/msg/Header"]
    stamp = STORE.types["builtin_interfaces/msg/Time"]
    rng = np.random.default_rng(0)
    sent = []
    for i in range(300):
        message = store_type(
            header(stamp(5, i), "base"), ["a", "b"], rng.normal(size=2), np.zeros(0), np.zeros(0)
        )
        sent.append(message)
        writer.write(topic, STORE.serialize_cdr(message, joint_type), 10**9 + i, 10**9 - i)
    writer.close()
    with AnyReader([tmp_path / "bag"]) as reader:
        (connection,) = reader.connections
        assert connection.msgcount == 300
        assert connection.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"
        got = [(t, reader.deserialize(data, joint_type)) for _, t, data in reader.messages()]
    assert [t for t, _ in got] == [10**9 + i for i in range(300)]
    for expected, (_, message) in zip(sent, got, strict=True):
        np.testing.assert_array_equal(message.position, expected.position)
        assert message.header.stamp.nanosec == expected.header.stamp.nanosec


def test_the_mcap_library_finds_every_checksum_and_index_right(tmp_path):
    from mcap.reader import make_reader

    writer = BagWriter(tmp_path / "bag", chunk_bytes=1000)
    topics = [writer.add_topic(Topic(name, TYPE, message_definition(TYPE))) for name in NAMES]
    writer.add_metadata("note", {"key": "value"})
    for i in range(500):
        writer.write(topics[i % 2], payload(i, 30), i, i)
    writer.close()
    with writer.path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary.statistics.message_count == 500
        assert summary.statistics.chunk_count == len(summary.chunk_indexes) > 10
        assert [number_of(m.data) for _, _, m in reader.iter_messages()] == list(range(500))
        assert {m.name: m.metadata for m in reader.iter_metadata()}["note"] == {"key": "value"}
    with McapFile(writer.path) as opened:
        opened.verify()


def test_qos_survives_its_text():
    offers = (
        QualityOfService("best_effort", "volatile", 7),
        QualityOfService("reliable", "transient_local", 1),
    )
    from openvla_ros.data.bags.rosbag2_writer import dump_qos

    assert parse_qos(dump_qos(offers)) == offers
    assert parse_qos("") == ()
    assert parse_qos("- {reliability: best_effort, durability: volatile, depth: 7}") == offers[:1]


@pytest.mark.parametrize("cut", [1, 9, 100, 1234, 5000])
def test_a_file_cut_anywhere_gives_every_message_before_the_cut(tmp_path, cut):
    writer = BagWriter(tmp_path / "bag", chunk_bytes=3000)
    topic = writer.add_topic(Topic("/counted", TYPE, message_definition(TYPE)))
    for i in range(400):
        writer.write(topic, payload(i, 50), i, i)
    writer.flush()
    writer.abandon()
    size = writer.path.stat().st_size
    os.truncate(writer.path, size - cut)
    with McapFile(writer.path) as file:
        assert not file.finished
        numbers = [number_of(m.data) for m in file]
    assert numbers == list(range(len(numbers)))
    # A message takes at most 100 bytes of the file; a cut in the index of a chunk costs nothing.
    assert 400 - cut // 80 - 1 <= len(numbers) <= 400


def test_one_wrong_byte_is_found_by_the_checksum(tmp_path):
    writer = BagWriter(tmp_path / "bag")
    topic = writer.add_topic(Topic("/counted", TYPE, message_definition(TYPE)))
    for i in range(100):
        writer.write(topic, payload(i, 50), i, i)
    writer.close()
    data = bytearray(writer.path.read_bytes())
    data[data.index(b"57 ")] = 0x35 + 1
    writer.path.write_bytes(data)
    with McapFile(writer.path) as file, pytest.raises(DatasetError, match="damaged"):
        file.verify()


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


def fill(recording, seconds: float, start: int = 0) -> int:
    number, end = start, time.monotonic() + seconds
    while time.monotonic() < end:
        for name, size in zip(NAMES, SIZES, strict=True):
            recording.write(name, payload(number, size), time.time_ns())
        number += 1
        time.sleep(0.005)
    return number


def fill_until(recording, condition, seconds: float, count: int = 0, pause_s: float = 0.0) -> int:
    """Fill for ``seconds`` again and again until the condition holds; return the next number."""

    def more() -> None:
        nonlocal count
        count = fill(recording, seconds, count)
        time.sleep(pause_s)

    wait_until(condition, 20.0, more)
    return count


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
        assert "File too large; buffering until the disk works again" in alarms[0][1]
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
    assert [level for level, text in alarms if "is full" in text] == ["warn", "error"]
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


LOSES_PERMISSION = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
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
    assert any("one of /large cannot be stored: five" in text for text in alarms)


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
