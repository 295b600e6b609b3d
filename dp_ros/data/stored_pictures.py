"""How the pictures of a recording are stored: lossless, each as JPEG, or as video; and rows as they are stored.

Easy to get wrong: what is encoded loses a little each time, so episodes go from one recording into another as they are
stored wherever both store pictures in the same way, and are decoded only where they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import zarr
from numcodecs.abc import Codec
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from dp_ros.data.durable_store import DurableStore
from dp_ros.data.jpeg_codec import QUALITY, EncodedPicture, JpegCodec
from dp_ros.data.video_codec import MAX_CRF, EncodedFrame, FrameEncoder, VideoCodec, packed, unpacked
from dp_ros.errors import UserError

Encoded = EncodedPicture | EncodedFrame
#: Rows of an array: values (N, *shape), or pictures as they are stored.
Stored = NDArray[Any] | Sequence[Encoded]


@dataclass(frozen=True)
class PictureStorage:
    """How the pictures of a new recording are stored; lossless if neither is given.

    Attributes:
        jpeg_quality: each as JPEG of this quality, 1 to 100.
        video_crf: as video of this constant rate factor, 1 to 51: less is better.

    Raises:
        UserError: for values that are none, and if both are given.
    """

    jpeg_quality: int | None = None
    video_crf: int | None = None

    def __post_init__(self) -> None:
        if self.jpeg_quality is not None and self.video_crf is not None:
            raise UserError(
                f"pictures are stored as JPEG (quality {self.jpeg_quality}) or as video (crf {self.video_crf}), not "
                "as both"
            )
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise UserError(f"JPEG quality: got {self.jpeg_quality}, expected 1 to 100")
        if self.video_crf is not None and not 1 <= self.video_crf <= MAX_CRF:
            raise UserError(f"video crf: got {self.video_crf}, expected 1 to {MAX_CRF}")

    @property
    def kind(self) -> str:
        """lossless, JPEG or video."""
        return (
            "JPEG" if self.jpeg_quality is not None else "video" if self.video_crf is not None else "lossless"
        )

    def __str__(self) -> str:
        if self.jpeg_quality is not None:
            return f"JPEG of quality {self.jpeg_quality}"
        return "lossless" if self.video_crf is None else f"video of crf {self.video_crf}"


LOSSLESS = PictureStorage()


def storage_of(arrays: Mapping[str, zarr.Array[Any]]) -> PictureStorage:
    """How the pictures of these arrays are stored."""
    for codec in encoding_codecs(arrays).values():
        if isinstance(codec, JpegCodec):
            return PictureStorage(jpeg_quality=min(max(codec.level or QUALITY, 1), 100))
        return PictureStorage(video_crf=min(max(codec.crf, 1), MAX_CRF))
    return LOSSLESS


def encoding_codecs(arrays: Mapping[str, zarr.Array[Any]]) -> dict[str, JpegCodec | VideoCodec]:
    """The codec of each array whose rows are encoded pictures."""
    codecs = {key: array.compressors[0] if array.compressors else None for key, array in arrays.items()}
    found: dict[str, JpegCodec | VideoCodec] = {}
    for key, codec in codecs.items():
        rows = 1 if isinstance(codec, JpegCodec) else codec.rows if isinstance(codec, VideoCodec) else None
        if isinstance(codec, JpegCodec | VideoCodec) and arrays[key].chunks[0] == rows:
            found[key] = codec
    return found


class PictureRows(Protocol):
    """Writes the pictures of one array."""

    def takes(self, value: Encoded) -> bool:
        """Whether a picture can be stored as it is stored elsewhere."""

    def encode(self, picture: NDArray[np.uint8], row: int) -> Encoded:
        """Encode the picture (height, width, channels) of a row."""

    def restart(self) -> None:
        """The next row is the first of an episode."""

    def write(self, store: DurableStore, path: str, start: int, values: Sequence[Any]) -> None:
        """Put rows from `start` on into the array at `path`; those before them stay, those after do not."""


class JpegRows:
    """A file for each picture."""

    def __init__(self, codec: JpegCodec) -> None:
        self._codec = codec

    def takes(self, value: Encoded) -> bool:
        """See `PictureRows`."""
        return isinstance(value, EncodedPicture)

    def encode(self, picture: NDArray[np.uint8], row: int) -> Encoded:
        """See `PictureRows`."""
        return EncodedPicture(self._codec.encode(picture))

    def restart(self) -> None:
        """See `PictureRows`."""

    def write(self, store: DurableStore, path: str, start: int, values: Sequence[EncodedPicture]) -> None:
        """See `PictureRows`."""
        for row, value in enumerate(values, start=start):
            store.write(f"{path}/{row}.0.0.0", value.data)


class VideoRows:
    """A file for some pictures, to which more are added."""

    def __init__(self, codec: VideoCodec) -> None:
        self._rows, self._encoder = codec.rows, FrameEncoder(codec.crf, codec.rows)

    def takes(self, value: Encoded) -> bool:
        """See `PictureRows`."""
        return isinstance(value, EncodedFrame)

    def encode(self, picture: NDArray[np.uint8], row: int) -> Encoded:
        """See `PictureRows`."""
        return self._encoder.encode(picture, row)

    def restart(self) -> None:
        """See `PictureRows`."""
        self._encoder.restart()

    def write(self, store: DurableStore, path: str, start: int, values: Sequence[EncodedFrame]) -> None:
        """See `PictureRows`."""
        stop = start + len(values)
        for chunk in range(start // self._rows, (stop - 1) // self._rows + 1):
            name, begin = f"{path}/{chunk}.0.0.0", chunk * self._rows
            there: list[EncodedFrame] = []
            if begin < start:
                there = unpacked((store.root / name).read_bytes())[: start - begin]
                if len(there) < start - begin:
                    raise OSError(
                        f"{name} has {len(there)} pictures, expected {start - begin}; it is damaged"
                    )
            new = values[max(begin - start, 0) : begin + self._rows - start]
            store.write(name, packed([*there, *new]))


def picture_rows(codec: Codec) -> PictureRows:
    """What writes the pictures of an array with this codec."""
    return JpegRows(codec) if isinstance(codec, JpegCodec) else VideoRows(codec)


def stored_rows(array: zarr.Array[Any], start: int, stop: int) -> Stored:
    """Rows `start` to `stop` as they are stored: pictures are not decoded.

    Raises:
        OSError: if a file is not there.
        ValueError: if one holds less than it should.
    """
    codec = encoding_codecs({"": array}).get("")
    if codec is None:
        return np.asarray(array[start:stop])
    if isinstance(codec, JpegCodec):
        return [EncodedPicture(_stored(array, row)) for row in range(start, stop)]
    frames: list[EncodedFrame] = []
    for chunk in range(start // codec.rows, -(-stop // codec.rows)):
        begin = chunk * codec.rows
        last = min(stop - begin, codec.rows)
        there = unpacked(_stored(array, chunk))[:last]
        if len(there) < last:
            raise ValueError(f"{array.path}/{chunk}.0.0.0 has {len(there)} pictures, expected {last}")
        frames += there[max(start - begin, 0) :]
    return frames


def _stored(array: zarr.Array[Any], chunk: int) -> bytes:
    found = sync(array.store.get(f"{array.path}/{chunk}.0.0.0", prototype=default_buffer_prototype()))
    if found is None:
        raise FileNotFoundError(f"{array.path}/{chunk}.0.0.0 is not there")
    return found.to_bytes()
