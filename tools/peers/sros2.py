"""A running robot's access policy through sros2's own code into a real DDS with security plug-ins.

The robot runs without security and ``openvla security-policy`` watches it. sros2 turns the policy into keys
and permissions. Then each enclave tries every topic and service of the robot in Cyclone DDS, whose Debian
package brings the plug-ins that the wheels of Fast DDS lack; it must get exactly what the policy lists.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openvla_ros.bringup.enclaves import enclave_of
from openvla_ros.discovery.access import Access
from openvla_ros.discovery.access_policy import Nodes, read_policy
from peers.environments import called
from peers.rows import PeerError, Row

NAME = "sros2"
ADDRESS = "https://github.com/ros2/sros2"
COMMIT, VERSION = "e349fcf", "0.13.0"
# sros2 0.13.0 passes a curve as a class, which later versions of cryptography refuse.
PACKAGES = ("lxml==5.4.0", "cryptography==41.0.7")
DEBIAN = (
    "cyclonedds-dev", "cyclonedds-tools", "libddsc0debian", "libcycloneddsidl0", "libiceoryx-binding-c2",
    "libiceoryx-posh2", "libiceoryx-hoofs2", "libiceoryx-platform2",
)  # fmt: skip
HERE = Path(__file__).parent
DOMAIN = "83"
START_S, WATCH_S = 60.0, 8
ARM = "rt/arm_controller/joint_trajectory"
SAMPLE = "module peers { @final struct Sample { octet content; }; };\n"
GENERATE = (
    "import pathlib, sys; from sros2.api._artifact_generation import generate_artifacts; "
    "generate_artifacts(pathlib.Path(sys.argv[1]), [], [pathlib.Path(sys.argv[2])])"
)


def check(build: Path, source: Path | None) -> list[Row]:
    """Return the rows: the policy, each enclave's rights, and who is heard by whom."""
    folder = build / NAME
    folder.mkdir(parents=True, exist_ok=True)
    program, plugins = security_program(folder)
    policy = folder / "policy.xml"
    policy.unlink(missing_ok=True)
    watch_robot(policy)
    nodes = read_policy(policy)
    store = keystore(folder, source, policy)
    enclaves = {enclave_of(*at) for at in nodes}
    rows = [
        Row(NAME, VERSION, "policy and keystore", True, f"{len(enclaves)} enclaves of {len(nodes)} nodes")
    ]
    for name in sorted(enclaves):
        wrong, tried = wrong_rights(program, plugins, store / name.lstrip("/"), name, nodes)
        said = f"{tried} topics tried, {len(wrong)} wrong {wrong[:3]}"
        rows.append(Row("cyclonedds", "0.10.2", f"rights of {name}", not wrong, said))
    for sender, expected in (("controller", "sent 1"), ("policy", "refused 0"), ("-", "unmatched 0")):
        said = heard_by_the_arm(program, plugins, store, sender)
        who = "a program without keys" if sender == "-" else f"/{sender}"
        rows.append(Row("cyclonedds", "0.10.2", f"{who} commands the arm", said == expected, said))
    return rows


def security_program(folder: Path) -> tuple[Path, Path]:
    """Return the program that joins a domain as an enclave, and the folder of the plug-ins."""
    if not shutil.which("apt-get") or not shutil.which("gcc"):
        raise PeerError(
            "needs gcc and, for Cyclone DDS with its security plug-ins, the packages of Debian 12"
        )
    root, debs = folder / "debian", folder / "debs"
    if not root.is_dir():
        debs.mkdir(exist_ok=True)
        done = subprocess.run(["apt-get", "download", *DEBIAN], cwd=debs, check=False, capture_output=True)
        if done.returncode:
            raise PeerError(f"Debian's cyclonedds is not to be had: {done.stderr.decode().strip()[-300:]}")
        for package in sorted(debs.glob("*.deb")):
            called(["dpkg", "-x", str(package), str(root)], f"{package.name} cannot be unpacked")
    libraries = next(root.glob("usr/lib/*/libddsc.so.0debian")).parent
    (folder / "sample.idl").write_text(SAMPLE, encoding="utf-8")
    subprocess.run(
        [root / "usr/bin/idlc", "sample.idl"], cwd=folder, check=True, env=with_libraries(libraries)
    )
    program = folder / "dds_security"
    include = [f"-I{folder}", f"-I{root}/usr/include", f"-I{root}/usr/include/ddsc"]
    include += [f"-I{at}" for at in root.glob("usr/include/*-linux-gnu")]
    called(
        ["gcc", "-O1", *include, str(HERE / "dds_security.c"), str(folder / "sample.c"), "-o", str(program),
         f"-L{libraries}", "-lddsc", f"-Wl,-rpath-link,{libraries}"],
        "the program does not compile",
    )  # fmt: skip
    return program, libraries / "libddsc0debian"


def with_libraries(folder: Path) -> dict[str, str]:
    """Return the environment of a program that uses Debian's Cyclone DDS."""
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def watch_robot(policy: Path) -> None:
    """Run the simulated robot without security, and write its policy."""
    surroundings = {**os.environ, "ROS_DOMAIN_ID": DOMAIN}
    openvla = [sys.executable, "-c", "from openvla_ros.entry_points import openvla; openvla()"]
    up = [*openvla, "up", "--robot", "sim_widowx", "--policy", "hold", "--record"]
    with subprocess.Popen(up, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as robot:
        try:
            end = time.monotonic() + START_S
            make = [*openvla, "security-policy", str(policy), "--seconds", str(WATCH_S)]
            while (done := subprocess.run(make, env=surroundings, capture_output=True, text=True, check=False)
                   ).returncode and time.monotonic() < end:  # fmt: skip
                time.sleep(1.0)
            if done.returncode:
                raise PeerError(f"openvla security-policy: {done.stderr.strip()[-300:]}")
        finally:
            robot.send_signal(signal.SIGINT)
            robot.wait(60)


def keystore(folder: Path, source: Path | None, policy: Path) -> Path:
    """Return the enclaves' folder of the keystore that sros2 makes of the policy."""
    code, packages, prefix, store = (folder / name for name in ("source", "packages", "prefix", "keystore"))
    if not code.is_dir():
        clone = source or folder / "clone"
        if not clone.is_dir():
            called(["git", "clone", "--quiet", ADDRESS, str(clone)],
                   f"{ADDRESS} cannot be cloned; with a clone at hand: --source {NAME}=FOLDER")  # fmt: skip
        called(["git", "clone", "--quiet", "--no-checkout", str(clone), str(code)], "the clone is of no use")
        called(["git", "-C", str(code), "checkout", "--quiet", COMMIT], f"{clone} has no {COMMIT}")
    if not packages.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages)]
        called([*pip, *PACKAGES], f"{', '.join(PACKAGES)} cannot be installed")
    # sros2 looks its package up in the ament index.
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True, exist_ok=True)
    (index / "sros2").touch()
    shutil.copytree(
        code / "sros2" / "xml_cache", prefix / "share" / "sros2" / "xml_cache", dirs_exist_ok=True
    )
    shutil.rmtree(store, ignore_errors=True)
    surroundings = {
        **os.environ,
        "AMENT_PREFIX_PATH": f"{prefix}:{Path(sys.prefix)}",
        "PYTHONPATH": f"{code / 'sros2'}:{packages}",
        "ROS_DOMAIN_ID": DOMAIN,
    }
    done = subprocess.run([sys.executable, "-c", GENERATE, str(store), str(policy)],
                          env=surroundings, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise PeerError(f"sros2 refuses the policy: {done.stderr.strip()[-400:]}")
    return store / "enclaves"


def dds_topics(access: Access) -> tuple[set[str], set[str]]:
    """Return the DDS topics that are written and read for what ``access`` lists.

    By https://design.ros2.org/articles/topic_and_service_names.html; an action is three services, two topics.
    """
    writes, reads = ({f"rt{name}" for name in names} for names in (access.publish, access.subscribe))
    parts = ("cancel_goal", "get_result", "send_goal")
    serves = {*access.reply, *(f"{a}/_action/{p}" for a in access.execute for p in parts)}
    asks = {*access.request, *(f"{a}/_action/{p}" for a in access.call for p in parts)}
    writes |= {f"rr{name}Reply" for name in serves} | {f"rq{name}Request" for name in asks}
    reads |= {f"rq{name}Request" for name in serves} | {f"rr{name}Reply" for name in asks}
    for actions, side in ((access.execute, writes), (access.call, reads)):
        side |= {f"rt{a}/_action/{topic}" for a in actions for topic in ("feedback", "status")}
    return writes, reads


def wrong_rights(
    program: Path, plugins: Path, folder: Path, enclave: str, nodes: Nodes
) -> tuple[list[str], int]:
    """Return where an enclave may do more or less than the policy lists, and the number of trials."""
    own, every = Access(), Access()
    for at, access in nodes.items():
        every |= access
        if enclave_of(*at) == enclave:
            own |= access
    topics = sorted({"rt/nobody/s_topic"}.union(*dds_topics(every)))
    may = dict(zip(("pub", "sub"), dds_topics(own), strict=True))
    wanted = [
        (verb, topic, "allowed" if topic in may[verb] else "refused") for topic in topics for verb in may
    ]
    said = asked(program, plugins, folder, [f"{verb} {topic}" for verb, topic, _ in wanted])
    wrong = [
        f"{verb} {topic}: {got}"
        for (verb, topic, right), got in zip(wanted, said, strict=True)
        if got != right
    ]
    return wrong, len(wanted)


def heard_by_the_arm(program: Path, plugins: Path, store: Path, sender: str) -> str:
    """Return how a sender's command was sent, and how many of it arrive at the robot."""
    with joined(program, plugins, store / "simulation") as robot:
        robot.stdin.write(f"take {ARM} 12\n")
        robot.stdin.flush()
        from_folder = Path("-") if sender == "-" else store / sender
        (sent,) = asked(program, plugins, from_folder, [f"send {ARM}"])
        return f"{sent} {robot.stdout.readline().strip()}"


def asked(program: Path, plugins: Path, folder: Path, questions: list[str]) -> list[str]:
    """Return the answers of a participant with the keys in ``folder``."""
    with joined(program, plugins, folder) as participant:
        said, _ = participant.communicate("".join(f"{question}\n" for question in questions), timeout=120)
    return said.split("\n")[: len(questions)]


@contextmanager
def joined(program: Path, plugins: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A participant that has joined the domain."""
    command = [str(program), str(folder), DOMAIN, str(plugins)]
    surroundings = with_libraries(plugins.parent)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings
    ) as participant:
        try:
            if (said := participant.stdout.readline().strip()) != "ready":
                raise PeerError(f"{folder.name} cannot join: {said}")
            yield participant
        finally:
            participant.kill()
