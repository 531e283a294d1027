"""A recorded run read back: the same moments, the same actions, whatever happened in between."""

from dataclasses import replace

import numpy as np
import pytest
from support.fake_recording import (
    MS,
    PROFILE,
    START,
    STORE,
    TYPES,
    chunk_message,
    image,
    image_message,
    make,
    pose_message,
    state_message,
    steady_run,
    verdict_message,
)

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.bag_reader import BagReader, read_metadata
from openvla_ros.data.bags.bag_source import BagSource
from openvla_ros.data.bags.resampling import RecordedChunk, commanded_steps, executed, grid, in_order
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.errors import DatasetError
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.delta_actions import compose
from openvla_ros.values.action import ActionChunk
from openvla_ros.values.geometry import Pose, transform_euler_to_matrix

SPACE = PROFILE.space()
STEP = 200 * MS


def chunk(stamp_ns, values, by_person=False, received_ns=None):
    actions = np.array(values, dtype=float)[:, None] * np.ones(SPACE.width) * 0.01
    return RecordedChunk(ActionChunk(actions, stamp_ns, SPACE), by_person, received_ns or stamp_ns + 50 * MS)


def test_each_step_sees_what_was_newest_by_its_own_stamp(tmp_path):
    run = steady_run()
    episode = BagReader(run.write(tmp_path / "episode_000000")).episode()
    chunks = run.messages["policy/action_chunk"]
    assert len(episode) == len(chunks)
    forward = KinematicChain.from_profile(PROFILE.arm).forward
    for i, (_, sent) in enumerate(chunks):
        stamp = sent.header.stamp.sec * 10**9 + sent.header.stamp.nanosec
        assert episode.stamps_ns[i] == stamp
        np.testing.assert_array_equal(episode.actions[i], sent.points[0].positions)

        def newest(role, stamp=stamp):
            ns = [(m.header.stamp.sec * 10**9 + m.header.stamp.nanosec, m) for _, m in run.messages[role]]
            return max((item for item in ns if item[0] <= stamp), key=lambda item: item[0])[1]

        seen = episode.observation(i)
        image = newest("camera/primary/image_raw")
        np.testing.assert_array_equal(seen.images["primary"], image.data.reshape(24, 32, 3))
        positions = newest("joint_states").position
        np.testing.assert_array_equal(seen.joint_positions, positions[:6])
        np.testing.assert_array_equal(seen.pose.matrix, forward(positions[:6]).matrix)
        assert seen.gripper == PROFILE.gripper.opening(positions[6])
        assert seen.instruction == "lift the cube"
    assert episode.outcome == "success"
    assert not episode.intervention.any()


def test_any_moment_can_be_asked_for(tmp_path):
    with BagReader(steady_run().write(tmp_path / "episode_000000")) as reader:
        episode = reader.episode()
        for i in (0, 7, len(episode) - 1):
            at, step = reader.observation(int(episode.stamps_ns[i])), episode.observation(i)
            np.testing.assert_array_equal(at.images["primary"], step.images["primary"])
            np.testing.assert_array_equal(at.joint_positions, step.joint_positions)
            assert (at.gripper, at.stamp_ns, at.instruction) == (
                step.gripper,
                step.stamp_ns,
                step.instruction,
            )
            np.testing.assert_array_equal(at.pose.matrix, step.pose.matrix)


def test_images_are_decoded_only_when_looked_at(tmp_path, monkeypatch):
    decoded = []
    real = cdr.decode_image
    monkeypatch.setattr(cdr, "decode_image", lambda *a: decoded.append(1) or real(*a))
    episode = BagReader(steady_run().write(tmp_path / "episode_000000")).episode()
    assert not decoded
    episode.observation(3)
    assert len(decoded) == 1


def test_jpeg_images_pass_on_their_own_bytes(tmp_path):
    raw = BagReader(steady_run().write(tmp_path / "raw")).episode()
    jpeg = BagReader(steady_run().write(tmp_path / "jpeg", jpeg=True)).episode()
    assert raw.images["primary"].encoded(0) is None
    encoded = jpeg.images["primary"].encoded(0)
    assert encoded.startswith(b"\xff\xd8\xff")
    from openvla_ros.preprocessing.image_encoding import decode_compressed

    np.testing.assert_array_equal(decode_compressed("jpeg", encoded), jpeg.images["primary"][0])
    difference = jpeg.images["primary"][0].astype(int) - raw.images["primary"][0]
    assert np.abs(difference).mean() < 10  # images that have nothing in common: 85


def test_rewriting_an_image_keeps_header_and_type_support_agrees():
    rng = np.random.default_rng(0)
    for frame_length in range(9):  # every alignment of what follows the frame's name
        message = image_message(START, image(rng))
        message = replace(message, header=replace(message.header, frame_id="f" * frame_length))
        data = cdr.compress_image(bytes(STORE.serialize_cdr(message, cdr.IMAGE)), 90)
        again = STORE.deserialize_cdr(data, cdr.COMPRESSED_IMAGE)
        assert again.header == message.header
        assert again.format == "rgb8; jpeg compressed bgr8"
        assert bytes(again.data) == bytes(cdr.parse_compressed_image(data)[1])
        assert cdr.header_stamp_ns(data) == START


def test_a_step_with_a_stale_view_is_left_out_and_counted(tmp_path):
    run = steady_run()
    first, last = START + 1000 * MS, START + 2300 * MS
    images = run.messages["camera/primary/image_raw"]
    images[:] = [item for item in images if not first < item[0] < last]
    episode = BagReader(run.write(tmp_path / "episode_000000")).episode()
    assert 2 <= len(run.messages["policy/action_chunk"]) - len(episode) <= 5
    assert "camera/primary/image_raw" in episode.provenance["steps_left_out"]


def test_only_the_longest_instruction_is_kept_and_the_rest_is_counted(tmp_path):
    run = steady_run()
    run.add("instruction", START + 1000 * MS, make(TYPES["instruction"], data="put it down"))
    episode = BagReader(run.write(tmp_path / "episode_000000")).episode()
    assert episode.instruction == "put it down"
    assert int(episode.provenance["steps_of_other_instructions"]) + len(episode) == 20


def test_a_take_over_is_marked_and_the_policys_chunks_of_that_stretch_are_not_steps(tmp_path):
    run = steady_run()
    run.add("controller/verdict", START, verdict_message(owner="policy"))
    begin, end = START + 1500 * MS, START + 2500 * MS
    run.add("controller/verdict", begin + MS, verdict_message(owner="teleoperation"))
    for i in range(5):
        stamp = begin + i * STEP
        run.add("teleop/action_chunk", stamp + MS, chunk_message(stamp, np.full((1, 7), 0.5)))
    run.add("controller/verdict", end, verdict_message(owner="policy"))
    episode = BagReader(run.write(tmp_path / "episode_000000")).episode()
    marked = episode.stamps_ns[episode.intervention]
    assert marked.tolist() == [begin + i * STEP for i in range(5)]
    assert np.all(episode.actions[episode.intervention] == 0.5)
    others = episode.stamps_ns[~episode.intervention]
    assert not np.any((others > begin) & (others < end - 150 * MS))


def test_chunks_that_the_controller_refused_are_no_steps(tmp_path):
    run = steady_run()
    stamp = run.messages["policy/action_chunk"][3][1].header.stamp
    stamp_ns = stamp.sec * 10**9 + stamp.nanosec
    verdict = verdict_message(kind="refusal", outcome="hold", source="policy", chunk_stamp_ns=str(stamp_ns))
    run.add("controller/verdict", stamp_ns + 100 * MS, verdict)
    episode = BagReader(run.write(tmp_path / "episode_000000")).episode()
    assert stamp_ns not in episode.stamps_ns
    assert len(episode) == 19


def test_a_demonstration_is_no_intervention(tmp_path):
    run = steady_run()
    run.messages["teleop/action_chunk"] = run.messages["policy/action_chunk"]
    run.messages["policy/action_chunk"] = []
    episode = BagReader(run.write(tmp_path / "episode_000000")).episode()
    assert len(episode) == 20
    assert not episode.intervention.any()


def test_target_poses_give_back_the_deltas_that_made_them(tmp_path):
    run = steady_run()
    rng = np.random.default_rng(5)
    pose = Pose(np.array([0.3, 0.0, 0.2]), transform_euler_to_matrix([0.1, 0.2, 0.3]))
    deltas = rng.uniform(SPACE.lower, SPACE.upper, (15, 7))
    begin = START + 200 * MS
    for i, delta in enumerate([*deltas, np.zeros(7)]):
        run.add("controller/target_pose", begin + i * STEP, pose_message(begin + i * STEP, pose))
        pose = compose(pose, delta, SPACE)
    reader = BagReader(run.write(tmp_path / "episode_000000"))
    episode = reader.episode("target")
    assert len(episode) == 15
    np.testing.assert_allclose(episode.actions[:, :6], deltas[:, :6], atol=1e-9)
    measured = reader.episode("measured")
    assert len(measured) == 19
    np.testing.assert_allclose(measured.actions, reader.episode().measured_deltas())
    with pytest.raises(DatasetError, match="choose from commanded, target, measured"):
        reader.episode("wished")


def test_a_chunk_is_executed_until_the_next_one_replaces_it():
    taken = executed([chunk(0, [1, 2, 3, 4]), chunk(2 * STEP, [5, 6, 7]), chunk(STEP * 2 + 10, [8])], [])
    steps = commanded_steps(taken[:2], has_policy=True)
    assert steps.stamps_ns.tolist() == [i * STEP for i in range(5)]
    np.testing.assert_allclose(steps.actions[:, 0], [0.01, 0.02, 0.05, 0.06, 0.07])
    crowded = commanded_steps(taken, has_policy=True)
    assert np.all(np.diff(crowded.stamps_ns) > 0)
    np.testing.assert_allclose(crowded.actions[-1, 0], 0.08)


def test_without_the_controllers_word_a_persons_chunk_shuts_the_policy_out():
    chunks = [chunk(i * STEP, [1]) for i in range(10)] + [chunk(i * STEP + 1, [9], True) for i in (3, 4)]
    taken = executed(chunks, [])
    assert [(c.stamp_ns // STEP, c.by_person) for c in taken] == [
        (0, False), (1, False), (2, False), (3, False), (3, True), (4, True),
        (7, False), (8, False), (9, False),
    ]  # fmt: skip


def test_no_chunk_no_steps():
    with pytest.raises(DatasetError, match="no action chunk was executed"):
        commanded_steps([], has_policy=False)


def test_stamps_that_overtake_are_sorted_and_a_clock_that_goes_back_is_an_error():
    assert in_order(np.array([0, 3, 2, 5]) * MS, "x").tolist() == [0, 2, 1, 3]
    with pytest.raises(DatasetError, match=r"went back by 7\.0 s at message 2"):
        in_order(np.array([0, 9000, 2000, 9500]) * MS, "x")


def test_a_grid_ends_in_time():
    assert grid(0, 1000 * MS, 5.0).tolist() == [i * STEP for i in range(6)]
    assert len(grid(0, 999 * MS, 5.0)) == 5


def test_a_folder_of_episodes_is_a_dataset(tmp_path):
    for i in range(3):
        steady_run(1.0, seed=i).write(tmp_path / f"episode_{i:06d}")
    (tmp_path / "episode_000003.recording").mkdir()
    source = SourceRequest(tmp_path).open()
    assert isinstance(source.source.source, BagSource)
    assert len(source) == 3
    assert source[1].id == "episode_000001"
    metadata = read_metadata(tmp_path / "episode_000002")
    assert (metadata.operator, metadata.instruction, metadata.outcome) == ("ada", "lift the cube", "success")
    assert metadata.profile == PROFILE


def test_a_bag_of_others_is_refused_by_name(tmp_path):
    from openvla_ros.data.bags.rosbag2_writer import BagWriter

    writer = BagWriter(tmp_path / "other")
    writer.close()
    with pytest.raises(DatasetError, match="was not recorded by openvla_ros"):
        BagReader(tmp_path / "other")
    with pytest.raises(DatasetError, match="contains no finished episode"):
        BagSource(tmp_path / "nothing")


def test_a_state_without_a_joint_is_named(tmp_path):
    from openvla_ros.errors import InvalidValueError

    run = steady_run()
    message = state_message(START, np.zeros(7))
    run.messages["joint_states"] = [
        (t, replace(m, name=m.name[:3], position=m.position[:3])) for t, m in run.messages["joint_states"]
    ]
    assert message.name[3] == "forearm_roll"
    with pytest.raises(InvalidValueError, match="forearm_roll"):
        BagReader(run.write(tmp_path / "episode_000000")).episode()


def test_states_of_other_joints_change_no_step(tmp_path):
    plain = BagReader(steady_run().write(tmp_path / "episode_000000")).episode()
    run, mixed = steady_run(), []
    for received_ns, message in run.messages["joint_states"]:
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec + MS
        other = state_message(stamp_ns, np.full(len(message.name), np.nan))
        other.name = [f"wheel_{i}" for i in range(len(message.name))]
        mixed += [(received_ns, message), (received_ns + MS, other)]
    run.messages["joint_states"] = mixed
    episode = BagReader(run.write(tmp_path / "episode_000001")).episode()
    assert len(episode) == len(plain)
    for i in range(len(episode)):
        seen, expected = episode.observation(i), plain.observation(i)
        np.testing.assert_array_equal(seen.joint_positions, expected.joint_positions)
        assert seen.gripper == expected.gripper
