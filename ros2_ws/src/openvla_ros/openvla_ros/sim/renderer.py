"""Off-screen rendering of a MuJoCo scene, with whatever this machine supports.

OpenGL through EGL or OSMesa if their libraries are installed, otherwise ray casting with plain shading,
which needs only MuJoCo itself. ``Renderer.kind`` says which one. Multi-sampling, shadows and reflections
are off: software OpenGL is four to six times faster without them.
"""

from __future__ import annotations

import atexit
import copy
import importlib
import os
from typing import Any, Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import InvalidValueError
from openvla_ros.sim.opengl import Kind, choose_kind, demand
from openvla_ros.values.arrays import Image, read_only

VISIBLE_GROUPS = (0, 1, 2)  # geom groups that are drawn; MuJoCo's convention hides 3 to 5


class Renderer(Protocol):
    """Renders the images of the model's cameras."""

    @property
    def kind(self) -> Kind:
        """The kind of renderer: "egl", "osmesa" or "rays"."""
        ...

    def render(self, data: Any, camera: int, width: int, height: int) -> Image:
        """Return the (height, width, 3) uint8 RGB image of camera number ``camera``."""
        ...

    def close(self) -> None:
        """Release the rendering context. Safe to call twice."""
        ...


def make_renderer(model: Any, width: int, height: int, kind: Kind | None = None) -> Renderer:
    """Return a renderer for images of at most ``width`` by ``height`` of an ``MjModel``.

    ``kind`` selects a renderer; without it the best one that works here is used. Raises
    ``MissingDependencyError`` if the selected one does not work here.
    """
    chosen = kind or choose_kind()
    match chosen:
        case "rays":
            return RayRenderer(model)
        case "egl" | "osmesa":
            demand(chosen)
            return GlRenderer(model, width, height, chosen)
        case _:
            raise InvalidValueError(f"unknown renderer {chosen!r}; the kinds are egl, osmesa, rays")


def focal_lengths(model: Any, camera: int, width: int, height: int) -> tuple[float, float]:
    """Return fx, fy in pixels of an image of ``width`` by ``height`` from camera number ``camera``."""
    sensor_width, sensor_height = model.cam_sensorsize[camera]
    if sensor_height > 0.0:  # a camera with intrinsics: its whole sensor fills the image
        fx, fy = model.cam_intrinsic[camera, :2]
        return float(fx / sensor_width * width), float(fy / sensor_height * height)
    focal = 0.5 * height / np.tan(np.radians(model.cam_fovy[camera]) / 2.0)
    return float(focal), float(focal)


class GlRenderer:
    """Renders with OpenGL into an off-screen buffer. All calls must come from one thread."""

    def __init__(self, model: Any, width: int, height: int, kind: Kind) -> None:
        # Read by MuJoCo's OpenGL loader; the Python module is chosen by name, so that a MuJoCo
        # that was imported before this choice was made serves as well.
        os.environ["MUJOCO_GL"] = kind
        # Mesa's software renderer would use all cores; one is faster for images of this size
        # where the policy and the controller need the others.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        context_type = importlib.import_module(f"mujoco.{kind}").GLContext
        self._kind = kind
        self._model = model
        self._size = (width, height)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        self._gl = context_type(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=500)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = [group in VISIBLE_GROUPS for group in range(6)]
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._closed = False
        # At exit the OpenGL library may be unloaded before the garbage collector runs this.
        atexit.register(self.close)

    @property
    def kind(self) -> Kind:
        """The kind of renderer."""
        return self._kind

    def render(self, data: Any, camera: int, width: int, height: int) -> Image:
        """Return the (height, width, 3) uint8 RGB image of camera number ``camera``."""
        if width > self._size[0] or height > self._size[1]:
            raise InvalidValueError(f"image {width}x{height} is larger than the buffer {self._size}")
        self._gl.make_current()
        self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value, self._scene,
        )  # fmt: skip
        area = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(area, self._scene, self._context)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, area, self._context)
        return read_only(np.ascontiguousarray(image[::-1]))  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Release the rendering context. Safe to call twice."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            self._gl.make_current()
            self._context.free()
            self._gl.free()


class RayRenderer:
    """Casts one ray per pixel, with plain shading; slower, but needs no library."""

    kind: Kind = "rays"
    BACKGROUND = (178, 194, 209)
    AMBIENT, DIFFUSE = 0.45, 0.55
    LIGHT = np.array([0.3, -0.4, 0.866])  # direction to the light in the base frame
    FAR_M = 10.0

    def __init__(self, model: Any) -> None:
        self._model = model
        # MuJoCo skips bodies by boxes that are too small for some bodies of several shapes, which
        # leaves holes in the image; larger boxes only cost time.
        self._traced = copy.copy(model)
        self._traced.bvh_aabb[:, 3:] *= 2.5
        self._groups = np.array([group in VISIBLE_GROUPS for group in range(6)], np.uint8)
        self._rays: dict[tuple[int, int, int], NDArray[np.float64]] = {}

    def render(self, data: Any, camera: int, width: int, height: int) -> Image:
        """Return the (height, width, 3) uint8 RGB image of camera number ``camera``."""
        rays = self._camera_rays(camera, width, height) @ data.cam_xmat[camera].reshape(3, 3).T
        count = len(rays)
        geoms, distances = np.empty(count, np.int32), np.empty(count)
        normals = np.zeros((count, 3))
        mujoco.mj_multiRay(
            self._traced, data, data.cam_xpos[camera], np.ascontiguousarray(rays).ravel(), self._groups,
            1, -1, geoms, distances, normals.reshape(-1), count, self.FAR_M,
        )  # fmt: skip
        shade = self.AMBIENT + self.DIFFUSE * np.clip(normals @ self.LIGHT, 0.0, 1.0)
        colours = np.vstack([self._geom_colours() * 255.0, [self.BACKGROUND]])
        shade[geoms < 0] = 1.0
        image = np.clip(colours[geoms] * shade[:, None], 0, 255).astype(np.uint8)  # -1 is the background
        return read_only(image.reshape(height, width, 3))

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _geom_colours(self) -> NDArray[np.float64]:
        colours = np.array(self._model.geom_rgba[:, :3], dtype=np.float64)
        material = self._model.geom_matid
        colours[material >= 0] = self._model.mat_rgba[material[material >= 0], :3]
        return colours

    def _camera_rays(self, camera: int, width: int, height: int) -> NDArray[np.float64]:
        key = (camera, width, height)
        if key not in self._rays:
            fx, fy = focal_lengths(self._model, camera, width, height)
            u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
            rays = np.stack([(u - width / 2) / fx, (height / 2 - v) / fy, -np.ones_like(u)], axis=-1)
            self._rays[key] = rays.reshape(-1, 3) / np.linalg.norm(rays.reshape(-1, 3), axis=1, keepdims=True)
        return self._rays[key]
