"""Pictures stored as JPEG, a file for each, under the name that the imagecodecs package gives this codec.

zarr of any version reads such a recording where `imagecodecs.numcodecs` is registered; here OpenCV does it, so that a
robot needs no further package. Easy to get wrong: encoding what was decoded loses a little again, so episodes are
copied as they are stored, and a picture's chunk holds that picture alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numcodecs
import numpy as np
from numcodecs.abc import Codec
from numpy.typing import NDArray

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
