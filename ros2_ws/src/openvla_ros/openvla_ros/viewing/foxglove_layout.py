"""The arrangement of Foxglove's panels for what is shown of a robot.

``config/viewers/foxglove_layout.json`` is the one for the simulated WidowX, which fits any robot with the
same joints and camera names.
"""

from __future__ import annotations

from pathlib import Path

import foxglove.layouts as fl

from openvla_ros.resources import share_path
from openvla_ros.viewing import shown
from openvla_ros.viewing.shown import Stage

SHIPPED = Path("config") / "viewers" / "foxglove_layout.json"
SOURCES = ("policy", "teleop", "recorded")  # of actions


def layout_help() -> str:
    """Return how to load the shipped layout, in one line."""
    return f"layout: in Foxglove, Layouts, Import from file, {share_path() / SHIPPED}"


def arranged(stage: Stage) -> fl.Layout:
    """Return the layout: the arm and the log, the cameras and words, the plots."""
    both = (shown.MEASURED, shown.COMMANDED)
    joints = [
        _series(f"/{shown.JOINTS}/{kind}", name, f"{name} {kind}", dashed=kind == shown.COMMANDED)
        for kind in both
        for name in stage.joints
    ]
    gripper = [_series(f"/{shown.GRIPPER}/{kind}", "opening", kind) for kind in both]
    actions = [
        _series(f"/{shown.ACTION}/{source}", name, f"{name} {source}")
        for source in SOURCES
        for name in stage.actions
    ]
    confidence = [_series(f"/{shown.PROBABILITY}/policy", name, name) for name in stage.actions]
    images = [
        fl.ImagePanel(
            config=fl.ImageConfig(image_mode=fl.ImageModeConfig(image_topic=f"/{shown.CAMERA}/{name}"))
        )
        for name in stage.cameras
    ]
    texts = [
        _text(shown.INSTRUCTION, "instruction in force"),
        _text(shown.STATUS, "controller"),
    ]
    return fl.Layout(
        content=_split(
            "row",
            _split("column", _scene(stage), _log(shown.VERDICTS), shares=(3, 1)),
            _split("column", *images, *texts, shares=(3,) * len(images) + (1, 1)),
            _split(
                "column",
                _plot("joints [rad]", joints),
                _plot("gripper, 1: open", gripper),
                _plot("actions", actions),
                _plot("probability of the chosen bins", confidence),
            ),
        )
    )


def _split(direction: str, *parts: fl.Content, shares: tuple[float, ...] = ()) -> fl.SplitContainer:
    sizes = shares or (1,) * len(parts)
    items = [fl.SplitItem(proportion=size, content=part) for size, part in zip(sizes, parts, strict=True)]
    return fl.SplitContainer(direction=direction, items=items)


def _scene(stage: Stage) -> fl.ThreeDeePanel:
    paths = [f"{shown.ARM}/shapes", *(f"{shown.TOOL}/{kind}" for kind in (shown.MEASURED, shown.COMMANDED))]
    paths += [f"{shown.TRAIL}/{kind}" for kind in (shown.MEASURED, shown.COMMANDED)]
    paths += [f"{shown.CHUNK_PATH}/{source}" for source in SOURCES[:2]]
    visible = {f"/{path}": fl.BaseRendererSceneUpdateTopicSettings(visible=True) for path in paths}
    return fl.ThreeDeePanel(config=fl.ThreeDeeConfig(follow_tf=stage.base_frame, topics=visible), title="arm")


def _log(path: str) -> fl.LogPanel:
    return fl.LogPanel(config=fl.LogConfig(topic_to_render=f"/{path}"), title="verdicts")


def _text(path: str, title: str) -> fl.RawMessagesPanel:
    return fl.RawMessagesPanel(config=fl.RawMessagesConfig(topic_path=f"/{path}.text"), title=title)


def _plot(title: str, series: list[fl.PlotSeries]) -> fl.PlotPanel:
    return fl.PlotPanel(config=fl.PlotConfig(paths=series, show_legend=True), title=title)


def _series(topic: str, name: str, label: str, dashed: bool = False) -> fl.PlotSeries:
    style = "dashed" if dashed else "solid"
    return fl.PlotSeries(value=f"{topic}.{name}", label=label, line_style=style)
