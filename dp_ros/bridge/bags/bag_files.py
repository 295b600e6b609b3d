"""Bags on the disk: which there are, what they hold, and their messages in the order of arrival.

Read by the `rosbags` package, so that no ROS tool has to be installed, in both storages. Easy to get wrong: a bag comes
from anywhere, so files that its metadata names outside of its folder and chunks that claim to expand beyond reason are
refused before anything of it is read, and whatever the library raises becomes a message for a person.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from rosbags.highlevel import AnyReader

from dp_ros.errors import UserError

FILES = (".mcap", ".db3")
#: Ending of raw bags that were never completed.
UNFINISHED = ".unfinished.mcap"
_MAGIC = b"\x89MCAP0\r\n"
_CHUNK, _CHUNK_INDEX_HEADER = 0x06, struct.Struct("<QQQ")
#: A chunk holds a few messages, or one large one.
MAX_CHUNK_BYTES = 2**29


def bags_of(source: Path) -> list[Path]:
    """The bag at `source`, or those in that folder, sorted by name, but what a killed recorder left unfinished.

    Raises:
        UserError: if there is none.
    """
    if source.is_file():
        if source.suffix not in FILES:
            raise UserError(
                f"{source}: expected a bag: a folder with metadata.yaml, or a file ending in .mcap or .db3"
            )
        return [source]
    if (source / "metadata.yaml").is_file():
        return [source]
    found = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    found = [path for path in found if not path.name.endswith(UNFINISHED)]
    found = [
        path
        for path in found
        if (path.is_dir() and (path / "metadata.yaml").is_file()) or (path.is_file() and path.suffix in FILES)
    ]
    if not found:
        raise UserError(
            f"{source}: holds no bag: no folder with metadata.yaml, no file ending in .mcap or .db3"
        )
    return found


def topics_of(path: Path) -> dict[str, str]:
    """Topics of a bag and the types of their messages. Raises UserError."""
    with _opened(path) as reader:
        return {connection.topic: connection.msgtype for connection in reader.connections}


def messages_of(path: Path, topics: Sequence[str]) -> Iterator[tuple[str, bytes, int]]:
    """Topic, content (CDR) and time of arrival, ns, of the messages of some topics. Raises UserError."""
    with _opened(path) as reader:
        chosen = [connection for connection in reader.connections if connection.topic in topics]
        if not chosen:
            return
        messages = reader.messages(chosen)
        while True:
            with _said(path):
                found = next(messages, None)
            if found is None:
                return
            connection, time_ns, data = found
            yield connection.topic, bytes(data), int(time_ns)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[AnyReader]:
    with _said(path):
        files = _files_of(path) if path.is_dir() else [path]
        for file in files:
            if file.suffix == ".mcap":
                _check_chunks(path, file)
        reader = AnyReader([path])
        reader.open()
    try:
        yield reader
    finally:
        with contextlib.suppress(Exception):  # of a bag that is damaged; what was wrong has been said
            reader.close()


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # of three libraries and of Python, depending on which byte is wrong
        raise UserError(
            f"{path}: cannot be read as a bag ({type(error).__name__}: {str(error)[:200]}); if its recording was "
            "broken off, `mcap recover` or `ros2 bag reindex` may mend it"
        ) from error


def _files_of(path: Path) -> list[Path]:
    """Files that a bag's metadata names; all of them in its folder."""
    said = yaml.safe_load((path / "metadata.yaml").read_text(encoding="utf-8"))
    names = said["rosbag2_bagfile_information"]["relative_file_paths"]
    files = []
    for name in names:
        file = path / str(name)
        if not file.resolve().is_relative_to(path.resolve()):
            raise UserError(
                f"{path}: metadata.yaml names {name}, which is outside of the bag; it was not opened"
            )
        files.append(file)
    return files


def _check_chunks(path: Path, file: Path) -> None:
    """Refuse an MCAP file whose chunks claim to expand beyond reason (https://mcap.dev/spec, chunk)."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise UserError(f"{path}: {file.name} is no MCAP file")
        at = len(_MAGIC)
        while at + 9 <= size:
            opened.seek(at)
            head = opened.read(9)
            kind, length = head[0], int.from_bytes(head[1:], "little")
            if length > size - at - 9:
                return  # truncated: the library says so, or stops before it
            if kind == _CHUNK and length >= _CHUNK_INDEX_HEADER.size:
                expanded = _CHUNK_INDEX_HEADER.unpack(opened.read(_CHUNK_INDEX_HEADER.size))[2]
                if expanded > MAX_CHUNK_BYTES:
                    raise UserError(
                        f"{path}: a chunk claims to expand from {length} to {expanded} bytes, more than "
                        f"{MAX_CHUNK_BYTES}; it was not opened"
                    )
            at += 9 + length
