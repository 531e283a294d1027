"""Where a JPEG ends, found by its markers (ITU-T T.81, annex B).

A decoder fills what a cut JPEG lacks with grey and says nothing. And what follows the end does not matter:
cameras append zeros, usb_cam 0.8.1 sends its whole frame buffer, with the rest of earlier images in it.
"""

from __future__ import annotations

import re

_START = b"\xff\xd8\xff"
_END = 0xD9
# In the data of a scan 0xFF is followed by zero, a restart marker or itself; anything else is a marker.
_NEXT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}


def jpeg_length(data: bytes | memoryview) -> int | None:
    """Return the bytes of the JPEG at the start of ``data``; None if it does not end there.

    A picture within it (a thumbnail) is skipped with its segment; a second one after the first is not read.
    """
    if bytes(data[:3]) != _START:
        return None
    position = 2
    while (found := _NEXT.search(data, position)) is not None:
        marker, position = data[found.end() - 1], found.end()
        if marker == _END:
            return position
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if marker == 0xD8 or length < 2 or position + length > len(data):
            return None  # another image begins, or a segment is cut
        position += length
    return None
