"""An access policy for SROS 2, made from what the nodes of a running robot use.

``ros2 security generate_artifacts -p FILE`` turns it into keys and permissions. Each node may do what it was
seen to do and nothing else: only the controller commands the arm, only the robot reports its joints. Whoever
watches (recorder, operator) may subscribe to all; the operator may ask for everything, but moves the arm
only through the controller. Format: version 0.2.0 of sros2's ``policy.xsd`` (sros2 0.13.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from openvla_ros.bringup.enclaves import OPERATOR, enclave_of
from openvla_ros.discovery.access import Access
from openvla_ros.errors import InvalidValueError

VERSION = "0.2.0"
RECORDER, CONTROLLER = "recorder", "controller"
RECORDER_PUBLISHES = "recorder/instruction"
# What the programs of people publish, relative to the robot's namespace.
OPERATOR_PUBLISHES = (
    "e_stop", "instruction", "policy/action_chunk", RECORDER_PUBLISHES, "teleop/action_chunk",
)  # fmt: skip
# Of every node: rclpy publishes the first two; /clock is subscribed to when use_sim_time is set.
LOG, PARAMETERS, CLOCK = "/rosout", "/parameter_events", "/clock"
# Right → the element of a policy that lists it, and an entry of it.
ELEMENTS = {
    "publish": ("topics", "topic"), "subscribe": ("topics", "topic"), "reply": ("services", "service"),
    "request": ("services", "service"), "execute": ("actions", "action"), "call": ("actions", "action"),
}  # fmt: skip

Nodes = dict[tuple[str, str], Access]  # (namespace, name) → access


def robot_access(seen: Mapping[tuple[str, str], Access], namespace: str) -> Nodes:
    """Return the accesses of a robot's nodes, the operator's among them; ``seen`` is of all nodes.

    ``namespace`` is the robot's; nodes of other namespaces (a driver's) keep theirs. Those of another robot
    give this one's operator and recorder nothing.
    """
    home = f"/{namespace.strip('/')}"
    others = {ns for ns, name in seen if name == CONTROLLER and ns != home}
    below = tuple(f"{ns}/" for ns in others if ns != "/")
    every = Access()
    for (ns, _), access in seen.items():
        if ns not in others and not ns.startswith(below):
            every |= access
    watches = Access(subscribe=every.publish | {CLOCK, LOG, PARAMETERS}, publish=frozenset((LOG, PARAMETERS)))
    nodes = {at: _of_a_node(access) for at, access in seen.items()}
    if (home, RECORDER) in nodes:
        words = f"{home.rstrip('/')}/{RECORDER_PUBLISHES}"  # published only while openvla record runs
        nodes[home, RECORDER] |= watches | Access(publish=frozenset((words,)))
    asks = Access(
        publish=frozenset(f"{home.rstrip('/')}/{topic}" for topic in OPERATOR_PUBLISHES),
        request=every.reply,
        call=every.execute,
    )
    nodes[home, OPERATOR] = watches | asks
    return nodes


def merged(first: Mapping[tuple[str, str], Access], second: Mapping[tuple[str, str], Access]) -> Nodes:
    """Return what either allows."""
    return {at: first.get(at, Access()) | second.get(at, Access()) for at in sorted({*first, *second})}


def to_xml(nodes: Mapping[tuple[str, str], Access]) -> str:
    """Return the policy: an enclave for each node."""
    root = ElementTree.Element("policy", version=VERSION)
    listed = ElementTree.SubElement(root, "enclaves")
    by_enclave: dict[str, list[tuple[str, str]]] = {}
    for at in sorted(nodes):
        by_enclave.setdefault(enclave_of(*at), []).append(at)
    for path, members in sorted(by_enclave.items()):
        enclave = ElementTree.SubElement(listed, "enclave", path=path)
        profiles = ElementTree.SubElement(enclave, "profiles")
        for namespace, name in members:
            profile = ElementTree.SubElement(profiles, "profile", ns=namespace, node=name)
            _add_rights(profile, nodes[namespace, name])
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _add_rights(profile: ElementTree.Element, access: Access) -> None:
    for right, (kind, entry) in ELEMENTS.items():
        names = getattr(access, right)
        if names:
            listed = ElementTree.SubElement(profile, kind, {right: "ALLOW"})
            for used in sorted(names):
                ElementTree.SubElement(listed, entry).text = used


def read_policy(path: Path) -> Nodes:
    """Return what a policy allows that ``to_xml`` wrote; a person may have added to it.

    Raises ``InvalidValueError`` for anything that would be lost on writing it again: a denial, a node in
    another enclave than its own.
    """
    try:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            f"{path} is no policy of SROS 2: {error}; move it, or name another"
        ) from error
    if root.tag != "policy" or root.get("version") != VERSION:
        raise InvalidValueError(
            f"{path}: <{root.tag}> of version {root.get('version')}; expected <policy version={VERSION!r}>"
        )
    found: Nodes = {}
    for enclave in root.iterfind("enclaves/enclave"):
        path_of = enclave.get("path", "")
        for profile in enclave.iterfind("profiles/profile"):
            at = (profile.get("ns", ""), profile.get("node", ""))
            if enclave_of(*at) != path_of or at in found:
                raise InvalidValueError(
                    f"{path}: enclave {path_of!r} holds the node {at[1]!r} of {at[0]!r}; its enclave "
                    f"here is {enclave_of(*at)}, once; write to another file and merge by hand"
                )
            found[at] = _read_profile(profile, path)
    return found


def _read_profile(profile: ElementTree.Element, path: Path) -> Access:
    rights: dict[str, set[str]] = {right: set() for right in ELEMENTS}
    for listed in profile:
        for right, verdict in listed.attrib.items():
            if ELEMENTS.get(right, ("", ""))[0] != listed.tag or verdict != "ALLOW":
                raise InvalidValueError(
                    f"{path}: <{listed.tag} {right}={verdict!r}> of {profile.get('node')} would be lost: "
                    "only what is allowed is written here; write to another file and merge by hand"
                )
            rights[right] |= {(entry.text or "").strip() for entry in listed}
    return Access(**{right: frozenset(names) for right, names in rights.items()})


def _of_a_node(access: Access) -> Access:
    return access | Access(publish=frozenset((LOG, PARAMETERS)), subscribe=frozenset((CLOCK, PARAMETERS)))
