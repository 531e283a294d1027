"""A long recording cut into episodes: by a topic, words, times, pauses or calls of a service."""

from dataclasses import replace

import pytest
from support.fake_recording import (
    MS,
    START,
    make,
)
from support.foreign_bags import (
    ACTIVE,
    JOINTS,
    TASK,
    TEXT,
    add_flags,
    check_turning,
    imported,
    refused,
    turning_run,
    waist,
    write_profile,
    write_run,
)
from support.openvla_program import run as openvla


@pytest.fixture
def profile(tmp_path):
    return write_profile(tmp_path / "foreign.yaml")


def test_a_topic_cuts(profile, tmp_path):
    run = turning_run()
    add_flags(run, (0.0, False), (0.5, True), (1.0, True), (1.5, False), (2.5, True))
    episodes, said = imported(write_run(tmp_path / "bag", run), profile, tmp_path, "--cut-topic", ACTIVE)
    assert [int(e.stamps_ns[0] - START) // MS for e in episodes] == [500, 2500]
    assert [len(e) for e in episodes] == [5, 7]  # the run ends at 3.99 s
    for episode in episodes:
        check_turning(episode, run)
    assert episodes[0].provenance["cut"] == f"{ACTIVE} True until False"
    assert episodes[1].provenance["cut"] == f"{ACTIVE} True to its end"
    assert "primary 11" in said


def test_words_of_a_topic_cut_and_label(profile, tmp_path):
    run = turning_run()
    for second, words in ((0.0, ""), (0.4, "lift it"), (1.6, "put it down"), (3.0, "")):
        run.add(TASK, TEXT, START + round(second * 1e9), make(TEXT, data=words))
    bag = write_run(tmp_path / "bag", run)
    episodes, _ = imported(bag, profile, tmp_path, "--cut-topic", TASK)
    assert [(e.instruction, int(e.stamps_ns[0] - START) // MS) for e in episodes] == [
        ("lift it", 400),
        ("put it down", 1600),
    ]


def test_a_file_of_times_cuts_and_labels(profile, tmp_path):
    times = tmp_path / "cuts.csv"
    times.write_text('start,end,instruction\n0.5,1.502,"lift it, slowly"\n2.0,3.0,\n')
    bag = write_run(tmp_path / "bag", turning_run())
    options = ("--times", times, "--instruction", "otherwise")
    episodes, _ = imported(bag, profile, tmp_path, *options)
    assert [(e.instruction, len(e)) for e in episodes] == [("lift it, slowly", 4), ("otherwise", 4)]
    assert int(episodes[0].stamps_ns[0] - START) // MS == 600  # 0.502 s: the first receipt is at 2 ms
    assert episodes[0].provenance["cut"] == "cuts.csv:2"


def test_pauses_of_motion_cut(profile, tmp_path):
    run = turning_run(6.0)
    first, last = START + 2000 * MS, START + 4000 * MS
    for index, (received, message) in enumerate(run.messages[JOINTS]):
        stamp = received - 2 * MS
        positions = message.position.copy()
        positions[-1] = 0.03
        if first <= stamp <= last:
            positions[0] = waist(first)
        elif stamp > last:
            positions[0] = waist(stamp) - (waist(last) - waist(first))
        run.messages[JOINTS][index] = (received, replace(message, position=positions))
    bag = write_run(tmp_path / "bag", run)
    episodes, _ = imported(bag, profile, tmp_path, "--cut-pauses", 1)
    assert [int(e.stamps_ns[0] - START) // MS for e in episodes] == [0, 3500]
    assert [round(e.duration_s, 1) for e in episodes] == [2.4, 2.4]


def test_recorded_calls_of_a_service_cut(profile, tmp_path):
    """The events' bytes come from rclpy's own serialisation."""
    rclpy_serialization = pytest.importorskip("rclpy.serialization")
    from std_srvs.srv import SetBool, Trigger

    def event(kind, number, what, value=None, success=None):
        message = kind.Event()
        message.info.event_type, message.info.sequence_number = what, number
        if value is not None:
            message.request = [kind.Request(data=value)]
        if success is not None:
            message.response = [kind.Response(success=success, message="said")]
        return bytes(rclpy_serialization.serialize_message(message))

    run = turning_run()
    topic, kind = "/teach/_service_event", "std_srvs/srv/SetBool_Event"
    for number, (ms, value) in enumerate(((500, True), (1500, False), (2000, True), (2500, False))):
        at = START + ms * MS
        run.add(topic, kind, at, event(SetBool, number, 1, value))
        run.add(topic, kind, at + MS, event(SetBool, number, 2, success=number != 2))
    bag = write_run(tmp_path / "bag", run, "mcap")
    episodes, _ = imported(bag, profile, tmp_path, "--cut-service", "/teach")
    assert [(int(e.stamps_ns[0] - START) // MS, len(e)) for e in episodes] == [(500, 5)]
    check_turning(episodes[0], run)

    run = turning_run()
    for number, ms in enumerate((500, 2000)):
        run.add(
            "/go/_service_event", "std_srvs/srv/Trigger_Event", START + ms * MS, event(Trigger, number, 1)
        )
        run.add(
            "/end/_service_event",
            "std_srvs/srv/Trigger_Event",
            START + (ms + 1000) * MS,
            event(Trigger, number, 0),
        )
    bag = write_run(tmp_path / "other", run)
    options = ("--cut-service", "/go", "--stop-service", "/end", "--preview")
    assert "0.50" in openvla("import-bag", bag, "--robot", profile, *options).stdout
    episodes, _ = imported(bag, profile, tmp_path, *options[:-1])
    assert [int(e.stamps_ns[0] - START) // MS for e in episodes[1:]] == [500, 2000]

    bare = turning_run()
    bare.add(topic, "std_srvs/srv/SetBool_Event", START, event(SetBool, 0, 1))
    refused(write_run(tmp_path / "bare", bare), profile, "without contents", "--cut-service", "/teach")


def test_a_preview_writes_nothing_and_says_everything(profile, tmp_path):
    run = turning_run()
    add_flags(run, (0.5, True), (1.5, False), (3.999, True))
    bag = write_run(tmp_path / "bag", run)
    before = sorted(tmp_path.rglob("*"))
    options = ("--cut-topic", ACTIVE, "--instruction", "turn", "--preview")
    said = openvla("import-bag", bag, "--robot", profile, *options).output
    for part in ("0.50", "1.00", "primary 11", "turn", "False", "1 episodes"):
        assert part in said
    assert sorted(tmp_path.rglob("*")) == before


def test_words_said_before_an_episode_hold_in_it(profile, tmp_path):
    run = turning_run()
    run.add(TASK, TEXT, START, make(TEXT, data="turn left"))
    run.add(TASK, TEXT, START + 2600 * MS, make(TEXT, data="stop"))
    add_flags(run, (1.0, True), (3.0, False))
    options = ("--cut-topic", ACTIVE, "--instruction-topic", TASK)
    (episode,), said = imported(write_run(tmp_path / "bag", run), profile, tmp_path, *options)
    assert episode.instruction == "turn left"
    assert len(episode) == 8  # 1.0 .. 2.4 s
    assert "under another instruction" in said
