"""Pictures of an episode for people: an mp4 that browsers play, and one sheet of small frames.

Drawn from the episode's states afterwards, at any size, so that watching costs the robot nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from dp_ros.sim.pusht_view import contact_sheet, render

Frames = list[npt.NDArray[np.uint8]]


def draw_states(states: Sequence[npt.NDArray[np.float64]], size_px: int) -> Frames:
    """One picture (size_px, size_px, 3) RGB for each state (5,)."""
    return [render(state, size_px) for state in states]


def write_mp4(frames: Frames, path: Path, rate_hz: int) -> None:
    """Write RGB frames as H.264, at `rate_hz` frames a second; frames need even height and width."""
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("libx264", rate=rate_hz, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_contact_sheet(states: Sequence[npt.NDArray[np.float64]], path: Path, count: int = 12) -> None:
    """Write a PNG with `count` pictures spread evenly over the episode, each with its step."""
    indices = np.unique(np.linspace(0, len(states) - 1, count).round().astype(int))
    frames = draw_states([states[i] for i in indices], 192)
    sheet = contact_sheet(frames, columns=6, captions=[f"step {i}" for i in indices])
    if not cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} could not be written")
