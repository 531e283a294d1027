#!/usr/bin/env bash
# OpenCV's wheels contain FFmpeg without a software decoder for AV1: a video file in AV1 opens, states its rate
# and its number of images, and then gives none. read() returns False, as at the end of a file.
# A program that plays it reports that it came to its end; one that starts over at the end never rests.
#
# Seen with opencv-python-headless 5.0.0.93 on Linux x86_64 (the same with 4.12.0.88):
#   OpenCV 5.0.0: opened True, 10 Hz, 20 images, read() gives False
#   PyAV 18.1.0: 20 images
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "opencv-python-headless==${OPENCV:-5.0.0.93}" av==18.1.0 numpy==2.4.6
"$work/venv/bin/python" - "$work/film.mp4" 2>"$work/stderr" <<'PYTHON'
import sys

import av
import cv2
import numpy as np

with av.open(sys.argv[1], "w") as container:
    stream = container.add_stream("libsvtav1", rate=10)
    stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
    for level in range(20):
        image = np.full((96, 128, 3), 10 * level, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    container.mux(stream.encode(None))
capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
opened, rate, count = capture.isOpened(), capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
read = capture.read()[0]
with av.open(sys.argv[1]) as container:
    decoded = sum(1 for _ in container.decode(video=0))
print(f"OpenCV {cv2.__version__}: opened {opened}, {rate:g} Hz, {count:g} images, read() gives {read}")
print(f"PyAV {av.__version__}: {decoded} images")
sys.exit(0 if (opened, rate, count, read, decoded) == (True, 10.0, 20.0, False, 20) else "not seen any more")
PYTHON
