#!/usr/bin/env bash
# VideoFrame.to_ndarray(format="rgb24"), the usual way to get the images of a robot's video out of PyAV, makes a new
# converter (an swscale context) for every frame: at 256 x 256, the size of most robot datasets, that takes several
# times as long as the conversion, and for a small video more than decoding the frame. One
# av.video.reformatter.VideoReformatter kept from frame to frame gives the same pixels.
#
# Seen with av 18.1.0 and numpy 2.4.6 on Linux x86_64, Python 3.11 (processor time of one thread; it varies):
#   av 18.1.0: to_ndarray 0.48 ms a frame, one reformatter kept 0.08 ms: 5.8 times, the same pixels: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "av==${AV:-18.1.0}" numpy==2.4.6
"$work/venv/bin/python" - "$work/video.mp4" <<'PYTHON'
import sys
import time

import av
import numpy as np
from av.video.reformatter import VideoReformatter

size, count = 256, 200
noise = np.random.default_rng(0)
with av.open(sys.argv[1], "w") as container:
    stream = container.add_stream("libx264", rate=10, options={"g": "2"})
    stream.width = stream.height = size
    stream.pix_fmt = "yuv420p"
    for index in range(count):
        image = np.full((size, size, 3), index, np.uint8) + noise.integers(0, 30, (size, size, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    container.mux(stream.encode(None))
with av.open(sys.argv[1]) as container:
    container.streams.video[0].thread_count = 1
    frames = list(container.decode(video=0))


def milliseconds(convert):
    began = time.thread_time()
    images = [convert(frame) for frame in frames]
    return 1e3 * (time.thread_time() - began) / count, images


kept = VideoReformatter()
once, expected = milliseconds(lambda frame: kept.reformat(frame, format="rgb24").to_ndarray())
each, images = milliseconds(lambda frame: frame.to_ndarray(format="rgb24"))
same = all(map(np.array_equal, images, expected))
print(
    f"av {av.__version__}: to_ndarray {each:.2f} ms a frame, one reformatter kept {once:.2f} ms: "
    f"{each / once:.1f} times, the same pixels: {same}"
)
sys.exit(0 if same and each > 3 * once else "not seen any more")
PYTHON
