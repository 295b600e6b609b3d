"""Recorded pictures of any encoding as what people look at: RGB bytes, thumbnails, JPEG."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def viewable(picture: npt.NDArray[Any], encoding: str = "rgb8") -> Pixels:
    """A picture (h, w, channels) as RGB bytes (h, w, 3); depth is stretched from its least to its largest value.

    Args:
        picture: of one of the encodings that a task can have.
        encoding: which; of those with three or four channels only the order counts.
    """
    values: npt.NDArray[Any] = picture if picture.ndim == 3 else picture[..., None]
    if values.dtype != np.uint8:
        known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        values = np.nan_to_num((values.astype(np.float64) - low) / max(high - low, 1e-9), nan=0.0, posinf=1.0)
        values = (255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8)
    if values.shape[2] < 3:
        return np.ascontiguousarray(np.repeat(values[..., :1], 3, axis=2))
    colours = values[..., 2::-1] if encoding.startswith("bgr") else values[..., :3]
    return np.ascontiguousarray(colours)


def thumbnail(picture: npt.NDArray[Any], width: int, encoding: str = "rgb8") -> Pixels:
    """The same, scaled to a width."""
    seen = viewable(picture, encoding)
    height = max(round(width * seen.shape[0] / seen.shape[1]), 1)
    small: Any = cv2.resize(seen, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def jpeg(picture: npt.NDArray[Any], encoding: str = "rgb8", quality: int = 85) -> bytes:
    """A picture as JPEG, for showing; nothing that is learnt from."""
    bgr = cv2.cvtColor(viewable(picture, encoding), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} cannot be encoded as JPEG")
    return bytes(data.tobytes())
