"""Pictures of an episode for people: an mp4 that browsers play, and one sheet of small frames.

Drawn from the episode's states and plans afterwards, at any size, so that watching costs the robot nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.sim.pusht_view import contact_sheet, draw_plan, render

Frames = list[npt.NDArray[np.uint8]]


def draw_episode(episode: EpisodeResult, size_px: int, steps: Sequence[int] | None = None) -> Frames:
    """One picture (size_px, size_px, 3) RGB for each step of an episode, or for the steps given.

    What is still to come of the chunk in force is drawn over the world.
    """
    frames = []
    for step in range(len(episode.states)) if steps is None else steps:
        picture = render(episode.states[step], size_px)
        begun = [(first, plan) for first, plan in episode.plans if first <= step]
        if begun:
            first, plan = begun[-1]
            draw_plan(picture, np.vstack([episode.states[step][:2], plan[step - first :]]))
        frames.append(picture)
    return frames


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


def write_contact_sheet(episode: EpisodeResult, path: Path, count: int = 12) -> None:
    """Write a PNG with `count` pictures spread evenly over the episode, each with its step."""
    steps = np.unique(np.linspace(0, len(episode.states) - 1, count).round().astype(int)).tolist()
    frames = draw_episode(episode, 192, steps)
    sheet = contact_sheet(frames, columns=6, captions=[f"step {step}" for step in steps])
    if not cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path} could not be written")
