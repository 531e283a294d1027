"""Fixtures of the tests of fine-tuning: a tiny base, short demonstrations, runs that draw no report."""

import pytest
from support.tiny_training_run import make_base, write_data


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "demos.hdf5")


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes longer than these runs."""
    monkeypatch.setattr("openvla_ros.training.finetune.Run._report", lambda run: None)
