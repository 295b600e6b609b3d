"""Bags on the disk: which there are, what they hold, and their messages in the order of arrival.

Read by the `rosbags` package, so that no ROS tool has to be installed, in both storages, of any version, compressed or
not. Messages are handed on as they are stored, so a bag needs no definitions of types, and those of topics that nobody
asks for do not matter. Easy to get wrong: a bag comes from anywhere, so files that its metadata names outside of its
folder and whatever expands beyond reason are refused before anything of it is read, and whatever the library raises
becomes a message for a person.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from rosbags.rosbag2 import Reader

from dp_ros.bridge.bags.expansion import MAX_CHUNK_BYTES, expand_file, expanded_message, expands_beyond
from dp_ros.errors import UserError

FILES = (".mcap", ".db3")
#: Ending of raw bags that were never completed.
UNFINISHED = ".unfinished.mcap"
_MAGIC = b"\x89MCAP0\r\n"
_CHUNK, _CHUNK_INDEX_HEADER = 0x06, struct.Struct("<QQQ")


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
    """Topics of a bag and the types of their messages, joined by "and" where there are several. Raises UserError."""
    found: dict[str, list[str]] = {}
    with _opened(path) as (reader, _):
        for connection in reader.connections:
            kinds = found.setdefault(connection.topic, [])
            if connection.msgtype not in kinds:
                kinds.append(connection.msgtype)
    return {topic: " and ".join(kinds) for topic, kinds in found.items()}


def messages_of(path: Path, topics: Sequence[str]) -> Iterator[tuple[str, bytes, int]]:
    """Topic, content (CDR) and time of arrival, ns, of the messages of some topics. Raises UserError."""
    with _opened(path) as (reader, compressed):
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
                content = expanded_message(path, bytes(data), MAX_CHUNK_BYTES) if compressed else bytes(data)
            yield connection.topic, content, int(time_ns)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Reader, bool]]:
    """A bag, and whether each of its messages is compressed."""
    with contextlib.ExitStack() as stack:
        with _said(path):
            bag, compressed = path, False
            if path.is_dir():
                said = _metadata(path)
                files = _files_of(path, said)
                mode = str(said.get("compression_mode") or "none").lower()
                compressed = mode == "message"
                if mode in ("file", "message") and said.get("compression_format") != "zstd":
                    raise UserError(
                        f"{path}: is compressed as {said.get('compression_format')}, expected zstd; write it anew with "
                        "`ros2 bag convert`"
                    )
                if mode == "file":
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dp_ros_bag_"))
                    bag, files = _expanded(path, said, files, Path(folder))
                elif compressed:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dp_ros_bag_"))
                    bag = _described(Path(folder), said, files)
            else:
                files = [path]
            for file in files:
                if file.suffix == ".mcap":
                    _check_chunks(path, file)
            reader = Reader(bag)
            reader.open()

        def close() -> None:
            with contextlib.suppress(Exception):  # of a bag that is damaged; what was wrong has been said
                reader.close()

        stack.callback(close)
        yield reader, compressed


def _expanded(path: Path, said: dict[str, Any], files: list[Path], folder: Path) -> tuple[Path, list[Path]]:
    """A copy of a bag whose files are compressed, without that."""
    expanded = []
    for file in files:
        out = folder / file.stem
        expand_file(path, file, out, MAX_CHUNK_BYTES)
        expanded.append(out)
    return _described(folder, said, expanded), expanded


def _described(folder: Path, said: dict[str, Any], files: list[Path]) -> Path:
    """A bag of these files in `folder` of which the library is not told that anything is compressed."""
    for file in files:
        if file.parent != folder:
            (folder / file.name).symlink_to(file.resolve())
    plain = {**said, "compression_mode": "", "compression_format": ""}
    plain["relative_file_paths"] = [file.name for file in files]
    text = yaml.safe_dump({"rosbag2_bagfile_information": plain})
    (folder / "metadata.yaml").write_text(text, encoding="utf-8")
    return folder


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


def _metadata(path: Path) -> dict[str, Any]:
    said = yaml.safe_load((path / "metadata.yaml").read_text(encoding="utf-8"))
    return dict(said["rosbag2_bagfile_information"])


def _files_of(path: Path, said: dict[str, Any]) -> list[Path]:
    """Files that a bag's metadata names; all of them in its folder, where the first versions named it, too."""
    names = said["relative_file_paths"]
    files = []
    for name in names:
        file = path / str(name)
        if not file.resolve().is_relative_to(path.resolve()):
            raise UserError(
                f"{path}: metadata.yaml names {name}, which is outside of the bag; it was not opened"
            )
        files.append(file if file.exists() else path / file.name)
    return files


def _check_chunks(path: Path, file: Path) -> None:
    """Refuse an MCAP file whose chunks expand beyond reason (https://mcap.dev/spec, chunk)."""
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
                content = opened.read(length)
                expanded = _CHUNK_INDEX_HEADER.unpack_from(content)[2]
                if expanded > MAX_CHUNK_BYTES:
                    raise UserError(
                        f"{path}: a chunk claims to expand from {length} to {expanded} bytes, more than "
                        f"{MAX_CHUNK_BYTES}; it was not opened"
                    )
                name, data = _compressed(content)
                if expands_beyond(data, name, MAX_CHUNK_BYTES):
                    raise UserError(
                        f"{path}: a chunk expands from {length} to more than {MAX_CHUNK_BYTES} bytes, though it claims "
                        f"{expanded}; it was not opened"
                    )
            at += 9 + length


def _compressed(chunk: bytes) -> tuple[str, bytes]:
    """How the records of a chunk are compressed, and these."""
    at = _CHUNK_INDEX_HEADER.size + 4  # after the sizes and the checksum
    length = int.from_bytes(chunk[at : at + 4], "little")
    name = chunk[at + 4 : at + 4 + length].decode("utf-8", errors="replace")
    return name, chunk[at + 4 + length + 8 :]
