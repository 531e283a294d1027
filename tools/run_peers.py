"""Compare this package with the real programs of others, each in an environment of its own.

Prints one row for each thing compared, and ends in one JSON line with ``"pass"``. Not part of the tests:
it downloads. What is built stays under build/peers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from peers import (
    act,
    checkers,
    crisp,
    franky,
    inspect_robots,
    jazzy,
    joint_trajectory_controller,
    kinematics,
    leapp,
    lerobot,
    lerobot_plugin,
    lerobot_policies,
    lerobot_robot,
    onnx,
    openpi,
    robomimic,
    robosuite,
    rosbags,
    sros2,
    urdf,
    viewers,
    vla_eval,
)
from peers.rows import PeerError, Row

ROOT = Path(__file__).resolve().parents[1]
PEERS = {
    act.NAME: act.check,
    checkers.NAME: checkers.check,
    crisp.NAME: crisp.check,
    franky.NAME: franky.check,
    inspect_robots.NAME: inspect_robots.check,
    jazzy.NAME: jazzy.check,
    joint_trajectory_controller.NAME: joint_trajectory_controller.check,
    kinematics.NAME: kinematics.check,
    leapp.NAME: leapp.check,
    lerobot.NAME: lerobot.check,
    lerobot_plugin.NAME: lerobot_plugin.check,
    lerobot_policies.NAME: lerobot_policies.check,
    lerobot_robot.NAME: lerobot_robot.check,
    onnx.NAME: onnx.check,
    openpi.NAME: openpi.check,
    robomimic.NAME: robomimic.check,
    robosuite.NAME: robosuite.check,
    rosbags.NAME: rosbags.check,
    sros2.NAME: sros2.check,
    urdf.NAME: urdf.check,
    vla_eval.NAME: vla_eval.check,
    viewers.NAME: viewers.check,
}


def main() -> int:
    """Run the comparisons that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(PEERS), action="append", help="this peer alone; repeatable")
    parser.add_argument(
        "--source",
        metavar="PEER=FOLDER",
        action="append",
        default=[],
        help="a clone, or an environment, at hand: nothing is downloaded",
    )
    arguments = parser.parse_args()
    sources: dict[str, Path] = {}
    for given in arguments.source:
        peer, _, folder = given.partition("=")
        if peer not in PEERS or not Path(folder).is_dir():
            parser.error(f"--source {given}: PEER is one of {', '.join(sorted(PEERS))}, FOLDER must exist")
        sources[peer] = Path(folder)
    rows: list[Row] = []
    for name in arguments.only or sorted(PEERS):
        build = ROOT / "build" / "peers"
        build.mkdir(parents=True, exist_ok=True)
        try:
            rows += PEERS[name](build, sources.get(name))
        except PeerError as error:
            rows.append(Row(name, "", "available", False, str(error)))
    for row in rows:
        sign = "ok  " if row.passed else "FAIL"
        print(f"{sign} {row.peer} {row.version:8} {row.compared:32} {row.detail}")
    passed = bool(rows) and all(row.passed for row in rows)
    failed = [f"{row.peer}: {row.compared}" for row in rows if not row.passed]
    print(
        json.dumps(
            {"peers": sorted({row.peer for row in rows}), "rows": len(rows), "failed": failed, "pass": passed}
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
