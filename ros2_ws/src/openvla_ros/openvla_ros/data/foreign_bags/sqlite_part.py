"""The messages of one ``.db3`` file, as rosbag2 of every release lays it out.

Tables ``topics`` and ``messages`` are in all of them; definitions of types (``message_definitions``) since
Iron. SQLite files carry no checksums: what is verified is that the database is whole. ``rosbags`` cannot be
used here: it gives up on a whole bag for one type whose definition the recorder did not find, and does
not see messages that still wait in a ``-wal`` file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote

from openvla_ros.data.foreign_bags.recording_files import count_offers
from openvla_ros.data.foreign_bags.stored_message import RecordedTopic, StoredMessage
from openvla_ros.errors import DatasetError
from openvla_ros.integrity.checksums import say_unverified, verify


class SqlitePart:
    """One database, open for reading; raises ``DatasetError`` if it is damaged or was not finished."""

    def __init__(self, path: Path, name: str, number: int) -> None:
        self._number = number
        self.name = name
        for ending in ("-wal", "-journal"):
            rest = path.with_name(path.name + ending)
            if rest.is_file() and rest.stat().st_size:
                raise DatasetError(
                    f"{rest} holds changes that are not in {path.name} yet (a killed recorder). Copy both "
                    f"and run: sqlite3 {path.name} 'PRAGMA wal_checkpoint'"
                )
        if not verify(path):
            say_unverified(name, "a SQLite file carries no checksums")
        self._database = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True)
        try:
            self.topics = self._read_topics()
        except sqlite3.Error as error:
            self.close()
            raise DatasetError(f"{name} is damaged or not a rosbag2 database: {error}") from error
        except DatasetError:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the file."""
        return ()

    def _read_topics(self) -> list[RecordedTopic]:
        ((state,),) = self._database.execute("PRAGMA quick_check(1)").fetchall()
        if state != "ok":
            raise DatasetError(f"{self.name} is damaged: {state}")
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(topics)")}
        if not columns:
            raise DatasetError(f"{self.name} is not a rosbag2 database: it has no table 'topics'")
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        definitions = self._definitions()
        counts = dict(self._database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
        self._ids: dict[int, str] = {}
        found = []
        rows = self._database.execute(f"SELECT id, name, type, serialization_format, {qos} FROM topics")
        for number, topic, kind, encoding, offers in rows:
            self._ids[number] = topic
            form, text = definitions.get(kind, ("", ""))
            found.append(
                RecordedTopic(topic, kind, form, text, encoding, counts.pop(number, 0), count_offers(offers))
            )
        if counts:
            raise DatasetError(f"{self.name} holds messages of topics that it does not list")
        return found

    def _definitions(self) -> dict[str, tuple[str, str]]:
        """Return type → encoding and text of its definition."""
        tables = {
            row[0] for row in self._database.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
        if "message_definitions" not in tables:
            return {}
        rows = self._database.execute(
            "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        )
        return {kind: (encoding, text) for kind, encoding, text in rows}

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """The first and the last receipt of all topics; None if there is no message."""
        ((first, last),) = self._database.execute("SELECT min(timestamp), max(timestamp) FROM messages")
        return None if first is None else (int(first), int(last))

    def messages(self, topics: Collection[str], start_ns: int, stop_ns: int) -> Iterator[StoredMessage]:
        """Yield the messages of ``topics`` received within ``start_ns`` .. ``stop_ns``, both included."""
        numbers = [number for number, topic in self._ids.items() if topic in topics]
        places = ", ".join("?" * len(numbers))
        query = (
            "SELECT id, topic_id, timestamp, data FROM messages "
            f"WHERE topic_id IN ({places}) AND timestamp BETWEEN ? AND ? ORDER BY timestamp, id"
        )
        try:
            for row, topic, at_ns, data in self._database.execute(query, (*numbers, start_ns, stop_ns)):
                yield StoredMessage(self._ids[topic], (self._number, topic, row), at_ns, at_ns, bytes(data))
        except sqlite3.Error as error:
            raise DatasetError(f"{self.name} is damaged: {error}") from error
