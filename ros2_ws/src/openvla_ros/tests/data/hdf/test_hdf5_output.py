"""HDF5 on a full disk: an error that names the disk, never a crash, and what was written can be read back."""

import h5py
import numpy as np
import pytest
from support.full_disk import files_of_at_most
from support.generated_episodes import make_episode

from openvla_ros.data.hdf.hdf5_output import Hdf5Output
from openvla_ros.data.hdf.robomimic_writer import Hdf5Writer
from openvla_ros.errors import DatasetError

NOISE = np.random.default_rng(0).integers(0, 255, 100_000).astype(np.uint8)


def test_a_file_is_the_same_as_one_that_hdf5_writes_itself(tmp_path):
    output = Hdf5Output(tmp_path / "ours.hdf5")
    for target in (output, tmp_path / "its.hdf5"):
        with h5py.File(target, "w") as file:
            file.create_dataset("noise", data=NOISE, chunks=(1000,), fletcher32=True)
    output.check()
    output.close()
    output.close()
    assert (tmp_path / "ours.hdf5").read_bytes() == (tmp_path / "its.hdf5").read_bytes()


def test_what_found_no_room_is_read_back_until_the_error_is_raised(tmp_path):
    with files_of_at_most(5000):
        output = Hdf5Output(tmp_path / "file")
        data = NOISE[:9000].tobytes()
        assert output.write(data) == 9000
        output.seek(4000)
        assert output.write(b"x" * 2000) == 2000
        output.seek(0)
        assert output.read(9000) == data[:4000] + b"x" * 2000 + data[6000:]
        output.truncate(20_000)
        with pytest.raises(OSError, match="File too large"):
            output.check()
        output.close()


@pytest.mark.parametrize("size_bytes", [0, 3000, 40_000, 200_000])
def test_a_full_disk_is_one_line_wherever_it_is_met(tmp_path, size_bytes):
    path = tmp_path / "demos.hdf5"
    refused = pytest.raises(DatasetError, match=r"demos\.hdf5: File too large \(.* free in ")
    with refused, files_of_at_most(size_bytes), Hdf5Writer(path) as writer:
        for seed in range(30):
            writer.add(make_episode(seed))
    with Hdf5Writer(path) as writer:
        writer.add(make_episode(0))
