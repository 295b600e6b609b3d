"""Compressed parts of bags, expanded as far as is reasonable and no further.

What a bag says of the size of its parts is not believed: it is counted while they expand. Easy to get wrong: the
libraries that read bags expand whatever they are given, a few kilobytes to gigabytes, so nothing compressed reaches
them uncounted.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard
from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]

from dp_ros.errors import UserError

#: A chunk, or a message, holds a picture or many small things.
MAX_CHUNK_BYTES = 2**29
#: A whole file may be large; nothing that a robot measures shrinks to less than this share of it.
MAX_EXPANSION = 50
_PIECE = 2**20
_LZ4_MOST = 255  # by the format's own making


def zstd_pieces(data: IO[bytes]) -> Iterator[bytes]:
    """What zstd frames one after the other expand to, a piece at a time."""
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as expanding:
        while piece := expanding.read(_PIECE):
            yield piece


def expanded_message(path: Path, data: bytes, limit: int) -> bytes:
    """A message that was compressed by itself.

    Raises:
        UserError: if it has more than `limit` bytes.
    """
    parts, size = [], 0
    for piece in zstd_pieces(io.BytesIO(data)):
        size += len(piece)
        if size > limit:
            raise UserError(
                f"{path}: a message of {len(data)} bytes expands to more than {limit}; reading ended there"
            )
        parts.append(piece)
    return b"".join(parts)


def expand_file(path: Path, file: Path, out: Path, limit: int) -> None:
    """Write what a compressed file of a bag holds.

    Raises:
        UserError: if it has more than `limit` bytes and more than `MAX_EXPANSION` times as many as the file.
    """
    size, most = 0, max(limit, MAX_EXPANSION * file.stat().st_size)
    with file.open("rb") as opened, out.open("xb") as written:
        for piece in zstd_pieces(opened):
            size += len(piece)
            if size > most:
                raise UserError(
                    f"{path}: {file.name} expands from {file.stat().st_size} to more than {most} bytes, which no bag "
                    "does; it was not opened"
                )
            written.write(piece)


def expands_beyond(data: bytes, compression: str, limit: int) -> bool:
    """Whether the content of a chunk has more than `limit` bytes."""
    size = 0
    if compression == "zstd":
        for piece in zstd_pieces(io.BytesIO(data)):
            size += len(piece)
            if size > limit:
                return True
    elif compression == "lz4" and len(data) * _LZ4_MOST > limit:
        expanding, rest = LZ4FrameDecompressor(), data
        while not expanding.eof:
            piece = expanding.decompress(rest, max_length=_PIECE)
            size, rest = size + len(piece), b""
            if size > limit:
                return True
            if not piece and expanding.needs_input:
                return False  # truncated: the library says so
    return False
