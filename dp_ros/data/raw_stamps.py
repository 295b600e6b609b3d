"""Header stamps of an MCAP file, read without ROS.

A message that begins with a `std_msgs/Header` has its stamp in the first eight bytes after the four of its encoding
(CDR). Easy to get wrong: which messages begin with one is said by their definition alone.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from mcap.exceptions import McapError
from mcap.reader import make_reader

_HEADER_FIRST = re.compile(r"^(?:\s*(?:#.*)?\n)*\s*(?:std_msgs/)?Header\s")


def stamps_backwards(file: Path) -> dict[str, tuple[int, float]]:
    """Topics whose stamps do not increase: how often, and the worst step, s.

    Raises:
        ValueError: if the file cannot be read.
    """
    last: dict[str, int] = {}
    found: dict[str, tuple[int, float]] = {}
    try:
        with file.open("rb") as opened:
            for schema, channel, message in make_reader(opened).iter_messages():
                if schema is None or not _HEADER_FIRST.match(schema.data.decode("utf-8", errors="replace")):
                    continue
                order = "<" if message.data[1] & 1 else ">"
                seconds, nanoseconds = struct.unpack_from(f"{order}iI", message.data, 4)
                stamp_ns = seconds * 10**9 + nanoseconds
                step_ns = stamp_ns - last.get(channel.topic, stamp_ns - 1)
                last[channel.topic] = stamp_ns
                if step_ns <= 0:
                    times, worst_s = found.get(channel.topic, (0, 0.0))
                    found[channel.topic] = (times + 1, min(worst_s, step_ns / 1e9))
    except (McapError, OSError, struct.error, IndexError, RuntimeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return found
