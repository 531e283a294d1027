"""One topic of a recorded episode, in the order of its messages' own stamps, and its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from openvla_ros.data.bags import cdr
from openvla_ros.data.bags.mcap_reader import ChannelInfo, McapFile
from openvla_ros.data.bags.resampling import in_order, newest_before
from openvla_ros.errors import DatasetError, InvalidValueError
from openvla_ros.profile import CameraProfile
from openvla_ros.streams.sampling import upright
from openvla_ros.values.arrays import Image, Int


@dataclass(frozen=True, eq=False)
class RecordedMessage:
    """A decoded message with its own stamp and the time at which it was received."""

    stamp_ns: int
    received_ns: int
    value: Any


class Stream:
    """One topic of a bag in the order of its messages' own stamps."""

    def __init__(self, file: McapFile, channel: ChannelInfo, stamped: bool = True) -> None:
        self.file, self.channel = file, channel
        received = file.times_ns(channel.id)
        if stamped:
            stamps = np.array(
                [cdr.header_stamp_ns(file.message(channel.id, i).data) for i in range(len(received))],
                np.int64,
            )
            self.order = in_order(stamps, f"{file.path}: {channel.topic}")
            self.stamps_ns: Int = stamps[self.order]
        else:
            self.order, self.stamps_ns = np.arange(len(received)), received

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def data(self, index: int) -> memoryview:
        """Return message ``index``, serialised."""
        return self.file.message(self.channel.id, int(self.order[index])).data

    def received_ns(self, index: int) -> int:
        """Return when message ``index`` was received."""
        return int(self.file.times_ns(self.channel.id)[self.order[index]])

    def at(self, stamp_ns: int) -> int:
        """Return the index of the newest message not after ``stamp_ns``, or -1."""
        return int(newest_before(self.stamps_ns, np.array([stamp_ns]))[0])


class BagFrames:
    """The images of one camera at given steps, decoded on access."""

    def __init__(self, stream: Stream, indices: Int, camera: CameraProfile) -> None:
        self._stream, self._indices, self._camera = stream, indices, camera

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Image:
        data = self._stream.data(int(self._indices[index]))
        try:
            return upright(self._camera, cdr.decode_image(self._stream.channel.type, data))
        except InvalidValueError as error:
            raise DatasetError(f"{self._stream.file.path}: image {index}: {error}") from error

    def encoded(self, index: int) -> bytes | None:
        """Return the image's JPEG or PNG as stored, or ``None`` if it is raw or has to be rotated."""
        if self._stream.channel.type != cdr.COMPRESSED_IMAGE or self._camera.rotate_deg:
            return None
        return bytes(cdr.parse_compressed_image(self._stream.data(int(self._indices[index])))[1])
