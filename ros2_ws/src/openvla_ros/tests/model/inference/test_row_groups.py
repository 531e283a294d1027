"""Rows of a batch on several cores: all of them, in their order, and none alone."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openvla_ros.model.inference.row_groups import LEAST_ROWS, SMALL_BYTES, RowGroups

CPU = torch.device("cpu")


@pytest.fixture
def three_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@given(count=st.integers(1, 20), cores=st.integers(1, 4))
def test_every_row_is_answered_in_its_place(count, cores):
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    groups = RowGroups(CPU, 0)
    torch.set_num_threads(before)
    sizes = {}

    def work(group, rows):
        sizes[group] = len(rows)
        return [10 * row for row in rows]

    assert groups.run(work, list(range(count))) == [10 * row for row in range(count)]
    groups.close()
    assert sorted(sizes) == list(range(len(sizes)))
    assert len(sizes) == max(1, min(cores, count // LEAST_ROWS))
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_groups_run_at_the_same_time_with_one_thread_each(three_cores):
    groups, threads = RowGroups(CPU, SMALL_BYTES), []
    together = threading.Barrier(3, timeout=20.0)

    def work(group, rows):
        together.wait()  # breaks unless all three are here
        threads.append(torch.get_num_threads())
        return rows

    assert groups.run(work, list(range(6))) == list(range(6))
    assert threads == [1, 1, 1]
    assert torch.get_num_threads() == 3
    groups.close()


def test_an_error_is_told_when_all_have_ended(three_cores):
    groups, ended = RowGroups(CPU, 0), []
    failed = threading.Event()

    def work(group, rows):
        if group == 0:
            failed.set()
            raise ValueError("row 0")
        assert failed.wait(20.0)
        ended.append(group)
        return rows

    with pytest.raises(ValueError, match="row 0"):
        groups.run(work, list(range(6)))
    assert sorted(ended) == [1, 2]
    groups.close()


@pytest.mark.parametrize(
    ("device", "size"), [(CPU, SMALL_BYTES + 1), (torch.device("cuda"), 0)], ids=["large", "GPU"]
)
def test_a_large_network_and_a_gpu_take_the_batch_whole(three_cores, device, size):
    groups = RowGroups(device, size)
    assert groups.most == 1
    assert groups.run(lambda group, rows: [(group, len(rows))], list(range(8))) == [(0, 8)]
    groups.close()
