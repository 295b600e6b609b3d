"""Pictures as video files and back, by PyAV.

Easy to get wrong: frames are found by their time, and a video may have fewer of them than somebody says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import numpy.typing as npt

from dp_ros.errors import UserError

Pixels = npt.NDArray[np.uint8]
#: Codec and options: that of LeRobot's own data sets, what others can play everywhere, and one that loses nothing.
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "av1": ("libsvtav1", "yuv420p", {"g": "2", "crf": "30", "svtav1-params": "tune=0:lp=2"}),
    "h264": ("libx264", "yuv420p", {"g": "2", "crf": "18"}),
    "lossless": ("libx264rgb", "rgb24", {"g": "2", "crf": "0"}),
}
_MAX_PIXELS = 2**27


class VideoWriter:
    """Writes RGB pictures to an MP4 file; use as a context manager.

    Args:
        path: of the file. codec: one of `CODECS`. height, width: of the pictures. fps: pictures a second.

    Raises:
        UserError: if the size does not fit the codec.
    """

    def __init__(self, path: Path, codec: str, height: int, width: int, fps: float) -> None:
        os.environ.setdefault("SVT_LOG", "1")  # errors only: the AV1 encoder prints a page about itself
        name, pixels, options = CODECS[codec]
        if pixels == "yuv420p" and (height % 2 or width % 2):
            raise UserError(
                f"pictures of {height}x{width}: {codec} needs an even height and width; choose another codec"
            )
        self.codec_name, self.pixel_format = name, pixels
        self._container = av.open(str(path), "w", format="mp4")
        rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = self._container.add_stream(name, rate=rate, options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, pixels
        self._rate, self._count = rate, 0

    def add(self, picture: Pixels) -> None:
        """Append a picture (height, width, 3), RGB."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    @property
    def seconds(self) -> float:
        """How long the video is."""
        return float(self._count / self._rate)

    def close(self) -> None:
        """Complete the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._container.close()


def read_frames(path: Path, from_s: float, count: int, fps: float) -> Iterator[Pixels]:
    """`count` pictures (height, width, 3), RGB, from a time on, one each 1/fps s.

    Raises:
        UserError: if the file cannot be read, its pictures are too large, or one is missing.
    """
    given = 0
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream: Any = container.streams.video[0]
            if stream.height * stream.width > _MAX_PIXELS:
                raise UserError(f"{path}: claims to have pictures of {stream.height}x{stream.width}")
            container.seek(max(0, int((from_s - 0.5 / fps) * av.time_base)), backward=True)
            for frame in container.decode(stream):
                if frame.time is None or frame.time < from_s - 0.5 / fps:
                    continue
                expected_s = from_s + given / fps
                if abs(frame.time - expected_s) > 0.5 / fps:
                    raise UserError(
                        f"{path}: has no picture at {expected_s:.3f} s, the next is at {frame.time:.3f} s"
                    )
                given += 1
                yield frame.to_ndarray(format="rgb24")
                if given == count:
                    return
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise UserError(f"{path}: cannot be read as a video: {error}") from error
    raise UserError(f"{path}: ends after {given} of {count} pictures from {from_s:.3f} s on")
