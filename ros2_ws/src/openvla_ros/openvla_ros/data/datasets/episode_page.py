"""One episode as a self-contained HTML page: images, plots, videos, provenance."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from openvla_ros.data.datasets.listing import numeric_warnings, recorded_warnings
from openvla_ros.data.episodes.video_files import VideoWriter
from openvla_ros.preprocessing.image_encoding import encode_jpeg
from openvla_ros.report import Page
from openvla_ros.values.arrays import Image
from openvla_ros.values.episode import Episode, ImageSequence
from openvla_ros.values.time import seconds

_STRIP = 8  # images of each camera in a row
_THUMBNAIL = 160  # pixels, height
_JPEG_QUALITY = 85


def episode_page(episode: Episode, *, video: bool = True) -> Page:
    """Return the self-contained page of ``episode``."""
    page = Page(episode.instruction or "no instruction", f"episode {episode.id}")
    page.facts(
        {
            "length": f"{len(episode)} steps",
            "duration": f"{episode.duration_s:.1f} s",
            "action rate": f"{episode.rate_hz:g} Hz (nominal)",
            "outcome": episode.outcome,
            "moved by a person": f"{int(episode.intervention.sum())} of {len(episode)} steps",
        }
    )
    for warning in (*recorded_warnings(episode), *numeric_warnings(episode)):
        page.paragraph(f"⚠ {warning}")
    page.heading("Images")
    for camera, images in episode.images.items():
        page.image(encode_jpeg(image_strip(images), _JPEG_QUALITY), "image/jpeg", camera)
    if video:
        for camera, images in episode.images.items():
            page.video(encode_video(images, episode.rate_hz), "video/mp4", camera)
    page.heading("Actions")
    page.figure(plot_actions(episode), "commanded, and measured where the episode has poses (dashed)")
    if episode.poses is not None or episode.joint_positions is not None:
        page.heading("State")
        page.figure(plot_state(episode), "robot state, as reported")
    page.heading("Origin")
    page.table(("field", "value"), [(key, value) for key, value in sorted(episode.provenance.items())])
    return page


def image_strip(images: ImageSequence) -> Image:
    """Return evenly spaced images side by side, each scaled to the same height."""
    chosen = np.unique(np.linspace(0, len(images) - 1, _STRIP).astype(int))
    scaled = []
    for index in chosen:
        image = images[int(index)]
        width = max(1, round(image.shape[1] * _THUMBNAIL / image.shape[0]))
        scaled.append(cv2.resize(image, (width, _THUMBNAIL), interpolation=cv2.INTER_AREA))
    return np.concatenate(scaled, axis=1).astype(np.uint8)


def encode_video(images: ImageSequence, rate_hz: float) -> bytes:
    """Return an H.264 video of all images; an odd last row or column is cut off."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, rate_hz, "h264") as writer:
            for index in range(len(images)):
                image = images[index]
                height, width = (n - n % 2 for n in image.shape[:2])
                writer.add(image[:height, :width])
        return path.read_bytes()


def _times_s(episode: Episode) -> NDArray[np.float64]:
    times_s: NDArray[np.float64] = seconds(episode.stamps_ns - episode.stamps_ns[0])
    return times_s


def plot_actions(episode: Episode) -> Figure:
    """Return one small plot for each dimension of the action over time."""
    times_s, width = _times_s(episode), episode.space.width
    comparable = episode.space.kind == "tool_delta" and episode.poses is not None and len(episode) > 1
    measured = episode.measured_deltas() if comparable else None
    figure = Figure(figsize=(11, 1.5 * -(-width // 2)), layout="constrained")
    axes = figure.subplots(-(-width // 2), 2, sharex=True, squeeze=False).flat
    for dimension, axis in zip(range(width), axes, strict=False):
        axis.step(times_s, episode.actions[:, dimension], where="post")
        if measured is not None and dimension < 6:
            axis.plot(times_s[:-1], measured[:, dimension], "--", linewidth=1)
        _shade(axis, times_s, episode)
        axis.set_ylabel(f"{episode.space.names[dimension]} [{episode.space.units[dimension]}]")
    for axis in list(figure.axes)[width:]:
        axis.set_visible(False)
    figure.axes[width - 1].set_xlabel("s")
    return figure


def plot_state(episode: Episode) -> Figure:
    """Return the measured joints, position and gripper over time, as far as the episode has them."""
    series = [
        ("joints [rad]", episode.joint_positions),
        ("position [m]", None if episode.poses is None else episode.poses[:, :3, 3]),
        ("gripper", None if episode.gripper is None else episode.gripper[:, None]),
    ]
    shown = [(name, values) for name, values in series if values is not None]
    figure = Figure(figsize=(11, 2.2 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, values) in zip(axes, shown, strict=True):
        axis.plot(_times_s(episode), values)
        axis.set_ylabel(name)
    axes[-1].set_xlabel("s")
    return figure


def _shade(axis: Any, times_s: NDArray[np.float64], episode: Episode) -> None:
    """Shade the steps at which a person had taken over."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], episode.intervention.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        end = times_s[stop] if stop < len(times_s) else times_s[-1] + 1.0 / episode.rate_hz
        axis.axvspan(times_s[start], end, alpha=0.2, color="tab:orange")
