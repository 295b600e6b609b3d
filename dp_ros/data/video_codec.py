"""Pictures stored as video: each chunk of an array holds the H.264 packets of its rows.

    segment   I P P P P P ...      a picture that stands by itself and those that follow from it, one packet each
    chunk     [segment] [segment] [segment, from its k-th picture on]

A segment never reaches from one episode into the next, and never changes once it is written: rows are added to a chunk
by adding packets, and episodes are copied without being encoded again. Where a copy begins elsewhere in its chunk than
the original, a segment may lie in two chunks; the second one says which of its pictures are its own. Easy to get wrong:
a picture is nothing without those before it in its segment, so whatever breaks the order of rows begins a new one.

zarr reads such an array where this module has been imported; other programs need a copy (`dp-ros data export`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numcodecs
import numpy as np
from numcodecs.abc import Codec
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
#: As x264 counts it: 1 is hardly any loss, 51 the most.
MAX_CRF = 51
#: Rows of a chunk, and with that pictures of a segment: what has to be decoded for one of them.
ROWS = 16
_CHUNK_BYTES = 2**26
_MOST_BYTES = 2**30  # of a decoded chunk; the file of somebody else may claim any
_HEAD, _PART = struct.Struct("<4sHHBH"), struct.Struct("<HH")
_MAGIC = b"DPV1"
#: By channels: what is encoded, then as what decoders give it back; of one channel the first plane counts.
_FORMATS = {3: ("yuv444p", "yuvj444p"), 1: ("gray", "yuvj420p", "yuv420p")}


@dataclass
class Segment:
    """Pictures that follow from each other: a packet for each, the first stands by itself."""

    packets: list[bytes]
    height: int
    width: int
    channels: int


@dataclass(frozen=True)
class EncodedFrame:
    """A picture as it is stored: the `index`-th of its segment."""

    segment: Segment
    index: int

    @property
    def nbytes(self) -> int:
        """Size of its packet, bytes."""
        return len(self.segment.packets[self.index])

    def decoded(self) -> Pixels:
        """The picture (height, width, channels). Raises ValueError if it is none."""
        return _decoded(self.segment, self.index + 1)[-1]


class FrameEncoder:
    """Encodes pictures one by one.

    Args:
        crf: quality, 1 to 51.
        rows: of a chunk; a segment ends with its chunk.
    """

    def __init__(self, crf: int, rows: int) -> None:
        self._crf, self._rows = crf, rows
        self._next: int | None = None  # row that would go on with the segment
        self._codec: Any = None
        self._segment: Segment | None = None

    def encode(self, picture: Pixels, row: int) -> EncodedFrame:
        """Encode the picture (height, width, 1 or 3) of a row; any row but the one after the last begins anew."""
        if row != self._next or row % self._rows == 0 or self._segment is None:
            self._begin(picture)
        assert self._segment is not None
        self._next = None  # unless it succeeds
        index = len(self._segment.packets)
        frame = _as_frame(picture)
        frame.pts = index
        packets = self._codec.encode(frame)
        if len(packets) != 1:
            raise ValueError(f"the video encoder gave {len(packets)} packets for a picture, expected one")
        self._segment.packets.append(bytes(packets[0]))
        self._next = row + 1
        return EncodedFrame(self._segment, index)

    def restart(self) -> None:
        """Begin anew with the next picture."""
        self._next = None

    def _begin(self, picture: Pixels) -> None:
        import av

        height, width, channels = picture.shape
        codec: Any = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, _FORMATS[channels][0]
        codec.time_base, codec.thread_count = Fraction(1, 30), 1
        # The full range of BT.601, as JPEG has it.
        codec.color_range, codec.colorspace = 2, 5
        codec.options = {
            "crf": str(self._crf),
            "preset": "veryfast",
            "tune": "zerolatency",
            "bf": "0",
            "g": "100000",
            "x264-params": "scenecut=0",
        }
        self._codec, self._segment = codec, Segment([], height, width, channels)


class VideoCodec(Codec):  # type: ignore[misc]
    """Video for arrays whose chunks are some pictures (rows, height, width, 1 or 3) of bytes.

    Args:
        crf: quality of what is encoded.
        rows: of a chunk.
    """

    codec_id = "dp_ros_video"

    def __init__(self, crf: int, rows: int = ROWS) -> None:
        self.crf, self.rows = int(crf), int(rows)

    def encode(self, buf: Any) -> bytes:
        """Encode pictures (rows, height, width, channels), uint8, as one segment."""
        encoder = FrameEncoder(self.crf, self.rows)
        return packed([encoder.encode(picture, row) for row, picture in enumerate(np.asarray(buf))])

    def decode(self, buf: Any, out: Any = None) -> Pixels:
        """Decode to (rows, height, width, channels), uint8; rows that are not there are 0.

        Raises:
            ValueError: if the chunk is damaged.
        """
        frames = unpacked(bytes(buf))
        first = frames[0].segment
        shape = (self.rows, first.height, first.width, first.channels)
        if len(frames) > self.rows or np.prod(shape, dtype=np.float64) > _MOST_BYTES:
            raise ValueError(f"a chunk of {self.rows} rows holds {len(frames)} pictures of {shape[1:]}")
        pictures = np.zeros(shape, np.uint8)
        row = 0
        while row < len(frames):
            segment, begin = frames[row].segment, frames[row].index
            decoded = _decoded(segment, len(segment.packets))[begin:]
            pictures[row : row + len(decoded)] = decoded
            row += len(decoded)
        return pictures

    def get_config(self) -> dict[str, Any]:
        """What goes into the array's `.zarray`."""
        return {"id": self.codec_id, "crf": self.crf, "rows": self.rows}


numcodecs.register_codec(VideoCodec)


def chunk_rows_of_video(row_shape: Sequence[int]) -> int:
    """Rows of a chunk of pictures (height, width, channels)."""
    return max(1, min(ROWS, _CHUNK_BYTES // int(np.prod(row_shape))))


def packed(frames: Sequence[EncodedFrame]) -> bytes:
    """A chunk of these pictures, which are of one size."""
    parts: list[tuple[int, list[bytes]]] = []
    for frame in frames:
        packets = frame.segment.packets
        if frame.index and parts and parts[-1][1] == packets[: frame.index]:
            parts[-1][1].append(packets[frame.index])
        else:
            parts.append((frame.index, packets[: frame.index + 1]))
    first = frames[0].segment
    head = _HEAD.pack(_MAGIC, first.height, first.width, first.channels, len(parts))
    sizes = [
        _PART.pack(begin, len(packets)) + struct.pack(f"<{len(packets)}I", *map(len, packets))
        for begin, packets in parts
    ]
    return head + b"".join(sizes) + b"".join(packet for _, packets in parts for packet in packets)


def unpacked(chunk: bytes) -> list[EncodedFrame]:
    """Pictures of a chunk, at least one. Raises ValueError if it is damaged."""
    try:
        magic, height, width, channels, n_parts = _HEAD.unpack_from(chunk)
        if magic != _MAGIC or channels not in _FORMATS or not n_parts:
            raise ValueError(f"{len(chunk)} bytes are not a chunk of video")
        at, parts = _HEAD.size, []
        for _ in range(n_parts):
            begin, count = _PART.unpack_from(chunk, at)
            parts.append((begin, struct.unpack_from(f"<{count}I", chunk, at + _PART.size)))
            at += _PART.size + 4 * count
    except struct.error:
        raise ValueError(f"{len(chunk)} bytes are not a chunk of video") from None
    frames = []
    for begin, sizes in parts:
        segment = Segment([], height, width, channels)
        for size in sizes:
            segment.packets.append(chunk[at : at + size])
            at += size
        frames += [EncodedFrame(segment, index) for index in range(begin, len(sizes))]
        if begin >= len(sizes):
            raise ValueError("a segment of the chunk has none of its pictures")
    if at != len(chunk):
        raise ValueError(f"a chunk of video has {len(chunk)} bytes, it says {at}")
    return frames


def _decoded(segment: Segment, count: int) -> list[Pixels]:
    """The first `count` pictures of a segment. Raises ValueError if one is damaged."""
    import av

    try:
        codec: Any = av.CodecContext.create("h264", "r")
        codec.thread_count = 1
        codec.options = {"max_pixels": str((segment.height + 64) * (segment.width + 64))}
        found = [frame for packet in segment.packets[:count] for frame in codec.decode(av.Packet(packet))]
        found += codec.decode(None)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"a picture of the video cannot be decoded: {error}") from error
    for frame in found:
        given = (frame.height, frame.width, frame.format.name)
        if given[:2] != (segment.height, segment.width) or given[2] not in _FORMATS[segment.channels]:
            raise ValueError(
                f"a picture of the video is {given}, expected {segment.height} x {segment.width}"
            )
    if len(found) != count:
        raise ValueError(f"{len(found)} of {count} pictures of the video can be decoded")
    return [_as_picture(frame, segment.channels) for frame in found]


def _as_frame(picture: Pixels) -> Any:
    import av

    height, width, channels = picture.shape
    frame = av.VideoFrame(width, height, _FORMATS[channels][0])
    planes = picture if channels == 1 else cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)[..., (0, 2, 1)]
    for index in range(channels):
        plane = frame.planes[index]
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :width] = planes[..., index]
    return frame


def _as_picture(frame: Any, channels: int) -> Pixels:
    planes = np.empty((frame.height, frame.width, channels), np.uint8)
    for index in range(channels):
        plane = frame.planes[index]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        planes[..., index] = rows[: frame.height, : frame.width]
    if channels == 1:
        return planes
    return np.asarray(
        cv2.cvtColor(np.ascontiguousarray(planes[..., (0, 2, 1)]), cv2.COLOR_YCrCb2RGB), np.uint8
    )
