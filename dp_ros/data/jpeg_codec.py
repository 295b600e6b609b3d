"""Pictures stored as JPEG, a file for each, under the name that the imagecodecs package gives this codec.

zarr of any version reads such a recording where `imagecodecs.numcodecs` is registered; here OpenCV does it, so that a
robot needs no further package. Easy to get wrong: encoding what was decoded loses a little again, so episodes are
copied as they are stored, and a picture's chunk holds that picture alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numcodecs
import numpy as np
import zarr
from numcodecs.abc import Codec
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

QUALITY = 95


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as it is stored."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """Size, bytes."""
        return len(self.data)

    def decoded(self) -> NDArray[np.uint8]:
        """The picture (height, width, channels). Raises ValueError if it is none."""
        return JpegCodec().decode(self.data)


#: Rows of an array: values (N, *shape), or pictures as they are stored.
Stored = NDArray[Any] | list[EncodedPicture]


class JpegCodec(Codec):  # type: ignore[misc]
    """JPEG for arrays whose chunks are single pictures (1, height, width, 1 or 3) of bytes.

    The first of three channels is stored as red, whatever it is. Only `level`, the quality, of what imagecodecs can
    be told is known here; recordings of others may say more, and are read all the same.
    """

    codec_id = "imagecodecs_jpeg"

    def __init__(self, level: int | None = None, **others: Any) -> None:
        self.level = QUALITY if level is None else int(level)

    def encode(self, buf: Any) -> bytes:
        """Encode a picture (1, height, width, channels), uint8; all colours are kept at full resolution."""
        picture: NDArray[np.uint8] = np.asarray(buf).reshape(buf.shape[-3:])
        pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.shape[2] == 3 else picture
        settings = [cv2.IMWRITE_JPEG_QUALITY, self.level]
        settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        done, data = cv2.imencode(".jpg", pixels, settings)
        if not done:
            raise ValueError(f"a picture of shape {picture.shape} cannot be encoded as JPEG")
        return bytes(data.tobytes())

    def decode(self, buf: Any, out: Any = None) -> NDArray[np.uint8]:
        """Decode to (height, width, channels), uint8. Raises ValueError if it is no picture."""
        given = np.frombuffer(buf, dtype=np.uint8)
        pixels = cv2.imdecode(given, cv2.IMREAD_UNCHANGED) if given.size else None
        if pixels is None:
            raise ValueError(f"{given.size} bytes are not a JPEG picture")
        decoded = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 else pixels[..., None]
        return np.ascontiguousarray(decoded, dtype=np.uint8)

    def get_config(self) -> dict[str, Any]:
        """What goes into the array's `.zarray`."""
        return {"id": self.codec_id, "level": self.level}


def can_be_jpeg(row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether rows are pictures of bytes with one or three channels; depth stays as it is."""
    return dtype == np.uint8 and len(row_shape) == 3 and row_shape[2] in (1, 3)


numcodecs.register_codec(JpegCodec)


def jpeg_codecs(arrays: Mapping[str, zarr.Array[Any]]) -> dict[str, Codec]:
    """The codec of each array whose rows are stored as JPEG pictures."""
    codecs = {key: array.compressors[0] if array.compressors else None for key, array in arrays.items()}
    return {
        key: codec
        for key, codec in codecs.items()
        if isinstance(codec, Codec) and codec.codec_id == JpegCodec.codec_id and arrays[key].chunks[0] == 1
    }


def stored_rows(array: zarr.Array[Any], start: int, stop: int) -> Stored:
    """Rows `start` to `stop` as they are stored: JPEG pictures are not decoded.

    Raises:
        OSError: if a picture is not there.
    """
    if not jpeg_codecs({"": array}):
        return np.asarray(array[start:stop])
    return [EncodedPicture(_stored(array, f"{row}.0.0.0")) for row in range(start, stop)]


def _stored(array: zarr.Array[Any], chunk: str) -> bytes:
    found = sync(array.store.get(f"{array.path}/{chunk}", prototype=default_buffer_prototype()))
    if found is None:
        raise FileNotFoundError(f"{array.path}/{chunk} is not there")
    return found.to_bytes()
