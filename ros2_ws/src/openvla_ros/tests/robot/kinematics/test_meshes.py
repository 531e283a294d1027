"""Meshes of a URDF: found, read or refused, contained by their covers, and said where they are not."""

import numpy as np
import pytest
from support.made_urdf import arm_of_six, binary_stl, cuboid, joint, mesh, obj, text_stl, write_urdf

from openvla_ros.errors import KinematicsError, MissingDependencyError
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.collision import SelfCollision, TableClearance
from openvla_ros.robot.kinematics.link_covers import cover_links
from openvla_ros.robot.kinematics.mesh_cover import cover_mesh
from openvla_ros.robot.kinematics.mesh_files import find_mesh, read_mesh
from openvla_ros.robot.kinematics.urdf import Shape, read_urdf

SIZE = (0.1, 0.06, 0.3)
COLLADA = """<?xml version="1.0"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><created>2026-01-01T00:00:00</created><modified>2026-01-01T00:00:00</modified>
<unit name="millimeter" meter="0.001"/><up_axis>Y_UP</up_axis></asset>
<library_geometries><geometry id="g"><mesh>
<source id="p"><float_array id="pa" count="9">0 0 0 100 0 0 0 200 0</float_array><technique_common>
<accessor source="#pa" count="3" stride="3"><param name="X" type="float"/><param name="Y" type="float"/>
<param name="Z" type="float"/></accessor></technique_common></source>
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<triangles count="1"><input semantic="VERTEX" source="#v" offset="0"/><p>0 1 2</p></triangles>
</mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="s"><node><translate>0 0 300</translate>
<instance_geometry url="#g"/></node>
</visual_scene></library_visual_scenes><scene><instance_visual_scene url="#s"/></scene></COLLADA>
"""


def test_every_kind_of_file_gives_the_same_cuboid(tmp_path):
    triangles = cuboid(SIZE)
    (tmp_path / "binary.stl").write_bytes(binary_stl(triangles))
    (tmp_path / "text.STL").write_text(text_stl(triangles))
    (tmp_path / "cuboid.obj").write_text(obj(SIZE))
    np.testing.assert_allclose(read_mesh(tmp_path / "binary.stl"), triangles, atol=1e-7)
    np.testing.assert_allclose(read_mesh(tmp_path / "text.STL"), triangles, atol=1e-9)
    read = read_mesh(tmp_path / "cuboid.obj")
    assert read.shape == (12, 3, 3)
    areas = np.linalg.norm(np.cross(read[:, 1] - read[:, 0], read[:, 2] - read[:, 0]), axis=1) / 2
    x, y, z = SIZE
    assert areas.sum() == pytest.approx(2 * (x * y + y * z + x * z))
    np.testing.assert_allclose(np.abs(read).max(axis=(0, 1)), np.array(SIZE) / 2)


def test_a_binary_stl_may_begin_like_a_text(tmp_path):
    data = binary_stl(cuboid(SIZE))
    (tmp_path / "mesh.stl").write_bytes(b"solid" + data[5:])
    assert read_mesh(tmp_path / "mesh.stl").shape == (12, 3, 3)


def test_collada_is_read_in_its_unit_and_not_turned(tmp_path):
    # As RViz, MoveIt's geometric_shapes and coal do: the up axis is not used.
    pytest.importorskip("collada", reason="needs pycollada (the extra [meshes])")
    (tmp_path / "mesh.dae").write_text(COLLADA)
    expected = [[[0.0, 0.0, 0.3], [0.1, 0.0, 0.3], [0.0, 0.2, 0.3]]]
    np.testing.assert_allclose(read_mesh(tmp_path / "mesh.dae"), expected, atol=1e-9)


def test_without_pycollada_it_is_named(tmp_path, monkeypatch):
    import builtins

    original = builtins.__import__

    def without_collada(name, *rest):
        if name == "collada":
            raise ModuleNotFoundError("No module named 'collada'", name="collada")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_collada)
    (tmp_path / "mesh.dae").write_text(COLLADA)
    with pytest.raises(MissingDependencyError, match=r"mesh mesh.dae needs.*openvla_ros\[meshes\]"):
        read_mesh(tmp_path / "mesh.dae")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.stl", binary_stl(cuboid(SIZE))[:-1], "damaged: 12 triangles take 684 bytes; it has 683"),
        ("a.stl", binary_stl(cuboid(SIZE)) + b"x", "damaged: 12 triangles take 684 bytes; it has 685"),
        ("a.stl", text_stl(cuboid(SIZE)).encode()[:-60], "damaged: 11 facets, 35 corners, 0 endsolid"),
        ("a.stl", text_stl(cuboid(SIZE)).replace("vertex 5", "vertex five", 1).encode(), "damaged"),
        ("a.stl", b"", "damaged: 0 triangles"),
        ("a.stl", binary_stl(cuboid(SIZE)[:0]), "has no triangles"),
        ("a.stl", binary_stl(cuboid((np.nan, 1, 1))), "a vertex that is not a finite number"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 3\n", "line 3: 'f 1 2 3': there is no vertex 3 among 2"),
        ("a.obj", b"v 0 0\n", "line 1: 'v 0 0': a vertex has three coordinates"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nf 1 2\n", "line 3: 'f 1 2': a face has at least three vertices"),
        ("a.obj", b"v 0 0 0\n", "has no triangles"),
        ("a.ply", b"ply", "is of an unsupported type; supported are .stl, .obj, .dae"),
    ],
)  # fmt: skip
def test_a_damaged_mesh_is_refused_whole(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(KinematicsError, match=said):
        read_mesh(tmp_path / name)


def test_a_mesh_is_found_where_ros_would_find_it(tmp_path, monkeypatch):
    installed = tmp_path / "install/share/my_arm/meshes"
    beside = tmp_path / "src/my_arm/meshes"
    for folder in (installed, beside):
        folder.mkdir(parents=True)
        (folder / "a b.stl").touch()
    urdf = tmp_path / "src/my_arm/urdf/arm.urdf"
    urdf.parent.mkdir()
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    monkeypatch.delenv("ROS_PACKAGE_PATH", raising=False)
    assert find_mesh("package://my_arm/meshes/a b.stl", urdf) == beside / "a b.stl"
    assert find_mesh("../meshes/a b.stl", urdf).resolve() == beside / "a b.stl"
    assert find_mesh(f"file://{beside}/a%20b.stl", urdf) == beside / "a b.stl"
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "install"))
    assert find_mesh("package://my_arm/meshes/a b.stl", urdf) == installed / "a b.stl"
    with pytest.raises(
        KinematicsError, match=r"mesh package://my_arm/no.stl does not exist \(looked at .*my_arm/no.stl"
    ):
        find_mesh("package://my_arm/no.stl", urdf)
    monkeypatch.delenv("AMENT_PREFIX_PATH")
    with pytest.raises(KinematicsError, match="no folder of that package"):
        find_mesh("package://nobodys/no.stl", urdf)
    with pytest.raises(KinematicsError, match="model:// is not supported"):
        find_mesh("model://arm/no.stl", urdf)


def outside(shapes: tuple[Shape, ...], points: np.ndarray) -> float:
    """How far the farthest of ``points`` lies outside all of the capsules."""
    distances = []
    for shape in shapes:
        radius, length = shape.size
        local = (points - shape.origin[:3, 3]) @ shape.origin[:3, :3]
        local[:, 2] -= np.clip(local[:, 2], -length / 2, length / 2)
        distances.append(np.linalg.norm(local, axis=1) - radius)
    return float(np.min(distances, axis=0).max())


def volume(shapes: tuple[Shape, ...]) -> float:
    return sum(np.pi * r**2 * (length + 4 / 3 * r) for r, length in (shape.size for shape in shapes))


def an_angle() -> np.ndarray:
    """An L of two bars, 0.4 m each way."""
    return np.concatenate([cuboid((0.05, 0.05, 0.4), (0, 0, 0.2)), cuboid((0.4, 0.05, 0.05), (0.2, 0, 0.4))])


@pytest.mark.parametrize(
    "triangles",
    [
        cuboid(SIZE),
        cuboid((0.2, 0.2, 0.2), (1, 2, 3)),
        cuboid((0.3, 0.3, 0.01)),
        an_angle(),
        cuboid((1e-3, 1e-3, 1e-3)),
    ],
    ids=["bar", "cube", "plate", "angle", "speck"],
)
def test_a_cover_contains_the_mesh_and_all_within(triangles):
    rng = np.random.default_rng(0)
    chosen = triangles[rng.integers(0, len(triangles), 3000)]
    on = np.einsum("nc,ncd->nd", rng.dirichlet([1, 1, 1], 3000), chosen)
    cover = cover_mesh(triangles)
    assert outside(cover.capsules, np.concatenate([on, triangles.reshape(-1, 3)])) < 1e-9
    lower, upper = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    np.testing.assert_allclose(cover.box.size, upper - lower)
    np.testing.assert_allclose(cover.box.origin[:3, 3], (lower + upper) / 2)
    if len(triangles) == 12:  # convex: the inside too
        inside = rng.uniform(lower, upper, (3000, 3))
        assert outside(cover.capsules, inside) < 1e-9


def test_more_capsules_are_used_where_they_fit_better():
    assert len(cover_mesh(cuboid(SIZE)).capsules) == 1
    whole = cover_mesh(an_angle())
    assert len(whole.capsules) > 1
    radius, length = cover_mesh(cuboid(SIZE)).capsules[0].size
    # Around a bar: the corners of its cross-section lie on the cylinder, its ends within the caps.
    assert radius == pytest.approx(np.hypot(0.05, 0.03), abs=2e-4)
    assert length <= 0.3
    assert volume(whole.capsules) < 0.5 * np.pi * 0.29**2 * 0.5


def arm_with(tmp_path, shapes: dict[str, str]) -> KinematicChain:
    return KinematicChain.between(read_urdf(arm_of_six(tmp_path, shapes)), "base", "tool")


def test_links_of_meshes_are_held_apart_as_those_of_primitives_are(tmp_path):
    (tmp_path / "bar.stl").write_bytes(binary_stl(cuboid((0.05, 0.05, 0.2)) * 1000))
    box = '<collision><geometry><box size="0.05 0.05 0.2"/></geometry></collision>'
    as_mesh = mesh("bar.stl", "0.001 0.001 0.001")
    links = ("base", "link1", "link3", "link5", "link6")
    meshes = arm_with(tmp_path, dict.fromkeys(links, as_mesh))
    boxes = arm_with(tmp_path, dict.fromkeys(links, box))
    q = np.random.default_rng(0).uniform(-2, 2, (300, 6))
    ours, right = (SelfCollision(chain, {}, []) for chain in (meshes, boxes))
    for column, expected in zip(
        ours.margins(meshes.frames(q)).T, right.margins(boxes.frames(q)).T, strict=True
    ):
        np.testing.assert_allclose(column, expected, atol=0.04)
    assert [ours.pair(i) for i in range(6)] == [right.pair(i) for i in range(6)]
    heights = [TableClearance(chain, {}, 0.0).margins(chain.frames(q)) for chain in (meshes, boxes)]
    np.testing.assert_allclose(heights[0], heights[1], atol=1e-6)  # the box around a cuboid is itself


def test_a_folded_arm_of_meshes_is_seen_to_touch(tmp_path):
    (tmp_path / "bar.stl").write_bytes(binary_stl(cuboid((0.06, 0.06, 0.3))))
    chain = arm_with(tmp_path, {"base": mesh("bar.stl"), "link6": mesh("bar.stl")})
    collision = SelfCollision(chain, {}, [])
    assert collision.margins(chain.frames(np.zeros((1, 6)))).min() > 0.1  # upright
    frames = chain.frames(np.random.default_rng(0).uniform(-2, 2, (3000, 6)))
    margins = collision.margins(frames).min(axis=1)
    axis = np.linspace(-0.15, 0.15, 31)[:, None] * [0.0, 0.0, 1.0]  # along the bars' middles
    hand = axis @ np.swapaxes(frames[:, 5, :3, :3], 1, 2) + frames[:, 5, None, :3, 3]
    apart = np.linalg.norm(hand[:, :, None] - axis[None, None], axis=-1).min(axis=(1, 2))
    assert (apart < 0.05).any()
    assert np.all(margins[apart < 0.05] < 0.0)  # the bars, 0.06 m thick, are in each other
    assert np.all(margins[apart > 0.15] > 0.0)


def test_what_cannot_be_read_is_off_for_that_link_alone_and_said(tmp_path):
    (tmp_path / "bar.stl").write_bytes(binary_stl(cuboid(SIZE)))
    shapes = {
        "base": mesh("bar.stl"),
        "link3": mesh("missing.stl"),
        "link4": "<collision><geometry><torus/></geometry></collision>",
        "link5": "<collision/>",
        "link6": mesh("bar.stl"),
        "tool": '<visual><geometry><sphere radius="0.1"/></geometry></visual>',
    }
    covers = cover_links(arm_with(tmp_path, shapes))
    assert covers.unseen.keys() == {"link3", "link4", "link5"}
    assert "mesh missing.stl does not exist" in covers.unseen["link3"]
    assert "<torus>" in covers.unseen["link4"]
    assert "no geometry" in covers.unseen["link5"]
    assert covers.bare == ("tool",)
    assert covers.shapes["base"]
    assert covers.shapes["link6"]
    assert covers.blind_spots() == covers.unseen


def test_an_arm_without_any_shape_is_said_to_be_unchecked(tmp_path):
    chain = arm_with(tmp_path, {})
    assert cover_links(chain).blind_spots() == {"every link": "the URDF gives none of them a <collision>"}
    assert SelfCollision(chain, {}, [np.zeros(6)]).margins(chain.frames(np.zeros((2, 6)))).shape == (2, 0)


def test_links_that_do_not_hang_on_the_base_or_have_no_place_are_said(tmp_path):
    ball = '<collision><geometry><sphere radius="0.1"/></geometry></collision>'
    joints = [
        joint("up", "fixed", "world", "a"),
        joint("j", "revolute", "a", "b"),
        joint("free", "floating", "a", "adrift", ""),
    ]
    shapes = dict.fromkeys(("world", "a", "b", "adrift"), ball)
    chain = KinematicChain.between(read_urdf(write_urdf(tmp_path, joints, shapes)), "a", "b")
    unseen = cover_links(chain).unseen
    assert unseen.keys() == {"world", "adrift"}
    assert "is not attached to the base link 'a'" in unseen["world"]
    assert "planar, floating" in unseen["adrift"]


def test_a_capsule_of_the_urdf_counts_as_it_is(tmp_path):
    capsule = '<collision><geometry><capsule radius="0.1" length="0.4"/></geometry></collision>'  # URDF 1.2
    chain = arm_with(tmp_path, {"link6": capsule})
    heights = TableClearance(chain, {}, 0.0).margins(chain.frames(np.zeros((1, 6))))
    assert heights.min() == pytest.approx(1.0 - 0.2 - 0.1)
