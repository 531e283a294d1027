"""``openvla import-bag``: others' recordings become episodes with the right values, or are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rosbags.convert.converter import convert as rosbags_convert
from support.fake_recording import (
    MS,
    START,
    TYPES,
    header,
    image,
    image_message,
    make,
    state_message,
    steady_run,
)
from support.foreign_bags import (
    ACTIVE,
    CAMERA,
    JOINTS,
    SPEED,
    TEXT,
    add_flags,
    check_turning,
    foreign_profile,
    imported,
    refused,
    turning_run,
    waist,
    write_profile,
    write_run,
    write_split,
)
from support.openvla_program import run as openvla

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.bag_reader import BagReader
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.errors import DatasetError, KinematicsError


@pytest.fixture
def profile(tmp_path):
    return write_profile(tmp_path / "foreign.yaml")


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("sqlite3", "none"), ("sqlite3", "message"), ("sqlite3", "file"), ("mcap", "message"), ("mcap", "file")],
)
def test_actions_are_computed_from_joint_states_where_none_were_recorded(
    profile, tmp_path, storage, compression
):
    run = turning_run()
    bag = write_run(tmp_path / "bag", run, storage, compression)
    (episode,), said = imported(bag, profile, tmp_path, "--instruction", "turn around")
    assert len(episode) == 19  # 4 s at 5 Hz: the last step has no end
    check_turning(episode, run)
    assert (episode.instruction, episode.rate_hz, episode.outcome) == ("turn around", 5.0, "unknown")
    assert "computed from measured joint states" in said
    assert episode.provenance["actions_from"] == "joint_states"
    assert episode.provenance["imported_from"] == str(bag)
    (listed,) = json.loads(openvla("episodes", tmp_path / "demos", "--json").stdout)
    assert any("computed from measured joint states" in warning for warning in listed["warnings"])


def test_a_split_bag_without_metadata_is_one_recording(profile, tmp_path):
    run = turning_run()
    bag = write_split(tmp_path / "bag", run, 4, "mcap", "storage")
    (bag / "metadata.yaml").unlink()
    (episode,), _ = imported(bag, profile, tmp_path)
    assert len(episode) == 19
    check_turning(episode, run)


def test_compressed_images_keep_their_bytes(profile, tmp_path):
    """A profile names the raw topic; only what image_transport publishes beside it was recorded."""
    run = turning_run(jpeg=True)
    (episode,), said = imported(write_run(tmp_path / "bag", run), profile, tmp_path)
    stored = [bytes(cdr.parse_compressed_image(data)[1]) for _, data in run.messages[f"{CAMERA}/compressed"]]
    assert [episode.images["primary"].encoded(i) for i in range(len(episode))] == stored[0:37:2]
    assert "no instruction" in said


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_our_own_recording_after_rosbags_convert_gives_the_same_episode(tmp_path, storage):
    """The converter drops the metadata records and replaces the times at which messages were sent."""
    recorded = steady_run()
    original = BagReader(recorded.write(tmp_path / "episode_000000")).episode()
    converted = tmp_path / "converted"
    rosbags_convert(
        [tmp_path / "episode_000000"], converted, storage, 9, None, "file", None, None, [], [], [], []
    )
    with pytest.raises(DatasetError, match=r"import-bag"):
        SourceRequest(converted).open()[0]
    (episode,), said = imported(converted, "sim_widowx", tmp_path, "--outcome", "success")
    assert "recorded action chunks" in said
    for name in ("stamps_ns", "actions", "joint_positions", "gripper", "poses", "intervention"):
        np.testing.assert_array_equal(getattr(episode, name), getattr(original, name))
    for i in range(len(original)):
        np.testing.assert_array_equal(episode.images["primary"][i], original.images["primary"][i])
    assert (episode.instruction, episode.outcome) == (original.instruction, "success")


# Exclusions and refusals


def test_a_step_across_a_gap_in_the_joint_states_is_left_out_and_counted(profile, tmp_path):
    """Its difference would be of another duration than a step's."""
    run = turning_run()
    run.messages[JOINTS] = [
        item for item in run.messages[JOINTS] if not START + 1050 * MS < item[0] < START + 1900 * MS
    ]
    (episode,), said = imported(write_run(tmp_path / "bag", run), profile, tmp_path)
    stamps = (episode.stamps_ns - START) // MS
    assert stamps.tolist() == [0, 200, 400, 600, 800, 1000, *range(2000, 3800, 200)]
    check_turning(episode.slice(0, 5), run)
    check_turning(episode.slice(6, len(episode)), run)
    assert "gaps, the longest 0.8" in said
    assert "gaps in joint_states: 4" in said


def test_joint_states_that_cannot_be_used_are_left_out_and_counted(profile, tmp_path):
    run = turning_run()
    kind = TYPES["joint_states"]
    for i in range(30):
        stamp = START + i * 100 * MS + 3 * MS
        other = make(
            kind, header=header(stamp), name=["tray"], position=np.array([1.0]), velocity=np.zeros(0),
            effort=np.zeros(0),
        )  # fmt: skip
        run.add(JOINTS, kind, stamp + MS, other)
    run.add(JOINTS, kind, START + 1003 * MS, state_message(START + 1003 * MS, np.full(7, np.nan)))
    (episode,), said = imported(write_run(tmp_path / "bag", run), profile, tmp_path)
    check_turning(episode, run_without_extras(run))
    assert "30 messages left out: it is for other joints" in said
    assert "1 messages left out: the joint state says waist is at nan" in said


def run_without_extras(run):
    clean = turning_run()
    clean.messages[CAMERA] = run.messages[CAMERA]
    return clean


def test_a_silent_arm_is_not_fresh_because_another_driver_talks(profile, tmp_path):
    run = turning_run()
    kind = TYPES["joint_states"]
    run.messages[JOINTS] = [item for item in run.messages[JOINTS] if item[0] < START + 2000 * MS]
    for i in range(400):
        stamp = START + i * 10 * MS + MS
        other = make(
            kind, header=header(stamp), name=["tray"], position=np.array([1.0]), velocity=np.zeros(0),
            effort=np.zeros(0),
        )  # fmt: skip
        run.add(JOINTS, kind, stamp, other)
    (episode,), _ = imported(write_run(tmp_path / "bag", run), profile, tmp_path)
    assert int(episode.stamps_ns[-1] - START) // MS == 1600


def test_other_joints_are_refused_with_both_lists(profile, tmp_path):
    kind = TYPES["joint_states"]
    run = turning_run()
    run.messages[JOINTS] = []
    for i in range(10):
        stamp = START + i * 100 * MS
        message = make(
            kind, header=header(stamp), name=["elbow", "waist"], position=np.array([0.1, 0.2]),
            velocity=np.zeros(0), effort=np.zeros(0),
        )  # fmt: skip
        run.add(JOINTS, kind, stamp, message)
    match = r"no message holds the joints of foreign \(waist, .*left_finger\); recorded are elbow, waist"
    refused(write_run(tmp_path / "bag", run), profile, match)


def test_a_missing_camera_names_what_there_is_and_another_topic_can_be_taken(profile, tmp_path):
    run = turning_run()
    run.messages["/left/image"] = run.messages.pop(CAMERA)
    run.types["/left/image"] = run.types.pop(CAMERA)
    bag = write_run(tmp_path / "bag", run)
    refused(bag, profile, f"camera 'primary': {CAMERA} or {CAMERA}/compressed is not recorded.*: /left/image")
    (episode,), _ = imported(bag, profile, tmp_path, "--topic", "camera/primary/image_raw=/left/image")
    assert len(episode) == 19
    refused(bag, profile, "no such role", "--topic", "camera/left=/left/image")


def test_a_topic_of_another_type_is_refused_with_both_types(profile, tmp_path):
    run = turning_run()
    run.messages[CAMERA], run.types[CAMERA] = [(START, make(TEXT, data="no image"))], TEXT
    match = "is recorded as std_msgs/msg/String; it must be sensor_msgs/msg/Image or"
    refused(write_run(tmp_path / "bag", run), profile, match)


def test_two_cameras_on_one_topic_are_refused(profile, tmp_path):
    run = turning_run()
    rng = np.random.default_rng(0)
    for i in range(40):
        stamp = START + i * 100 * MS + 50 * MS
        message = image_message(stamp, image(rng))
        other = replace(message, header=replace(message.header, frame_id="second"))
        run.add(CAMERA, cdr.IMAGE, stamp + 30 * MS, other)
    match = r"images of several sources \('camera' 32x24 \(40\), 'second' 32x24 \(40\)\)"
    refused(write_run(tmp_path / "bag", run), profile, match)


def test_two_publishers_that_take_turns_are_refused(profile, tmp_path):
    run = turning_run()
    rng = np.random.default_rng(0)
    for i in range(40):
        stamp = START + i * 100 * MS - 60 * MS
        run.add(CAMERA, cdr.IMAGE, stamp + 140 * MS, image_message(stamp, image(rng)))
    refused(write_run(tmp_path / "bag", run), profile, "older than the one before: two publishers")


@pytest.mark.parametrize(
    ("shift_ms", "match"),
    [
        (-1_700_000_000_000, "before their receipt"),  # a camera that counts from its start
        (-900, r"0\.930 s before their receipt \(at most 0\.5 s\)"),
        (300, r"0\.270 s after their receipt"),
    ],
)
def test_another_clock_is_refused_and_times_of_receipt_can_be_taken(profile, tmp_path, shift_ms, match):
    run = turning_run()
    run.messages[CAMERA] = [
        (at, replace(m, header=header(at - 30 * MS + shift_ms * MS, "camera")))
        for at, m in run.messages[CAMERA]
    ]
    bag = write_run(tmp_path / "bag", run)
    refused(bag, profile, match)
    (episode,), _ = imported(bag, profile, tmp_path, "--stamps", "received")
    received = {at: m.data.reshape(24, 32, 3) for at, m in run.messages[CAMERA]}
    for i, stamp in enumerate(episode.stamps_ns):
        newest = max(at for at in received if at <= stamp)
        np.testing.assert_array_equal(episode.images["primary"][i], received[newest])
        # states are stamped 2 ms late then, the waist's place is that of 2 ms before
        np.testing.assert_allclose(
            episode.joint_positions[i, 0], waist(int(stamp) - 2 * MS), atol=SPEED * 0.01
        )
    assert episode.provenance["stamps"] == "received"


def test_a_clock_that_was_set_back_is_refused(profile, tmp_path):
    run = turning_run()
    run.messages[JOINTS] = [
        (at, replace(m, header=header(at - 2 * MS - (5000 * MS if at > START + 2000 * MS else 0))))
        for at, m in run.messages[JOINTS]
    ]
    refused(write_run(tmp_path / "bag", run), profile, "drift|before their receipt|clock went back")


def test_a_broken_image_is_left_out_and_counted(profile, tmp_path):
    run = turning_run(jpeg=True)
    topic = f"{CAMERA}/compressed"
    at, data = run.messages[topic][7]
    run.messages[topic][7] = (at, data[:-40] + bytes(40))
    (episode,), said = imported(write_run(tmp_path / "bag", run), profile, tmp_path)
    assert "1 messages left out: an image: a truncated JPEG of" in said
    assert len(episode) == 19


def test_a_cut_without_images_is_left_out_with_exit_code_2(profile, tmp_path):
    run = turning_run()
    run.messages[CAMERA] = [item for item in run.messages[CAMERA] if item[0] < START + 2000 * MS]
    add_flags(run, (0.5, True), (1.5, False), (2.5, True), (3.5, False))
    bag = write_run(tmp_path / "bag", run)
    episodes, said = imported(bag, profile, tmp_path, "--cut-topic", ACTIVE, code=2)
    assert len(episodes) == 1
    assert "left out: 2.50 s" in said
    assert "no image of camera primary" in said


def test_commanded_actions_are_not_made_up(profile, tmp_path):
    bag = write_run(tmp_path / "bag", turning_run())
    refused(bag, profile, "holds no action chunks", "--actions", "commanded")


def test_a_cut_that_never_begins_is_refused(profile, tmp_path):
    run = turning_run()
    add_flags(run, (0.0, False))
    bag = write_run(tmp_path / "bag", run)
    refused(bag, profile, "never begins an episode: 1 messages say False", "--cut-topic", ACTIVE)
    refused(bag, profile, "cannot cut by /nothing: it is not recorded", "--cut-topic", "/nothing")
    refused(bag, profile, "has no field 'data'", "--cut-topic", JOINTS)
    refused(bag, profile, "both say where to cut", "--cut-topic", ACTIVE, "--cut-pauses", 1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1,2\n", "the first row is '1,2'"),
        ("start,end\n", "lists no episodes"),
        ("start,end\n1,0.5\n", "cuts.csv:2: the end 0.5 is not after the start 1"),
        ("start,end\n1,x\n", "'x' is not a number of seconds"),
        ("start,end\n1,nan\n", "is not a time"),
        ("start,end\n1,99\n", r"1.000 s \.\. 99.000 s is not within the recording"),
        ("start,end\n0,1.5\n1,2\n", "lines 2 and 3 overlap"),
        ("start_ns,end_ns\n1.5,2\n", "not a number of nanoseconds"),
        ("start_ns,end_ns\n1,2\n", "is not within the recording"),
        ("start,end\n1,2,words\n", "3 cells; the first row names 2"),
    ],
)
def test_a_file_of_times_that_makes_no_sense_is_refused(profile, tmp_path, text, match):
    times = tmp_path / "cuts.csv"
    times.write_text(text)
    refused(write_run(tmp_path / "bag", turning_run(3.0)), profile, match, "--times", times)


def test_a_bag_is_not_imported_twice_into_one_folder(profile, tmp_path):
    bag = write_run(tmp_path / "bag", turning_run())
    imported(bag, profile, tmp_path)
    with pytest.raises(DatasetError, match=r"was already imported into .* \(episode_000000\)"):
        imported(bag, profile, tmp_path)
    other = write_run(tmp_path / "other", turning_run(2.0))
    assert len(imported(other, profile, tmp_path)[0]) == 2


def test_imported_episodes_convert(profile, tmp_path):
    run = turning_run()
    add_flags(run, (0.0, True), (1.9, False), (2.0, True))
    imported(
        write_run(tmp_path / "bag", run), profile, tmp_path, "--cut-topic", ACTIVE, "--instruction", "turn"
    )
    openvla("convert", tmp_path / "demos", tmp_path / "out", "--to", "hdf5")
    source = SourceRequest(tmp_path / "out").open()
    assert len(source) == 2
    check_turning(source[1], run)


def test_the_profile_must_be_one_with_kinematics(tmp_path):
    profile = foreign_profile()
    joints = (*profile.arm.joints[:-1], "other")
    path = write_profile(tmp_path / "wrong.yaml", replace(profile, arm=replace(profile.arm, joints=joints)))
    bag = write_run(tmp_path / "bag", turning_run(1.0))
    with pytest.raises(KinematicsError, match="the profile lists"):
        openvla("import-bag", bag, "--robot", path, "--preview")


def test_the_flag_topic_may_be_any_whole_number(profile, tmp_path):
    run = turning_run()
    for second, value in ((0.0, 0), (0.5, 3), (1.5, 4), (2.5, 0)):
        run.add(
            "/phase",
            "std_msgs/msg/UInt8",
            START + round(second * 1e9),
            make("std_msgs/msg/UInt8", data=value),
        )
    episodes, _ = imported(write_run(tmp_path / "bag", run), profile, tmp_path, "--cut-topic", "/phase")
    assert [e.provenance["cut"] for e in episodes] == ["/phase 3 until 4", "/phase 4 until 0"]
