"""The triangles in a mesh file that a URDF names: STL, OBJ, and COLLADA with the package pycollada.

A file that is damaged, cut off or of a kind that is not read is refused in words: nothing is taken in half.
Lengths are metres; a URDF's own ``scale`` comes on top.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from openvla_ros.dependencies import needed_for
from openvla_ros.errors import KinematicsError
from openvla_ros.values.arrays import Float

STL_HEADER = 84  # bytes: 80 of text, then the number of triangles
STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
VERTEX = re.compile(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)")
KINDS = ".stl, .obj, .dae"


def find_mesh(filename: str, urdf: Path) -> Path:
    """Return the file that ``filename`` in the URDF at ``urdf`` names.

    ``package://`` is looked for where ROS has packages (AMENT_PREFIX_PATH, ROS_PACKAGE_PATH), then among
    the folders around the URDF. Raises ``KinematicsError`` naming the places that were looked at.
    """
    scheme, colon, rest = filename.partition("://")
    if not colon:
        places = [urdf.parent / filename]
    elif scheme == "file":
        places = [Path(unquote(rest))]
    elif scheme == "package":
        package, _, inside = rest.partition("/")
        places = [folder / inside for folder in _package_folders(package, urdf)]
    else:
        raise KinematicsError(f"mesh {filename}: {scheme}:// is not supported; use package:// or a path")
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(str(place) for place in places) or "no folder of that package"
        raise KinematicsError(f"mesh {filename} does not exist (searched {looked})")
    return found


def _package_folders(package: str, urdf: Path) -> Iterator[Path]:
    for prefix in _folders("AMENT_PREFIX_PATH"):
        yield prefix / "share" / package
    for folder in _folders("ROS_PACKAGE_PATH"):
        yield folder if folder.name == package else folder / package
    for folder in urdf.resolve().parents:
        if folder.name == package:
            yield folder
        if (folder / package).is_dir():
            yield folder / package


def _folders(variable: str) -> list[Path]:
    return [Path(folder) for folder in os.environ.get(variable, "").split(os.pathsep) if folder]


def read_mesh(path: Path) -> Float:
    """Return the triangles (T, 3, 3) of the mesh at ``path`` in metres.

    Raises ``KinematicsError`` naming what is wrong with the file, and ``MissingDependencyError`` where
    the package that reads it is not installed.
    """
    readers = {".stl": _read_stl, ".obj": _read_obj, ".dae": _read_collada}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise KinematicsError(f"mesh {path.name} is of an unsupported type; supported are {KINDS}")
    try:
        triangles = reader(path)
    except OSError as error:
        raise KinematicsError(f"mesh {path} cannot be read: {error}") from error
    if not len(triangles):
        raise KinematicsError(f"mesh {path} has no triangles")
    if not np.all(np.isfinite(triangles)):
        raise KinematicsError(f"mesh {path} has a vertex that is not a finite number")
    return triangles


def _read_stl(path: Path) -> Float:
    data = path.read_bytes()
    count = int.from_bytes(data[80:84], "little") if len(data) >= STL_HEADER else 0
    size = STL_HEADER + count * STL_TRIANGLE.itemsize
    if len(data) == size:
        triangles: Float = np.frombuffer(data, STL_TRIANGLE, offset=STL_HEADER)["corners"].astype(np.float64)
        return triangles
    if data.lstrip()[:5].lower() != b"solid":
        raise KinematicsError(
            f"mesh {path} is damaged: {count} triangles take {size} bytes; it has {len(data)}"
        )
    corners = VERTEX.findall(data)
    ends, facets = data.count(b"endsolid"), data.count(b"endfacet")
    if not ends or len(corners) != 3 * facets:
        raise KinematicsError(
            f"mesh {path} is damaged: {facets} facets, {len(corners)} corners, {ends} endsolid"
        )
    try:
        spelled: Float = np.array(corners, dtype=np.float64).reshape(-1, 3, 3)
    except ValueError as error:
        raise KinematicsError(f"mesh {path} is damaged: {error}") from error
    return spelled


def _read_obj(path: Path) -> Float:
    corners: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = line.split()
        try:
            if words[:1] == ["v"]:
                corners.append([float(word) for word in words[1:4]])
                if len(corners[-1]) != 3:
                    raise ValueError("a vertex has three coordinates")
            elif words[:1] == ["f"]:
                faces += _fan([_corner(word, len(corners)) for word in words[1:]])
        except ValueError as error:
            raise KinematicsError(f"mesh {path}, line {number}: {line.strip()!r}: {error}") from error
    if not faces:
        return np.zeros((0, 3, 3))
    triangles: Float = np.array(corners)[np.array(faces)]
    return triangles


def _corner(word: str, count: int) -> int:
    """Return the index of a face's corner, ``v``, ``v/t`` or ``v/t/n``, from 1 or backwards from -1."""
    stated = int(word.split("/")[0])
    index = stated - 1 if stated > 0 else count + stated
    if stated == 0 or not 0 <= index < count:
        raise ValueError(f"there is no vertex {stated} among {count}")
    return index


def _fan(corners: list[int]) -> list[tuple[int, int, int]]:
    if len(corners) < 3:
        raise ValueError("a face has at least three vertices")
    return [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]


def _read_collada(path: Path) -> Float:
    """Read as RViz and MoveIt do: in the file's unit, placed by its scene, whatever axis it calls up."""
    with needed_for(f"mesh {path.name}"):
        import collada
    try:
        document = collada.Collada(str(path))
        parts = [
            _triangles(part) for shape in document.scene.objects("geometry") for part in shape.primitives()
        ]
    except Exception as error:
        raise KinematicsError(f"mesh {path} cannot be read: {error}") from error
    return np.concatenate(parts or [np.zeros((0, 3, 3))]) * float(document.assetInfo.unitmeter or 1.0)


def _triangles(part: Any) -> Float:
    if hasattr(part, "triangleset"):
        part = part.triangleset()
    if part.vertex_index is None or part.vertex_index.ndim != 2 or part.vertex_index.shape[1] != 3:
        return np.zeros((0, 3, 3))  # lines
    triangles: Float = np.asarray(part.vertex, dtype=np.float64)[part.vertex_index]
    return triangles
