#!/usr/bin/env bash
# foxglove-sdk 0.30.3: once an MCAP file that open_mcap has opened cannot be written any more (here at a limit on the
# size of a file; a full disk is the same), log() goes on without an exception: it prints "error logging message" on
# stderr, in the process's own stream and not through Python's logging, and every later message is lost. Only close()
# raises, however long after. A recorder that has to notice a full disk cannot learn it from log().
#
# Seen on 2026-11-30 (200 messages of 100 kB, a limit of 1 MiB):
#   log raised 0 times of 200; said on stderr 178 times; close raised RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'foxglove-sdk==0.30.3'
cat > "$folder/log.py" <<'PYTHON'
import random
import resource
import string

import foxglove
from foxglove.messages import Log

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
writer = foxglove.open_mcap("words.mcap")
raised = 0
for _ in range(200):
    try:
        foxglove.log("/words", Log(message="".join(random.choices(string.ascii_letters, k=100_000))))
    except Exception:
        raised += 1
try:
    writer.close()
    closed = "nothing"
except Exception as error:
    closed = type(error).__name__
print(raised, closed)
PYTHON
cd "$folder"
read -r raised closed < <("$folder/venv/bin/python" log.py 2> complaints.txt)
said=$(grep -c "error logging message" complaints.txt || true)
echo "log raised $raised times of 200; said on stderr $said times; close raised $closed"
[ "$raised" = 0 ] && [ "$said" -gt 100 ] && [ "$closed" = RuntimeError ]
