"""What is shown of recordings: every message of ours in order, and the steps of any dataset."""

import threading

import numpy as np
import pytest
from support.fake_recording import PROFILE, START, steady_run
from support.generated_episodes import make_episode

from openvla_ros.data.bags.bag_reader import BagReader
from openvla_ros.data.datasets.open_dataset import SourceRequest
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.errors import DatasetError
from openvla_ros.preprocessing.image_encoding import decode_compressed
from openvla_ros.profile import load_profile
from openvla_ros.viewing import shown
from openvla_ros.viewing.playing import play
from openvla_ros.viewing.recording_view import view_recording


class Listed:
    """A viewer that keeps what it is shown."""

    where, stays = "", False

    def __init__(self, paced=False):
        self.things, self.paced, self.flushed, self.restarted = [], paced, 0, 0

    def show(self, thing):
        self.things.append(thing)

    def flush(self):
        self.flushed += 1

    def restart(self):
        self.restarted += 1


def of(things, path):
    return [thing for thing in things if thing.path == path]


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return steady_run(seconds=2.0).write(tmp_path_factory.mktemp("bag") / "episode_000000", jpeg=True)


def test_every_message_of_a_recording_is_shown_in_the_order_of_reception(bag):
    found = view_recording(SourceRequest(bag), 0, None)
    assert found.not_shown == ""
    assert found.stage.shapes["upper_arm_link"]
    assert (found.stage.cameras, found.stage.joints) == (("primary",), PROFILE.arm.joints)
    things = list(found.things())
    received = [thing.moment.received_ns for thing in things]
    assert received == sorted(received)
    with BagReader(bag) as reader:
        states = [m.value.position[:6] for m in reader.messages("joint_states")]
        images = len(reader.stream("camera/primary/image_raw"))
    joints = sorted(of(things, "joints/measured"), key=lambda thing: thing.moment.stamp_ns)
    assert np.array_equal([thing.values for thing in joints], states)
    assert len(of(things, "camera/primary")) == images
    assert len(of(things, "action/policy")) == len(of(things, "chunk/policy")) == 10
    first = things[0]
    assert (first.path, first.text, first.moment.received_ns) == ("instruction", "lift the cube", START)
    assert "recorder: camera primary was black for 3.0 s" in [t.text for t in of(things, shown.PROBLEMS)]


@pytest.mark.parametrize("robot", [None, "widowx", "franka"])
def test_a_dataset_s_steps_are_shown_and_its_arm_where_the_profile_has_its_joints(tmp_path, robot):
    episode = make_episode(3, jpeg=True)
    with Hdf5Writer(tmp_path / "data.hdf5") as writer:
        writer.add(episode)
    profile = None if robot is None else load_profile(robot)
    found = view_recording(SourceRequest(tmp_path / "data.hdf5"), 0, profile)
    things = list(found.things())
    joints, actions = of(things, "joints/measured"), of(things, "action/recorded")
    assert np.array_equal([thing.values for thing in joints], episode.joint_positions)
    assert np.allclose([thing.values for thing in actions], episode.actions)
    assert [thing.moment.stamp_ns for thing in actions] == [thing.moment.stamp_ns for thing in joints]
    for camera in ("primary", "wrist"):
        pixels = [decode_compressed(t.format, t.data) for t in of(things, f"camera/{camera}")]
        right = np.array([episode.images[camera][i] for i in range(len(episode))], int)
        assert np.abs(np.array(pixels, int) - right).mean() < 3  # HDF5 has pixels: they are encoded again
    assert (of(things, "instruction")[0].text, len(of(things, "tool/measured"))) == (episode.instruction, 6)
    placed = of(things, "arm")
    assert len(placed) == (6 if robot == "widowx" else 0)
    why = {None: "no robot profile is given (--robot)", "franka": "the episode has 6 joints, franka 7"}
    assert found.not_shown == why.get(robot, "")
    if robot == "widowx":
        tool = placed[0].poses["ee_gripper_link"].position
        assert np.isfinite(tool).all()
        assert found.stage.joints == profile.arm.joints


def test_an_episode_that_is_not_there_is_refused_with_the_choices(bag, tmp_path):
    for number in (-1, 1):
        with pytest.raises(DatasetError, match=rf"no episode {number}; choose 0 .. 0"):
            view_recording(SourceRequest(bag), number, None)
    with pytest.raises(DatasetError, match="does not exist"):
        view_recording(SourceRequest(tmp_path / "nothing"), 0, None)


def test_a_damaged_recording_is_refused_before_anything_is_shown(bag, tmp_path):
    broken = tmp_path / "episode_000000"
    broken.mkdir()
    for file in bag.iterdir():
        data = bytearray(file.read_bytes())
        if file.suffix == ".mcap":
            data[len(data) // 2] ^= 1
        (broken / file.name).write_bytes(bytes(data))
    with pytest.raises(DatasetError):
        view_recording(SourceRequest(broken), 0, None)


def cut(bag, folder, share):
    """A copy of a bag whose writer got no further than ``share`` of the file."""
    folder.mkdir()
    for file in bag.iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[: int(len(data) * share)] if file.suffix == ".mcap" else data)
    return SourceRequest(folder)


def test_a_truncated_recording_is_shown_as_far_as_it_goes_and_says_so(bag, tmp_path):
    whole = view_recording(SourceRequest(bag), 0, None)
    assert whole.missing == ""
    found = view_recording(cut(bag, tmp_path / "episode_000000", 0.5), 0, None)
    assert "episode_000000 is truncated" in found.missing
    things = list(found.things())
    assert 10 < len(things) < len(list(whole.things()))
    assert (things[-1].path, things[-1].text) == (shown.PROBLEMS, found.missing)


def test_a_recording_that_ends_before_its_first_message_is_refused(bag, tmp_path):
    with pytest.raises(DatasetError, match="no message"):
        view_recording(cut(bag, tmp_path / "episode_000000", 0.1), 0, None)


def test_a_file_gets_a_recording_once_and_a_server_again_and_again(bag):
    things = view_recording(SourceRequest(bag), 0, None).things
    once, again = Listed(), Listed(paced=True)
    count = play(things, once, threading.Event())
    assert count == len(once.things) == len(list(things()))
    assert once.flushed == 1
    few = once.things[:3]
    stop = threading.Event()

    def three():
        if len(again.things) >= 6:
            stop.set()
        return iter(few)

    assert play(three, again, stop, wait_s=0.0) == 0
    assert again.things == [*few, *few]
    assert (once.restarted, again.restarted) == (0, 2)


def test_a_server_shows_at_the_pace_of_the_recording():
    stop, viewer = threading.Event(), Listed(paced=True)
    moments = [shown.Moment(START, START + i * 3_600_000_000_000) for i in range(2)]
    things = [shown.LogText("log/verdict", moment, "") for moment in moments]
    threading.Timer(0.05, stop.set).start()
    assert play(lambda: iter(things), viewer, stop) == 1  # the second is due in an hour
