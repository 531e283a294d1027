"""Which way of rendering is chosen, and that it is tried once for all processes of a robot."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from openvla_ros.bringup.graph import GraphOptions, build_graph
from openvla_ros.errors import MissingDependencyError
from openvla_ros.sim import opengl


@pytest.fixture
def only_osmesa(monkeypatch):
    tried = []
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(opengl, "works_here", lambda kind: tried.append(kind) or kind == "osmesa")
    opengl.best_kind.cache_clear()
    yield tried
    opengl.best_kind.cache_clear()


def test_without_opengl_rays_are_chosen(monkeypatch, only_osmesa):
    monkeypatch.setattr(opengl, "works_here", lambda kind: False)
    assert opengl.choose_kind() == "rays"
    assert opengl.rendering_environment({}) == {"MUJOCO_GL": "disable"}


def test_the_graph_of_a_simulated_robot_tries_once_for_all_its_processes(monkeypatch, only_osmesa):
    graph = build_graph(GraphOptions(robot="sim_widowx"), {})
    assert graph.environment["MUJOCO_GL"] == "osmesa"
    assert only_osmesa == ["egl", "osmesa"]
    # What a child then does: nothing is tried again.
    monkeypatch.setenv("MUJOCO_GL", graph.environment["MUJOCO_GL"])
    assert opengl.choose_kind() == "osmesa"
    opengl.demand("osmesa")
    assert only_osmesa == ["egl", "osmesa"]


def test_a_real_robot_s_graph_tries_nothing(only_osmesa):
    assert "MUJOCO_GL" not in build_graph(GraphOptions(robot="widowx"), {}).environment
    assert only_osmesa == []


@pytest.mark.parametrize("off", ["disable", "off", "0"])
def test_the_operator_s_choice_stands(monkeypatch, only_osmesa, off):
    assert opengl.rendering_environment({"MUJOCO_GL": "OSMesa"}) == {}
    assert opengl.rendering_environment({"MUJOCO_GL": off}) == {}
    monkeypatch.setenv("MUJOCO_GL", off)
    assert opengl.choose_kind() == "rays"


def test_a_choice_that_does_not_work_is_refused_before_anything_starts(only_osmesa):
    with pytest.raises(MissingDependencyError, match="egl does not work here; try: apt install libegl1"):
        build_graph(GraphOptions(robot="sim_widowx"), {"MUJOCO_GL": "egl"})


def test_choosing_does_not_import_mujoco():
    """``openvla up`` chooses; MuJoCo takes a third of a second to import."""
    program = "import sys, openvla_ros.sim.opengl; sys.exit('mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=os.environ, check=False).returncode == 0
