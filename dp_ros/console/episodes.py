"""The episodes of a recording for the console: a list, values, and pictures as JPEG.

Reads what is committed, while a recorder may be writing. Easy to get wrong: the recorder may take an episode back
between two requests, so what is asked for may not be there any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dp_ros.data.layout import ACTION, TIMESTAMP, UNMARKED
from dp_ros.data.pictures import jpeg, thumbnail
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.surgery import Label, label_episode
from dp_ros.errors import UserError
from dp_ros.runtime.replay import Floats, commands_of
from dp_ros.task import TaskSpec

_THUMBNAIL_PX = 160
#: Rows of values that a browser gets of an episode, at most; the rest is left out evenly.
MOST_ROWS = 2000


class Episodes:
    """A recording, opened again whenever it is asked for.

    Args:
        path: of the recording.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def overview(self) -> dict[str, Any]:
        """`episodes`: index, steps, seconds, success, seed and texts of each, newest last; and names of `cameras`."""
        try:
            buffer = ReplayBuffer.open(self.path)
        except UserError:
            return {"episodes": [], "cameras": []}
        lengths = np.diff(buffer.episode_ends, prepend=0)
        task = buffer.task
        listed = [
            {
                "index": index,
                "steps": int(steps),
                "seconds": None if task is None else round(float(steps) / task.rate_hz, 1),
                "success": None if success == UNMARKED else bool(success),
                "seed": int(seed),
                "info": info,
            }
            for index, (steps, success, seed, info) in enumerate(
                zip(lengths, buffer.episode_success, buffer.episode_seeds, buffer.episode_info, strict=True)
            )
        ]
        return {"episodes": listed, "cameras": buffer.cameras}

    def values(self, index: int) -> dict[str, Any]:
        """Values of an episode over time: `time` (n,) seconds and each vector stream (n, dim).

        Raises:
            LookupError: there is no such episode.
        """
        buffer, begin, end = self._episode(index)
        rows = np.unique(np.linspace(0, end - begin - 1, min(end - begin, MOST_ROWS)).astype(int))
        task = buffer.task
        dt_s = 1.0 if task is None else task.dt_ns / 1e9
        streams = {
            key: values.reshape(len(values), -1)[rows].astype(float).round(6).tolist()
            for key in buffer
            if key != TIMESTAMP and (values := buffer.rows(key, begin, end)).ndim <= 2
        }
        return {"rows": rows.tolist(), "time": (rows * dt_s).round(4).tolist(), "streams": streams}

    def commands(self, index: int) -> tuple[TaskSpec, Floats]:
        """The task of an episode and its commands (n, command_dim), to replay it.

        Raises:
            LookupError: there is no such episode, or nothing says of which task it is.
        """
        buffer, begin, end = self._episode(index)
        if buffer.task is None:
            raise LookupError(
                f"{self.path}: does not say of which task it is, so no robot can be driven by it"
            )
        try:
            return buffer.task, commands_of(buffer.task, buffer.rows(ACTION, begin, end))
        except (UserError, ValueError) as error:
            raise LookupError(f"episode {index} cannot be replayed: {error}") from None

    def mark(self, index: int, success: bool | None) -> str:
        """Say of a committed episode how it went, None: unknown; returns that in words.

        Raises:
            LookupError: there is no such episode, or it cannot be said now: a recorder writes to the recording.
        """
        try:
            marked = UNMARKED if success is None else int(success)
            label_episode(self.path, index, Label(marked, {}), replace=True)
        except UserError as error:
            raise LookupError(str(error)) from None
        how = {True: "a success", False: "a failure", None: "not marked"}[success]
        return f"episode {index} is {how}"

    def frame(self, index: int, camera: str, row: int, *, small: bool) -> bytes:
        """A picture of an episode as JPEG.

        Raises:
            LookupError: there is no such episode, camera or row.
        """
        buffer, begin, end = self._episode(index)
        if camera not in buffer.cameras or not 0 <= row < end - begin:
            raise LookupError(f"episode {index} has no picture {row} of {camera!r}")
        picture, encoding = buffer.rows(camera, begin + row, begin + row + 1)[0], buffer.encoding(camera)
        return jpeg(thumbnail(picture, _THUMBNAIL_PX, encoding)) if small else jpeg(picture, encoding)

    def _episode(self, index: int) -> tuple[ReplayBuffer, int, int]:
        try:
            buffer = ReplayBuffer.open(self.path)
        except UserError as error:
            raise LookupError(str(error)) from None
        if not 0 <= index < buffer.n_episodes:
            raise LookupError(f"there is no episode {index}, but {buffer.n_episodes}")
        begin = int(buffer.episode_ends[index - 1]) if index else 0
        return buffer, begin, int(buffer.episode_ends[index])
