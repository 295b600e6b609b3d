"""Images from ROS messages: every encoding of the table, row padding, both byte orders, and clear refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from dp_ros.bridge.images import ImageProblem, decode_compressed, decode_image, resize_image

rng = np.random.default_rng(0)
RGBA = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
ORDER = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2, 3], "bgra8": [2, 1, 0, 3]}


def message(pixels: np.ndarray, encoding: str, *, padding: int = 0, big: bool = False) -> Any:
    """A stand-in with the fields of sensor_msgs/Image."""
    if big:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=padded.shape[1],
        is_bigendian=big,
        data=padded.tobytes(),
    )


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("wanted", ["rgb8", "bgr8"])
@pytest.mark.parametrize("given", list(ORDER))
def test_colours_land_in_the_wanted_order(given: str, wanted: str, padding: int) -> None:
    decoded = decode_image(message(RGBA[:, :, ORDER[given]], given, padding=padding), wanted)
    assert np.array_equal(decoded, RGBA[:, :, ORDER[wanted]])


def test_the_same_encoding_without_padding_is_a_view_of_the_message() -> None:
    source = message(RGBA[:, :, :3], "rgb8")
    assert np.shares_memory(decode_image(source, "rgb8"), np.frombuffer(source.data, np.uint8))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "dtype"), [("mono16", np.uint16), ("16UC1", np.uint16), ("32FC1", np.float32)]
)
def test_depth_is_read_in_both_byte_orders(encoding: str, dtype: type, padding: int, big: bool) -> None:
    pixels = (rng.random((4, 6, 1)) * 60000).astype(dtype)
    decoded = decode_image(message(pixels, encoding, padding=padding, big=big), encoding)
    assert decoded.dtype == dtype
    assert np.array_equal(decoded, pixels)


def test_grey_becomes_colour_and_colour_becomes_grey() -> None:
    grey = RGBA[:, :, :1]
    assert np.array_equal(decode_image(message(grey, "mono8"), "rgb8"), np.repeat(grey, 3, axis=2))
    colour = decode_image(message(RGBA[:, :, :3], "rgb8"), "mono8")
    assert np.array_equal(colour[:, :, 0], cv2.cvtColor(RGBA[:, :, :3].copy(), cv2.COLOR_RGB2GRAY))
    assert np.array_equal(colour, decode_image(message(RGBA[:, :, [2, 1, 0]], "bgr8"), "mono8"))


def test_colour_gets_an_opaque_alpha() -> None:
    decoded = decode_image(message(RGBA[:, :, :3], "rgb8"), "bgra8")
    assert np.array_equal(decoded[:, :, :3], RGBA[:, :, [2, 1, 0]])
    assert (decoded[:, :, 3] == 255).all()


@pytest.mark.parametrize("wanted", ["rgb8", "bgr8"])
def test_a_compressed_picture_without_loss_is_the_picture(wanted: str) -> None:
    _, data = cv2.imencode(".png", RGBA[:, :, [2, 1, 0]])
    decoded = decode_compressed(SimpleNamespace(format="png", data=data.tobytes()), wanted)
    assert np.array_equal(decoded, RGBA[:, :, ORDER[wanted]])


def test_compressed_depth_keeps_its_sixteen_bits() -> None:
    depth = rng.integers(0, 65536, (4, 6, 1), dtype=np.uint16)
    _, data = cv2.imencode(".png", depth)
    assert np.array_equal(
        decode_compressed(SimpleNamespace(format="png", data=data.tobytes()), "16UC1"), depth
    )


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (message(RGBA, "yuv422"), "encoding 'yuv422' is not one of"),
        (message(RGBA[:, :, :1].astype(np.uint16), "16UC1"), "no conversion from 16UC1 to rgb8"),
    ],
)
def test_what_cannot_be_converted_is_named(broken: Any, words: str) -> None:
    with pytest.raises(ImageProblem, match=words):
        decode_image(broken, "rgb8")


def test_a_truncated_message_is_refused_with_its_sizes() -> None:
    short = message(RGBA[:, :, :3], "rgb8")
    short.data = short.data[:-1]
    with pytest.raises(ImageProblem, match=r"7x5 rgb8 needs rows of 21 bytes.*104 bytes"):
        decode_image(short, "rgb8")


def test_rubbish_in_a_compressed_picture_is_refused() -> None:
    for data in (b"", b"not a jpeg"):
        with pytest.raises(ImageProblem, match="cannot be decoded"):
            decode_compressed(SimpleNamespace(format="jpeg", data=data), "rgb8")


def test_scaling_keeps_type_and_channels_and_never_mixes_depths() -> None:
    assert resize_image(RGBA[:, :, :3], (10, 14)).shape == (10, 14, 3)
    assert resize_image(RGBA[:, :, :1], (3, 3)).shape == (3, 3, 1)
    depth = np.array([[0, 1000], [0, 1000]], np.uint16)[:, :, np.newaxis]
    assert set(np.unique(resize_image(depth, (4, 4)))) == {0, 1000}
