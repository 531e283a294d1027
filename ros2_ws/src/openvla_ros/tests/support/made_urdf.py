"""URDFs and meshes that tests write: an arm in a few words, cuboids as STL, OBJ and COLLADA."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LIMIT = '<limit lower="-2" upper="2" velocity="1.5" effort="10"/>'


def joint(name: str, kind: str, parent: str, child: str, inside: str = LIMIT, axis: str = "0 0 1") -> str:
    """One joint; ``inside`` is what it holds besides its links and axis."""
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<axis xyz="{axis}"/>{inside}</joint>'
    )


def mesh(filename: str, scale: str = "1 1 1") -> str:
    """A collision that is a mesh."""
    return f'<collision><geometry><mesh filename="{filename}" scale="{scale}"/></geometry></collision>'


def write_urdf(
    folder: Path, joints: list[str], shapes: dict[str, str] | None = None, name: str = "made"
) -> Path:
    """Write ``name``.urdf with those joints and all the links that they name; ``shapes``: their content."""
    links: dict[str, str] = {}
    for text in joints:
        for end in ("parent", "child"):
            links.setdefault(text.split(f'<{end} link="')[1].split('"')[0], "")
    links |= shapes or {}
    body = "".join(f'<link name="{link}">{content}</link>' for link, content in links.items())
    path = folder / f"{name}.urdf"
    path.write_text(f'<robot name="{name}">{body}{"".join(joints)}</robot>', encoding="utf-8")
    return path


def arm_of_six(folder: Path, shapes: dict[str, str] | None = None, more: list[str] | None = None) -> Path:
    """An arm of six joints that bends in its elbow and wrist, 0.9 m long, from ``base`` to ``tool``."""
    steps = [("0 0 0.2", "0 0 1"), ("0 0 0.1", "0 1 0"), ("0 0 0.3", "0 1 0"),
             ("0 0 0.15", "0 0 1"), ("0 0 0.15", "0 1 0"), ("0 0 0.1", "0 0 1")]  # fmt: skip
    links = ["base", "link1", "link2", "link3", "link4", "link5", "link6"]
    joints = [
        joint(f"joint{i + 1}", "revolute", links[i], links[i + 1], f'<origin xyz="{origin}"/>{LIMIT}', axis)
        for i, (origin, axis) in enumerate(steps)
    ]
    flange = joint("flange", "fixed", "link6", "tool", '<origin xyz="0 0 0.1"/>', "0 0 0")
    return write_urdf(folder, [*joints, flange, *(more or [])], shapes)


def cuboid(
    size: tuple[float, float, float], centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    """The twelve triangles (12, 3, 3) of a cuboid."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [(corners[[a, b, c]], corners[[a, c, d]]) for a, b, c, d in faces]
    return np.array(triangles).reshape(-1, 3, 3) * np.array(size) + np.array(centre)


def binary_stl(triangles: np.ndarray) -> bytes:
    """The bytes of a binary STL file."""
    records = b"".join(
        np.concatenate([np.zeros(3), triangle.ravel()]).astype("<f4").tobytes() + b"\0\0"
        for triangle in triangles
    )
    return b"made by a test".ljust(80) + len(triangles).to_bytes(4, "little") + records


def text_stl(triangles: np.ndarray) -> str:
    """The text of an STL file."""
    lines = ["solid made"]
    for triangle in triangles:
        lines += ["facet normal 0 0 0", "outer loop"]
        lines += [f"vertex {x:.9e} {y:.9e} {z:.9e}" for x, y, z in triangle]
        lines += ["endloop", "endfacet"]
    return "\n".join([*lines, "endsolid made", ""])


def obj(size: tuple[float, float, float]) -> str:
    """The text of an OBJ file of a cuboid: faces of four corners, some counted from the end."""
    half = np.array(size) / 2
    corners = [half * (x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    faces = [
        "1/1 2/1 4/1 3/1",
        "5//1 7//1 8//1 6//1",
        "1 5 6 2",
        "-6 -5 -1 -2",
        "1 3 7 5",
        "2/1/1 6/1/1 8/1/1 4/1/1",
    ]
    return "\n".join([
        "# a cuboid", "o box", *(f"v {x} {y} {z}" for x, y, z in corners), "vt 0 0", "vn 0 0 1",
        *(f"f {face}" for face in faces), "",
    ])  # fmt: skip
