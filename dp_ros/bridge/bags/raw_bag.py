"""The messages of one episode as they came, each stream at its own rate, in an MCAP file beside the recording.

Written by a thread of its own while the episode is recorded. The file has a hidden name until it is complete and on
the disk; one that a killed recorder left is renamed by `set_aside_unfinished` and stays readable up to its last chunk.
Easy to get wrong: what the disk does not take in time may not pile up in memory, nor may messages be left out in
silence, so a bag that falls behind says so and ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mcap.writer import CompressionType, Writer

from dp_ros.bridge.bags.bag_files import UNFINISHED
from dp_ros.data.durable_store import PARTIAL, sync_folder

#: Messages that wait for the disk may take so much memory.
WAITING_BYTES = 2**27
_CHUNK_BYTES = 2**20
SUFFIX = ".mcap"


class BagProblem(Exception):
    """A bag that cannot be made, completed, or take any more messages."""


@dataclass(frozen=True)
class RawMessage:
    """A message as it came.

    Attributes:
        topic: on which.
        data: serialised (CDR).
        log_ns: when it was received, ns. publish_ns: when it was sent, ns.
        sequence: its publisher's number for it, modulo 2**32; a number that is missing was lost on the way.
    """

    topic: str
    data: bytes
    log_ns: int
    publish_ns: int
    sequence: int


class RawBag:
    """A bag that is being written.

    Args:
        folder: where; made if it is not there.
        topics: type and definition of the messages of each topic.

    Raises:
        BagProblem: if the file cannot be made.
    """

    def __init__(self, folder: Path, topics: Mapping[str, tuple[str, str]]) -> None:
        name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%fZ") + SUFFIX
        self.path = folder / name
        """Where it is once it is saved."""
        self._partial = folder / f".{name}{PARTIAL}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("xb")
        except OSError as error:
            raise BagProblem(f"raw messages cannot be recorded: {error}") from error
        self._writer = Writer(self._file, chunk_size=_CHUNK_BYTES, compression=CompressionType.LZ4)
        self._writer.start(profile="ros2", library="dp_ros")
        self._channels: dict[str, int] = {}
        for topic, (kind, definition) in topics.items():
            schema = self._writer.register_schema(kind, "ros2msg", definition.encode())
            self._channels[topic] = self._writer.register_channel(
                topic, "cdr", schema, {"offered_qos_profiles": ""}
            )
        self._waiting: deque[RawMessage] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._ending = False
        self._problem = ""
        self._saved = False
        self._thread = threading.Thread(target=self._run, name="raw bag", daemon=True)
        self._thread.start()

    def put(self, message: RawMessage) -> None:
        """Hand a message over, never waiting.

        Raises:
            BagProblem: if the disk refused an earlier one, or cannot keep up. The bag takes no more then.
        """
        with self._changed:
            if not self._problem and self._waiting_bytes + len(message.data) > WAITING_BYTES:
                self._problem = (
                    f"{self.path}: the disk cannot keep up with the messages, {self._waiting_bytes / 1e6:.0f} MB "
                    "wait; record fewer raw streams or to a faster disk"
                )
            if self._problem:
                raise BagProblem(self._problem)
            self._waiting.append(message)
            self._waiting_bytes += len(message.data)
            self._changed.notify()

    def save(self) -> Path:
        """Write what waits, complete the file and give it its name; can be repeated.

        Raises:
            BagProblem: if it is not complete. The file is kept as `set_aside_unfinished` names it.
        """
        if self._saved:
            return self.path
        self._end()
        if not self._problem:
            try:
                self._writer.finish()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.rename(self._partial, self.path)
                sync_folder(self.path.parent)
            except OSError as error:
                self._problem = f"{self.path}: {error}"
        if self._problem:
            self._close()
            kept = set_aside_unfinished(self.path.parent)
            raise BagProblem(f"{self._problem}; what there is of it is in {', '.join(map(str, kept))}")
        self._saved = True
        return self.path

    def discard(self) -> None:
        """Forget all of it, saved or not."""
        self._end(drop=True)
        self._close()
        self._partial.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _end(self, *, drop: bool = False) -> None:
        with self._changed:
            self._ending = True
            if drop:
                self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # a disk that is full takes the last bytes no better than others
            self._file.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    return
                message = self._waiting.popleft()
            try:
                self._writer.add_message(
                    self._channels[message.topic],
                    message.log_ns,
                    message.data,
                    message.publish_ns,
                    message.sequence % 2**32,
                )
            except Exception as error:  # also of what cannot be stored, such as a time before 1970
                with self._changed:
                    self._problem = f"{self.path}: {error}"
                    self._waiting.clear()
                    self._waiting_bytes = 0
                return
            with self._changed:
                self._waiting_bytes -= len(message.data)


def set_aside_unfinished(folder: Path) -> list[Path]:
    """Give bags that were never completed names that people see, and return these."""
    kept = []
    for partial in sorted(folder.glob(f".*{SUFFIX}{PARTIAL}")):
        name = partial.name.removeprefix(".").removesuffix(f"{SUFFIX}{PARTIAL}")
        kept.append(partial.rename(folder / f"{name}{UNFINISHED}"))
    return kept
