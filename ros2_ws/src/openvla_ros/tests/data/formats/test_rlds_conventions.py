"""Each dataset of OpenVLA's mixture: a tiny one with its features, and what its actions must mean.

The right actions are computed here from the formula that each dataset's documentation states, or that the
original transform of the mixture applies where the documentation is silent.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.foreign_rlds import LENGTH, images, write_rlds

from openvla_ros.data.formats.rlds_conventions import convention_table, find_convention
from openvla_ros.data.formats.rlds_reader import RldsSource
from openvla_ros.errors import DatasetError

AXES = np.eye(3)


def turned(axis: int, angles: np.ndarray) -> np.ndarray:
    """Rotations (T, 3, 3) by ``angles`` (T,) about one fixed axis."""
    return vector_turned(np.asarray(angles, np.float64)[:, None] * AXES[axis])


def vector_turned(vectors: np.ndarray) -> np.ndarray:
    """Rotations (T, 3, 3) of rotation vectors (T, 3): the exponential series of their cross products."""
    cross = np.cross(np.asarray(vectors, np.float64)[:, None, :], AXES).swapaxes(1, 2)
    total = term = np.tile(AXES, (len(vectors), 1, 1))
    for n in range(1, 30):
        term = term @ cross / n
        total = total + term
    return total


def fixed_angles(rotation: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw (T, 3) of ``rotation`` = Rz Ry Rx."""
    r = np.moveaxis(rotation, 0, -1)
    roll, yaw = np.arctan2(r[2, 1], r[2, 2]), np.arctan2(r[1, 0], r[0, 0])
    return np.stack([roll, -np.arcsin(r[2, 0]), yaw], axis=-1)


def vector_of(rotation: np.ndarray) -> np.ndarray:
    """Rotation vectors (T, 3) of turns by less than 180 degrees."""
    angle = np.arccos(np.clip((np.trace(rotation, axis1=1, axis2=2) - 1) / 2, -1, 1))
    odd = rotation - rotation.swapaxes(1, 2)
    axis = np.stack([odd[:, 2, 1], odd[:, 0, 2], odd[:, 1, 0]], axis=-1)
    return axis * (angle / (2 * np.sin(angle)))[:, None]


def quaternion_of(rotation: np.ndarray) -> np.ndarray:
    """Quaternions x, y, z, w (T, 4)."""
    vector = vector_of(rotation)
    half = np.linalg.norm(vector, axis=1, keepdims=True) / 2
    return np.concatenate([vector / (2 * half) * np.sin(half), np.cos(half)], axis=1)


def three_turns(angles: np.ndarray, order: tuple[int, int, int]) -> np.ndarray:
    """Rotations about fixed axes, the first of ``order`` first, by the columns of ``angles``."""
    first, second, third = (turned(axis, angles[:, i]) for i, axis in enumerate(order))
    return third @ second @ first


RNG = np.random.default_rng(5)
MOVE = RNG.uniform(-0.02, 0.02, (LENGTH, 3)).astype(np.float32)
TURN = RNG.uniform(-0.1, 0.1, (LENGTH, 3)).astype(np.float32)
NOTHING = np.zeros((LENGTH, 3), np.float32)
WORDS = ["push it"] * LENGTH
FRAMES = images()


def numbers(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def filled(width: int, **parts: np.ndarray) -> np.ndarray:
    """A column (T, width) of noise with ``parts`` at the place in their name: ``at7`` from 7 on."""
    column = RNG.uniform(-1, 1, (LENGTH, width)).astype(np.float32)
    for name, values in parts.items():
        start = int(name.removeprefix("at"))
        values = values.reshape(LENGTH, -1)
        column[:, start : start + values.shape[1]] = values
    return column


def parts(**more: object) -> dict[str, object]:
    """The action of the first Open X-Embodiment datasets, as a group of features."""
    return {
        "action/world_vector": MOVE,
        "action/rotation_delta": TURN,
        "observation/natural_language_instruction": WORDS,
        **{name.replace("__", "/"): value for name, value in more.items()},
    }


def plain(action: np.ndarray, state: np.ndarray | None = None, **more: object) -> dict[str, object]:
    """One row of numbers as the action, as the datasets that were converted later have it."""
    found = {"action": action, "language_instruction": WORDS}
    if state is not None:
        found["observation/state"] = state
    return found | {name.replace("__", "/"): value for name, value in more.items()}


def seven(gripper: np.ndarray, move: np.ndarray = MOVE, turn: np.ndarray = TURN) -> np.ndarray:
    return np.column_stack([move, turn, gripper]).astype(np.float64)


# Relative commands of the gripper: nothing, close, nothing, open. Before the first one it is the other way.
RELATIVE, OPENINGS = numbers(0, 1, 0, -1), numbers(1, 0, 0, 1)
CLOSEDNESS = numbers(-1, 0.25, 1, 0)  # clipped to 0 .. 1, then 1 - x
CLOSED = numbers(1, 0.75, 0, 1)
OPENNESS = numbers(-1, 0.25, 1, 1)  # clipped
OPEN = numbers(0, 0.25, 1, 1)

QUATERNION = quaternion_of(three_turns(TURN, (0, 1, 2))).astype(np.float32)
ROTVEC = RNG.uniform(-1, 1, (LENGTH, 3)).astype(np.float32)
ROTATION = vector_turned(ROTVEC)
POSITION = RNG.uniform(0.2, 0.6, (LENGTH, 3)).astype(np.float32)
ADDED = vector_of(vector_turned(ROTVEC + TURN) @ ROTATION.swapaxes(1, 2))
FIXED_ZXY = fixed_angles(three_turns(TURN, (2, 0, 1)))
TARGETS = np.column_stack([POSITION, quaternion_of(ROTATION)]).astype(np.float32)
BETWEEN = fixed_angles(ROTATION[1:] @ ROTATION[:-1].swapaxes(1, 2))
MATRIX = np.tile(np.eye(4, dtype=np.float32), (LENGTH, 1, 1))
MATRIX[:, :3, :3], MATRIX[:, :3, 3] = ROTATION, POSITION
BY_COLUMNS = np.swapaxes(MATRIX, 1, 2).reshape(LENGTH, 16)
CODES = np.zeros((LENGTH, 32), np.int32)
CODES[:, :7] = [ord(c) for c in "push it"]

DEOXYS = plain(filled(7, at0=MOVE, at3=TURN, at6=CLOSEDNESS), filled(24, at8=BY_COLUMNS))
SAILOR = plain(filled(7, at0=MOVE, at3=TURN, at6=CLOSEDNESS), np.column_stack([TARGETS, 0.0385 * np.ones(4)]))
DROID = {
    "action_dict/cartesian_velocity": np.column_stack([MOVE, TURN]),
    "action_dict/gripper_position": numbers(0, 0.25, 1, 1)[:, None],
    "observation/cartesian_position": filled(6),
    "observation/gripper_position": np.full((LENGTH, 1), 0.5, np.float32),
    "observation/joint_position": filled(7),
    "language_instruction": WORDS,
}
TDROID = plain(
    filled(7, at0=MOVE, at3=TURN, at6=numbers(1, 0.5, 0, 0)), observation__cartesian_position=filled(6)
)
BRIDGE_STATE = filled(7, at6=numbers(1, 1, 0, 0))

# name → (its columns without images, the right actions)
EXPECTED: dict[str, tuple[dict[str, object], np.ndarray]] = {
    "bridge_orig": (
        plain(filled(7, at0=MOVE, at3=TURN, at6=numbers(1, 0.5, 0.0, 1)), BRIDGE_STATE),
        seven(numbers(1, 0, 0, 1))[1:],  # the first step commands nothing; 0.5 becomes what follows
    ),
    "bridge_oxe": (
        parts(action__open_gripper=np.array([True, True, False, True]), observation__state=BRIDGE_STATE),
        seven(numbers(1, 1, 0, 1))[1:],
    ),
    "fractal20220817_data": (
        parts(
            action__gripper_closedness_action=RELATIVE[:, None],
            observation__base_pose_tool_reached=TARGETS,
            observation__gripper_closed=np.zeros((LENGTH, 1), np.float32),
        ),
        seven(OPENINGS),
    ),
    "kuka": (
        {
            **parts(action__gripper_closedness_action=RELATIVE[:, None]),
            "observation/clip_function_input/base_pose_tool_reached": TARGETS,
            "observation/gripper_closed": np.zeros((LENGTH, 1), np.float32),
        },
        seven(OPENINGS),
    ),
    "taco_play": (
        {
            "action/rel_actions_world": filled(7, at0=MOVE, at3=TURN, at6=OPENNESS),
            "observation/robot_obs": filled(15),
            "observation/natural_language_instruction": WORDS,
        },
        seven(OPEN),
    ),
    "jaco_play": (
        {
            "action/world_vector": MOVE,
            "action/gripper_closedness_action": RELATIVE[:, None],
            "observation/natural_language_instruction": WORDS,
        },
        seven(OPENINGS, turn=NOTHING),
    ),
    "berkeley_cable_routing": (parts(), seven(np.zeros(LENGTH))),
    "roboturk": (parts(action__gripper_closedness_action=CLOSEDNESS[:, None]), seven(CLOSED)),
    "nyu_door_opening_surprising_effectiveness": (
        parts(action__gripper_closedness_action=RELATIVE[:, None]), seven(OPENINGS),
    ),
    "viola": (
        parts(
            action__gripper_closedness_action=CLOSEDNESS,
            observation__joint_states=filled(7),
            observation__ee_states=BY_COLUMNS,
        ),
        seven(CLOSED),
    ),
    "berkeley_autolab_ur5": (
        parts(action__gripper_closedness_action=RELATIVE, observation__robot_state=filled(15)),
        seven(OPENINGS),
    ),
    "language_table": (
        {"action": MOVE[:, :2], "observation/instruction": CODES},
        seven(np.ones(LENGTH), np.column_stack([MOVE[:, :2], np.zeros(LENGTH)]), NOTHING),
    ),
    "stanford_hydra_dataset_converted_externally_to_rlds": (
        plain(filled(7, at0=MOVE, at3=TURN, at6=numbers(0, 0.25, 1, 1)), filled(27)),
        seven(numbers(1, 0.75, 0, 0)),
    ),
    "austin_buds_dataset_converted_externally_to_rlds": (DEOXYS, seven(CLOSED)),
    "utaustin_mutex": (DEOXYS, seven(CLOSED)),
    "austin_sailor_dataset_converted_externally_to_rlds": (SAILOR, seven(CLOSED)),
    "austin_sirius_dataset_converted_externally_to_rlds": (SAILOR, seven(CLOSED)),
    "nyu_franka_play_dataset_converted_externally_to_rlds": (
        plain(filled(15, at7=MOVE, at10=TURN, at13=OPENNESS), filled(13)), seven(OPEN),
    ),
    "furniture_bench_dataset_converted_externally_to_rlds": (
        plain(filled(8, at0=MOVE, at3=QUATERNION, at7=CLOSEDNESS), filled(35)), seven(CLOSED),
    ),
    "dlr_edan_shared_control_converted_externally_to_rlds": (
        plain(filled(7, at0=MOVE, at3=TURN, at6=numbers(0, 0, 1, 1)), filled(7)),
        seven(numbers(1, 1, 0, 0), turn=FIXED_ZXY),
    ),
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": (
        plain(np.column_stack([TARGETS, numbers(1, 1, 0, 0)]), filled(20)),
        np.column_stack([np.diff(POSITION, axis=0), BETWEEN, numbers(1, 0, 0)]),
    ),
    "berkeley_fanuc_manipulation": (
        plain(np.column_stack([MOVE, TURN]), filled(13, at6=numbers(0, 0, 1, 1))),
        seven(numbers(1, 1, 0, 0)),
    ),
    "cmu_stretch": (
        plain(filled(8, at0=MOVE, at3=NOTHING, at6=numbers(1, 1, 0, 0)), filled(4)),
        seven(numbers(1, 1, 0, 0), turn=NOTHING),
    ),
    "bc_z": (
        {
            "action/future/xyz_residual": filled(30, at0=MOVE),
            "action/future/axis_angle_residual": filled(30, at0=TURN),
            "action/future/target_close": np.tile(np.array([[0], [0], [1], [1]]), (1, 10)),
            "observation/present/xyz": POSITION,
            "observation/present/axis_angle": ROTVEC,
            "observation/present/sensed_close": np.full((LENGTH, 1), 0.2, np.float32),
            "observation/episode_success": numbers(1, 1, 1, 1),
            "observation/natural_language_instruction": WORDS,
        },
        seven(numbers(1, 1, 0, 0), turn=ADDED),
    ),
    "fmb_dataset": (
        plain(
            filled(7, at0=MOVE, at3=TURN, at6=numbers(0, 0, 1, 1)),
            observation__eef_pose=TARGETS,
            observation__joint_pos=filled(7),
            observation__state_gripper_pose=numbers(0, 0, 0, 1),
        ),
        seven(numbers(1, 1, 0, 0)),
    ),
    "dobbe": (plain(filled(7, at0=MOVE, at3=TURN, at6=numbers(1, 0.5, 0, 1))), seven(numbers(1, 0.5, 0, 1))),
    "droid": (DROID, seven(numbers(1, 0.75, 0, 0))),
    "droid_wipe": (DROID, seven(numbers(1, 0.75, 0, 0))),
    "tdroid_carrot_in_bowl": (TDROID, seven(numbers(1, 0, 0, 0))),
    "libero_spatial_no_noops": (
        plain(filled(7, at0=MOVE, at3=TURN, at6=numbers(-1, -1, 1, 1)), filled(8)),
        seven(numbers(1, 1, 0, 0)),
    ),
}  # fmt: skip
SAME_AS = {
    **{f"tdroid_{rest}": "tdroid_carrot_in_bowl" for rest in (
        "pour_corn_in_pot", "flip_pot_upright", "move_object_onto_plate", "knock_object_over",
        "cover_object_with_towel",
    )},
    **{f"libero_{suite}_no_noops": "libero_spatial_no_noops" for suite in ("object", "goal", "10")},
}  # fmt: skip


def written(folder, name, **changes):
    """A dataset called ``name`` on disk; ``changes`` of its columns, named as in ``parts``."""
    columns = dict(EXPECTED[SAME_AS.get(name, name)][0])
    columns |= {path.replace("__", "/"): column for path, column in changes.items()}
    columns["is_first"] = np.arange(LENGTH) == 0
    columns |= dict.fromkeys(find_convention(name).images.values(), FRAMES)
    return write_rlds(folder, name, [columns])


@pytest.mark.parametrize("name", sorted(convention_table().datasets))
def test_actions_mean_what_the_dataset_s_documentation_says(tmp_path, name):
    source = RldsSource(written(tmp_path, name))
    (episode,) = [source[i] for i in range(len(source))]
    expected = EXPECTED[SAME_AS.get(name, name)][1]
    np.testing.assert_allclose(episode.actions, expected, atol=2e-6)
    assert episode.instruction == "push it"
    assert len(episode.images) == len(find_convention(name).images)
    assert episode.provenance["dataset"] == name


def test_every_dataset_of_the_mixture_is_read_or_refused_with_a_reason():
    table = convention_table()
    mixture = table.mixtures["oxe_magic_soup_plus"]
    assert set(mixture) - set(table.datasets) == set(table.refused) == {
        "toto", "ucsd_kitchen_dataset_converted_externally_to_rlds",
    }  # fmt: skip
    with pytest.raises(DatasetError, match=r"'toto' cannot be read: .* no motions: .* not published"):
        find_convention("toto")


@pytest.mark.parametrize("name", ["viola", "austin_buds_dataset_converted_externally_to_rlds"])
def test_poses_stored_as_matrices_are_read_whichever_way_they_are_stored(tmp_path, name):
    where = {"viola": "observation__ee_states"}.get(name, "observation__state")
    for order, numbers_ in (("rows", MATRIX.reshape(LENGTH, 16)), ("columns", BY_COLUMNS)):
        column = numbers_ if name == "viola" else filled(24, at8=numbers_)
        episode = RldsSource(written(tmp_path / order, name, **{where: column}))[0]
        np.testing.assert_allclose(episode.poses, MATRIX, atol=1e-6)
    with pytest.raises(DatasetError, match="are no poses: neither the last row nor the last column"):
        RldsSource(written(tmp_path / "none", "viola", observation__ee_states=filled(16)))[0]


def test_angles_about_other_axes_become_poses(tmp_path):
    state = filled(7, at0=POSITION, at3=TURN)
    name = "dlr_edan_shared_control_converted_externally_to_rlds"
    episode = RldsSource(written(tmp_path, name, observation__state=state))[0]
    np.testing.assert_allclose(episode.poses[:, :3, 3], POSITION, atol=1e-7)
    np.testing.assert_allclose(episode.poses[:, :3, :3], three_turns(TURN, (2, 0, 1)), atol=1e-6)


def test_a_name_that_two_layouts_share_is_told_apart_by_the_columns(tmp_path):
    """TFDS calls the Open X-Embodiment version ``bridge``, and so do copies of the original."""
    for name in ("bridge_orig", "bridge_oxe"):
        columns = {**EXPECTED[name][0], "is_first": np.arange(LENGTH) == 0}
        columns |= dict.fromkeys(find_convention(name).images.values(), FRAMES)
        episode = RldsSource(write_rlds(tmp_path / name, "bridge", [columns]))[0]
        assert episode.provenance["dataset"] == name
    neither = {"action": MOVE, "is_first": np.arange(LENGTH) == 0}
    with pytest.raises(DatasetError, match=r"for bridge_orig it lacks .*image_0.*; for bridge_oxe it lacks"):
        RldsSource(write_rlds(tmp_path / "neither", "bridge", [neither]))


def test_the_outcome_is_the_recorded_one(tmp_path):
    lost = written(tmp_path / "lost", "bc_z", observation__episode_success=numbers(0, 0, 0, 0), reward=OPEN)
    assert RldsSource(lost)[0].outcome == "failure"
    assert RldsSource(written(tmp_path / "won", "bc_z"))[0].outcome == "success"
    assert RldsSource(written(tmp_path / "unsaid", "viola"))[0].outcome == "unknown"


def test_each_step_has_its_own_words(tmp_path):
    """FMB names the skill of each step."""
    folder = written(tmp_path, "fmb_dataset", language_instruction=["grasp", "insert", "insert", "insert"])
    episode = RldsSource(folder)[0]
    assert (episode.instruction, len(episode)) == ("insert", 3)
    np.testing.assert_allclose(episode.actions[:, :3], MOVE[1:])
    assert episode.provenance["steps_of_other_instructions"] == "1"


def test_images_stored_as_pixels_are_images(tmp_path):
    pixels = RNG.integers(0, 256, (LENGTH, 8, 10, 3)).astype(np.uint8)
    columns = {**EXPECTED["dobbe"][0], "is_first": np.arange(LENGTH) == 0}
    episode = RldsSource(write_rlds(tmp_path, "dobbe", [{**columns, "observation/wrist_image": pixels}]))[0]
    np.testing.assert_array_equal(episode.images["wrist"][2], pixels[2])
    grey = {**columns, "observation/wrist_image": pixels[..., :1]}
    with pytest.raises(DatasetError, match=r"is uint8 \(8, 10, 1\); images are compressed, or uint8"):
        RldsSource(write_rlds(tmp_path / "grey", "dobbe", [grey]))[0]
