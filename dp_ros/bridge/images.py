"""Images from ROS messages, in the encoding that a policy wants.

The common encodings are converted here, as a view of the message's bytes where nothing has to change: row
padding is skipped, both byte orders are read. Everything else goes through cv_bridge where that is installed.
Easy to get wrong: rows may be padded (`step` larger than width times pixel size), and 16-bit pictures may
come in the other byte order.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LAYOUT: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "8UC3": ("u1", 3),
    "8UC4": ("u1", 4),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
}
#: Conversions that only reorder or drop channels: OpenCV does them without holding up other threads.
_REORDER: dict[tuple[str, str], int] = {
    ("rgb8", "bgr8"): cv2.COLOR_RGB2BGR,
    ("bgr8", "rgb8"): cv2.COLOR_BGR2RGB,
    ("rgba8", "bgra8"): cv2.COLOR_RGBA2BGRA,
    ("bgra8", "rgba8"): cv2.COLOR_BGRA2RGBA,
    ("rgba8", "rgb8"): cv2.COLOR_RGBA2RGB,
    ("rgba8", "bgr8"): cv2.COLOR_RGBA2BGR,
    ("bgra8", "bgr8"): cv2.COLOR_BGRA2BGR,
    ("bgra8", "rgb8"): cv2.COLOR_BGRA2RGB,
}
_GREY = {
    "rgb8": cv2.COLOR_RGB2GRAY,
    "bgr8": cv2.COLOR_BGR2GRAY,
    "rgba8": cv2.COLOR_RGBA2GRAY,
    "bgra8": cv2.COLOR_BGRA2GRAY,
}
#: Pairs that hold the same bytes under two names.
_SAME = {("16UC1", "mono16"), ("mono16", "16UC1"), ("8UC1", "mono8")}


class ImageProblem(ValueError):
    """A picture that cannot be read or converted; says what it is and what was wanted."""


def image_array(message: Any) -> Array:
    """Pixels of a `sensor_msgs/Image` as they are, (height, width, channels), a view where possible.

    Raises:
        ImageProblem: if the encoding is none of the table's, or the message holds too few bytes.
    """
    if message.encoding not in _LAYOUT:
        raise ImageProblem(f"encoding {message.encoding!r} is not one of {', '.join(_LAYOUT)}")
    kind, channels = _LAYOUT[message.encoding]
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    row = message.width * channels * dtype.itemsize
    step = message.step or row
    if step < row or len(message.data) < step * message.height:
        raise ImageProblem(
            f"{message.width}x{message.height} {message.encoding} needs rows of {row} bytes, "
            f"the message has step {message.step} and {len(message.data)} bytes"
        )
    data = np.frombuffer(message.data, dtype=np.uint8, count=step * message.height)
    rows = data.reshape(message.height, step)[:, :row]
    if step != row:
        rows = np.ascontiguousarray(rows)
    pixels = rows.view(dtype).reshape(message.height, message.width, channels)
    return pixels if dtype.isnative else pixels.astype(dtype.newbyteorder("="))


def convert(pixels: Array, given: str, wanted: str) -> Array:
    """Change the encoding of pixels (height, width, channels).

    Raises:
        ImageProblem: if there is no conversion between the two that keeps the meaning of the values.
    """
    if given == wanted or (given, wanted) in _SAME:
        return pixels
    if (given, wanted) in _REORDER:
        reordered: Array = cv2.cvtColor(np.ascontiguousarray(pixels), _REORDER[given, wanted])
        return reordered
    if wanted == "mono8" and given in _GREY:
        grey: Array = cv2.cvtColor(np.ascontiguousarray(pixels), _GREY[given])
        return grey[:, :, np.newaxis]
    if given in ("mono8", "8UC1") and wanted in ("rgb8", "bgr8"):
        return np.repeat(pixels, 3, axis=2)
    if given in ("rgb8", "bgr8", "mono8") and wanted in ("rgba8", "bgra8"):
        three = convert(pixels, given, wanted[:3] + "8")
        return np.concatenate([three, np.full_like(three[:, :, :1], 255)], axis=2)
    raise ImageProblem(f"no conversion from {given} to {wanted}")


def decode_image(message: Any, wanted: str) -> Array:
    """Pixels of a `sensor_msgs/Image` in the wanted encoding, (height, width, channels).

    Raises:
        ImageProblem: if neither the table here nor an installed cv_bridge can do it.
    """
    if message.encoding in _LAYOUT:
        return convert(image_array(message), message.encoding, wanted)
    return _by_cv_bridge(message, wanted)


def decode_compressed(message: Any, wanted: str) -> Array:
    """Pixels of a `sensor_msgs/CompressedImage` (JPEG, PNG) in the wanted encoding.

    Raises:
        ImageProblem: if the data cannot be decoded or converted.
    """
    data = np.frombuffer(message.data, dtype=np.uint8)
    if wanted in ("16UC1", "mono16", "32FC1"):
        flag, kinds = cv2.IMREAD_UNCHANGED, {("uint16", 1): "16UC1", ("float32", 1): "32FC1"}
    elif wanted == "mono8":
        flag, kinds = cv2.IMREAD_GRAYSCALE, {("uint8", 1): "mono8"}
    else:
        flag, kinds = cv2.IMREAD_COLOR, {("uint8", 3): "bgr8"}
    decoded: Any = cv2.imdecode(data, flag) if data.size else None
    if decoded is None:
        raise ImageProblem(f"{len(message.data)} bytes of format {message.format!r} cannot be decoded")
    pixels: Array = decoded.reshape(*decoded.shape[:2], -1)
    given = kinds.get((pixels.dtype.name, pixels.shape[2]))
    if given is None:
        raise ImageProblem(
            f"the compressed picture holds {pixels.dtype.name} with {pixels.shape[2]} channel(s), not {wanted}"
        )
    return convert(pixels, given, wanted)


def resize_image(pixels: Array, size: tuple[int, int]) -> Array:
    """Scale pixels (h, w, c) to (height, width): area averaging down, linear up, nearest for depth."""
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.dtype == np.uint8:
        shrink = height * width < pixels.shape[0] * pixels.shape[1]
        method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    else:
        method = cv2.INTER_NEAREST
    scaled: Array = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    return scaled.reshape(height, width, pixels.shape[2])


def _by_cv_bridge(message: Any, wanted: str) -> Array:
    try:
        from cv_bridge import CvBridge, CvBridgeError  # noqa: PLC0415
    except ImportError:
        raise ImageProblem(
            f"encoding {message.encoding!r} is not one of {', '.join(_LAYOUT)}, and cv_bridge, which knows more, "
            "is not installed (on Ubuntu: apt install ros-jazzy-cv-bridge)"
        ) from None
    try:
        pixels: Array = CvBridge().imgmsg_to_cv2(message, desired_encoding=wanted)
    except CvBridgeError as error:
        raise ImageProblem(f"cv_bridge: {error}") from None
    return pixels.reshape(*pixels.shape[:2], -1)
