#!/usr/bin/env bash
# PyAV 18.1.0 (its wheel's SVT-AV1 4.x), Linux x86_64, as root, as in most ROS containers.
#
# Encoding one frame with libsvtav1 puts the CALLING thread under the scheduler's policy SCHED_FIFO at
# priority 99, the highest there is, and starts the encoder's own threads under it too. It stays so after
# the container is closed, and every thread and process that is started later inherits it. A data export on
# a robot's computer then runs before a 100 Hz control loop at priority 40, before the kernel's interrupt
# threads (50), and before everything ordinary. libx264 in the same wheel changes nothing. Without root the
# call is refused by the kernel and only a warning tells of it.
#
# Seen:
#   libx264: before OTHER 0, after OTHER 0, threads under FIFO 0
#   libsvtav1: before OTHER 0, after FIFO 99, threads under FIFO 42, a child process FIFO 99
# (the number of threads depends on the processor)
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "run this as root (in a container): without it the kernel refuses the priority"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy==2.4.6
cat > "$folder/look.py" <<'PYTHON'
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np

NAMES = {os.SCHED_OTHER: "OTHER", os.SCHED_FIFO: "FIFO", os.SCHED_RR: "RR"}


def policy(thread=0):
    return f"{NAMES.get(os.sched_getscheduler(thread), '?')} {os.sched_getparam(thread).sched_priority}"


def encode(codec):
    before = policy()
    with av.open(f"{sys.argv[1]}/{codec}.mp4", "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((128, 128, 3), np.uint8), format="rgb24")
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    threads = [policy(int(task.name)) for task in Path("/proc/self/task").iterdir()]
    return before, policy(), sum(thread.startswith("FIFO") for thread in threads)


before, after, threads = encode("libx264")
print(f"libx264: before {before}, after {after}, threads under FIFO {threads}")
assert (before, after, threads) == ("OTHER 0", "OTHER 0", 0)
before, after, threads = encode("libsvtav1")
look = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"
child = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()
print(f"libsvtav1: before {before}, after {after}, threads under FIFO {threads}, "
      f"a child process {NAMES[int(child[0])]} {child[1]}")
assert (before, after, child) == ("OTHER 0", "FIFO 99", [str(os.SCHED_FIFO), "99"]) and threads > 1
PYTHON
SVT_LOG=0 "$folder/venv/bin/python" "$folder/look.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
