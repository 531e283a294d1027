"""Fixtures that several test files share: a DDS domain of one's own, and the shared reference data."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.shared_data import shared_folder

from openvla_ros.bringup.dds import dds_environment

# One thread a process: two torch threads on busy cores can be five times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LP_NUM_THREADS", "0")
# A wrong field type goes out silently unless the messages check their fields.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
# A busy machine is no fault of a generator.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give a test between real processes a second try: discovery and schedulers are not ours.

    Every second try is counted in the closing line ("rerun"). A test that guards a stop gets none. Where
    the tests are spread (``-n 2 --dist loadgroup``), those between real processes stay one after another.
    """
    again = config.pluginmanager.hasplugin("rerunfailures")
    spread = config.pluginmanager.hasplugin("xdist")
    for item in items:
        ros = item.get_closest_marker("ros") is not None
        if again and ros and not item.get_closest_marker("stops"):
            item.add_marker(pytest.mark.flaky(reruns=1))
        if spread:
            item.add_marker(pytest.mark.xdist_group("ros" if ros else str(item.path)))


@pytest.fixture(autouse=True)
def ordinary_scheduling() -> Iterator[None]:
    """Fail a test that leaves this process under a real-time policy: everything after it would starve."""
    before = os.sched_getscheduler(0)
    yield
    assert os.sched_getscheduler(0) == before


@pytest.fixture(scope="session")
def ros_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other test process on this machine uses, set in the environment."""
    for domain in random.Random(os.getpid()).sample(range(1, 101), 100):
        lock = (Path(tempfile.gettempdir()) / f"openvla_ros_domain_{domain}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ.update(dds_environment(os.environ))  # as every node's: they find each other sooner
        yield domain
        lock.close()
        return
    raise RuntimeError("all 100 ROS domains are taken by other test processes")


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """The golden numbers of the original OpenVLA implementation."""
    return shared_folder("openvla_reference")


@pytest.fixture(scope="session")
def bridge_folder() -> Path:
    """25 real BridgeData V2 episodes as TFRecord."""
    return shared_folder("bridge_debug")
