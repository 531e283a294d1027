"""Reads what ``openvla view`` made with the viewers' own readers; prints one line of JSON.

Run by ``tools/peers/viewers.py`` with the Python of an environment that has rerun-sdk, foxglove-sdk,
mcap-protobuf-support and websockets.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

S = 1_000_000_000
PLACES = {
    "joints": "/joints/measured",
    "commanded": "/joints/commanded",
    "probabilities": "/probability/policy",
}
VERDICTS, IMAGES = "/log/verdict", "/camera/primary"


def versions() -> dict:
    """Return the versions of the viewers' packages."""
    return {"rerun": version("rerun-sdk"), "foxglove": version("foxglove-sdk"), "openvla view": ""}


def rrd(path: str) -> dict:
    """Return the rows of an .rrd file, by rerun's chunk reader."""
    from rerun.chunk import RrdReader

    columns = dict.fromkeys(PLACES.values(), "Scalars:scalars")
    columns |= {VERDICTS: "TextLog:text", IMAGES: "EncodedImage:blob"}
    found: dict[str, list] = {place: [] for place in columns}
    for chunk in RrdReader(path).stream():
        place = str(chunk.entity_path)
        if place not in columns or chunk.is_static:
            continue
        batch = chunk.to_record_batch()
        received, stamps = (batch.column(name).cast("int64").to_pylist() for name in ("received", "stamp"))
        for row in zip(received, stamps, batch.column(columns[place]).to_pylist(), strict=True):
            found[place].append(row)
    rows = {name: sorted(found[place]) for name, place in PLACES.items()}
    rows["verdicts"] = sorted((r, s, text[0]) for r, s, text in found[VERDICTS])
    rows["images"] = sorted((r, s, digest(bytes(blob[0]))) for r, s, blob in found[IMAGES])
    return rows


def digest(data: bytes) -> str:
    """Return what images are compared by."""
    return hashlib.sha256(data).hexdigest()


class Decoded:
    """Collects messages of Foxglove by topic: JSON as it is, protobuf by the schema that comes with it."""

    def __init__(self) -> None:
        self.rows: dict[str, list] = {name: [] for name in (*PLACES, "verdicts", "images")}

    def add(self, topic: str, received_ns: int, encoding: str, message: object) -> None:
        """Keep the message if its topic is compared."""
        place = {at: name for name, at in PLACES.items()}.get(topic)
        if place:
            values = [value for key, value in message.items() if key != "timestamp"]
            stamp = message["timestamp"]["sec"] * S + message["timestamp"]["nsec"]
            self.rows[place].append((received_ns, stamp, values))
        elif topic in (VERDICTS, IMAGES):
            stamp = message.timestamp.seconds * S + message.timestamp.nanos
            if topic == VERDICTS:
                self.rows["verdicts"].append((received_ns, stamp, message.message))
            else:
                self.rows["images"].append((received_ns, stamp, digest(message.data)))


def mcap(path: str) -> dict:
    """Return the rows of an .mcap file, by the mcap library and the schemas in the file."""
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    found = Decoded()
    factory = DecoderFactory()
    with Path(path).open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            found.add(
                channel.topic,
                message.log_time,
                channel.message_encoding,
                decode(factory, schema, channel, message.data),
            )
    return found.rows


def decode(factory: object, schema: object, channel: object, data: bytes) -> object:
    """Return a message as a dictionary or as protobuf's own object."""
    if channel.message_encoding == "json":
        return json.loads(data)
    return factory.decoder_for(channel.message_encoding, schema)(data)


def layout(path: str) -> dict:
    """Return the layout that an .mcap file carries."""
    from mcap.reader import make_reader

    with Path(path).open("rb") as file:
        return json.loads(next(iter(make_reader(file).iter_attachments())).data)


def websocket(port: str, seconds: str) -> dict:
    """Subscribe to every channel of a Foxglove server, as Foxglove does, and return what came."""
    import base64

    from mcap.records import Channel, Schema
    from mcap_protobuf.decoder import DecoderFactory
    from websockets.sync.client import connect

    found, factory, channels = Decoded(), DecoderFactory(), {}
    end = time.monotonic() + 60.0
    while True:
        try:
            server = connect(f"ws://127.0.0.1:{port}", subprotocols=["foxglove.sdk.v1"], max_size=None)
            socket = server.__enter__()
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
    assert socket.subprotocol == "foxglove.sdk.v1"
    info = json.loads(socket.recv(timeout=10))
    assert info["op"] == "serverInfo", info
    end = time.monotonic() + float(seconds)
    while (left := end - time.monotonic()) > 0:
        try:
            message = socket.recv(timeout=left)
        except TimeoutError:
            break
        if isinstance(message, str):
            said = json.loads(message)
            if said["op"] != "advertise":
                continue
            for c in said["channels"]:
                data = c["schema"].encode()
                if c.get("schemaEncoding") == "protobuf":
                    data = base64.b64decode(c["schema"])
                schema = Schema(c["id"], data, c.get("schemaEncoding", ""), c["schemaName"])
                channels[c["id"]] = (
                    c["topic"],
                    c["encoding"],
                    schema,
                    Channel(c["id"], c["topic"], c["encoding"], {}, c["id"]),
                )
            wanted = [{"id": c["id"], "channelId": c["id"]} for c in said["channels"]]
            socket.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))
        elif message[0] == 1:
            number, log_ns = struct.unpack_from("<IQ", message, 1)
            topic, encoding, schema, channel = channels[number]
            found.add(topic, log_ns, encoding, decode(factory, schema, channel, message[13:]))
    server.__exit__(None, None, None)
    return {**found.rows, "topics": sorted(topic for topic, *_ in channels.values()), "server": info["name"]}


def urdf(path: str, base: str, positions: str) -> dict:
    """Return the pose of each link in the base link, as rerun's own reader of URDFs has it."""
    import numpy as np
    from rerun.urdf import UrdfTree

    tree = UrdfTree.from_file_path(path)
    values = json.loads(positions)
    placed = {base: np.eye(4)}
    joints = list(tree.joints())
    while True:
        new = [j for j in joints if j.parent_link in placed and j.child_link not in placed]
        if not new:
            return {link: matrix.tolist() for link, matrix in placed.items()}
        for joint in new:
            placed[joint.child_link] = placed[joint.parent_link] @ joint_matrix(joint, values)


def joint_matrix(joint: object, values: dict) -> object:
    """Return the child link's pose in its parent, as rerun computes it."""
    import numpy as np

    value = values.get(joint.name, 0.0)
    if joint.mimic is not None:  # rerun gives such a joint no value of its own
        leader = values.get(joint.mimic.joint, 0.0)
        value = leader * joint.mimic.multiplier + joint.mimic.offset
    transform = joint.compute_transform(value, clamp=False)
    matrix = np.eye(4)
    matrix[:3, 3] = np.array(transform.translation.as_arrow_array().to_pylist()[0])
    x, y, z, w = transform.quaternion.as_arrow_array().to_pylist()[0]
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return matrix


def page(data_port: str, web_port: str) -> dict:
    """Return what rerun's page is, and on which addresses the two ports are listened to."""
    end = time.monotonic() + 60.0
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{web_port}/", timeout=5) as reply:
                html = reply.read()
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
    return {"html": b"Rerun" in html, "bytes": len(html), "addresses": listening(data_port, web_port)}


def served(data_port: str, own_port: str, file: str) -> dict:
    """Return the rows that a server of rerun hands to those who connect, by rerun's own program."""
    import os
    import signal
    import subprocess

    import rerun_cli

    program = Path(rerun_cli.__file__).with_name("rerun")
    command = [program, "--bind", "127.0.0.1", "--port", own_port, "--save", file]
    process = subprocess.Popen(
        [*command, f"rerun+http://127.0.0.1:{data_port}/proxy"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RERUN_APP_ONLY": "true"},
    )
    time.sleep(10.0)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    return rrd(file)


def picture(port: str, data_port: str, file: str) -> dict:
    """Return how many colours the page has in a real browser, which draws it without a GPU."""
    import base64
    import subprocess
    import tempfile
    from urllib.parse import quote

    from websockets.sync.client import connect

    address = f"http://127.0.0.1:{port}/?url={quote(f'rerun+http://127.0.0.1:{data_port}/proxy', safe='')}"
    switches = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--remote-debugging-port=0", *switches,
             f"--user-data-dir={folder}", "--window-size=1600,1000", address],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            told = Path(folder) / "DevToolsActivePort"
            end = time.monotonic() + 60.0
            while not (told.is_file() and told.read_text()) and time.monotonic() < end:
                time.sleep(0.2)
            browser = told.read_text().split()[0]
            time.sleep(30.0)  # the page loads 40 MB, and compiles them
            with urllib.request.urlopen(f"http://127.0.0.1:{browser}/json", timeout=30) as reply:
                pages = [page for page in json.load(reply) if page["type"] == "page"]
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
                socket.send(json.dumps({"id": 1, "method": "Page.captureScreenshot"}))
                while (said := json.loads(socket.recv(timeout=60))).get("id") != 1:
                    continue
        finally:
            process.terminate()
            process.wait(30)
    Path(file).write_bytes(base64.b64decode(said["result"]["data"]))
    from PIL import Image

    image = Image.open(file).convert("RGB")
    return {"size": image.size, "colours": len(image.getcolors(1 << 24))}


def listening(*ports: str) -> list[str]:
    """Return the addresses on which this machine listens at ``ports``, by Linux's own table."""
    found = set()
    for line in (
        Path("/proc/net/tcp").read_text().splitlines()[1:]
        + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    ):
        local, state = line.split()[1], line.split()[3]
        address, port = local.split(":")
        if state == "0A" and str(int(port, 16)) in ports:
            found.add(".".join(str(b) for b in bytes.fromhex(address)[::-1]))
    return sorted(found)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
