"""Recordings, and robots that run, for the rerun viewer.

Streams, commands and actions are series under the names that the task gives their values; pictures are PNG. An exported
file has its episodes one after the other on the timelines `step` and `time`, and `episode` says which. Easy to get
wrong: rerun is a viewer's library and large, so it is imported where it is used and missing on most robots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dp_ros.data.durable_store import complete_or_absent
from dp_ros.data.layout import ACTION, TAKEOVER, TIMESTAMP, UNMARKED
from dp_ros.data.pictures import jpeg, viewable
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.surgery import recorded_task
from dp_ros.errors import UserError
from dp_ros.task import ObservationSpec, TaskSpec

APPLICATION = "dp_ros"
_GAP_S = 1.0


def rerun_library() -> Any:
    """The rerun package. Raises UserError if it is not installed."""
    try:
        import rerun
    except ImportError:
        raise UserError("the rerun viewer's library is not installed; pip install rerun-sdk") from None
    return rerun


def value_names(spec: ObservationSpec) -> list[str]:
    """A name for each value of a vector stream."""
    fields, joints = list(spec.fields), list(spec.names)
    named = [f"{joint}.{field}" for field in fields for joint in joints] if joints else fields
    if len(fields) == 1 and joints:
        named = joints
    return named if len(named) == spec.dim else [str(index) for index in range(spec.dim)]


class RerunLog:
    """What a robot of a task sees and is told, written to a stream of rerun.

    Args:
        task: names and kinds of everything.
        stream: a `rerun.RecordingStream` that goes to a file or a viewer.
    """

    def __init__(self, task: TaskSpec, stream: Any) -> None:
        self._rerun, self._task, self._stream = rerun_library(), task, stream
        names = {
            f"observation/{key}": value_names(s) for key, s in task.observations.items() if not s.is_image
        }
        for entity, series in {**names, "action": list(task.action.names)}.items():
            stream.log(entity, self._rerun.SeriesLines(names=series), static=True)

    def at(self, **times: Any) -> None:
        """Set the timelines for what is logged next: whole numbers count, floats are seconds, ns are stamps."""
        for name, value in times.items():
            if isinstance(value, int):
                self._stream.set_time(name, sequence=value)
            elif isinstance(value, float):
                self._stream.set_time(name, duration=value)
            else:
                self._stream.set_time(name, timestamp=value)

    def observation(self, key: str, value: npt.NDArray[Any], *, lossy: bool = False) -> None:
        """Log a sample of a stream; pictures as JPEG if `lossy`."""
        spec = self._task.observations[key]
        entity = f"observation/{key}"
        if not spec.is_image:
            self._stream.log(entity, self._rerun.Scalars(np.asarray(value, np.float64)))
        elif value.dtype != np.uint8 and value.shape[-1] == 1:
            self._stream.log(entity, self._rerun.DepthImage(value[..., 0]))
        elif lossy:
            picture = jpeg(value, str(spec.encoding))
            self._stream.log(entity, self._rerun.EncodedImage(contents=picture, media_type="image/jpeg"))
        else:
            pixels = cv2.cvtColor(viewable(value, str(spec.encoding)), cv2.COLOR_RGB2BGR)
            picture = cv2.imencode(".png", pixels)[1].tobytes()
            self._stream.log(entity, self._rerun.EncodedImage(contents=picture, media_type="image/png"))

    def action(self, values: npt.NDArray[Any]) -> None:
        """Log an action (dim,), as a policy says it."""
        self._stream.log("action", self._rerun.Scalars(np.asarray(values, np.float64)))

    def number(self, entity: str, value: float) -> None:
        """Log a number of its own."""
        self._stream.log(entity, self._rerun.Scalars(float(value)))

    def text(self, entity: str, text: str) -> None:
        """Log what happened."""
        self._stream.log(entity, self._rerun.TextLog(text))

    def document(self, entity: str, text: str) -> None:
        """Log a text that stands (Markdown)."""
        self._stream.log(entity, self._rerun.TextDocument(text, media_type="text/markdown"))


def blueprint(task: TaskSpec) -> Any:
    """How the viewer lays a task out: cameras above, values below."""
    rerun_library()
    import rerun.blueprint as layout

    cameras = [
        layout.Spatial2DView(origin=f"observation/{key}", name=key)
        for key, spec in task.observations.items()
        if spec.is_image
    ]
    vectors = [
        layout.TimeSeriesView(origin=f"observation/{key}", name=key)
        for key, spec in task.observations.items()
        if not spec.is_image
    ]
    above = [*cameras, layout.TextDocumentView(origin="episode", name="episode")]
    below = [*vectors, layout.TimeSeriesView(origin="action", name="action")]
    return layout.Blueprint(layout.Vertical(layout.Horizontal(*above), layout.Horizontal(*below)))


def export_rrd(buffer: ReplayBuffer, episodes: Sequence[int], out: Path, progress: Callable[[], None]) -> str:
    """Write episodes for the rerun viewer.

    Args:
        buffer: the recording.
        episodes: indices, in the order in which they are written.
        out: the file to make; must end in .rrd.
        progress: called after each episode.

    Returns:
        What was done, for a person.

    Raises:
        UserError: if rerun is not installed, the recording does not name its task, or the disk refuses; nothing is
            there then.
    """
    rerun = rerun_library()
    if out.suffix != ".rrd":
        raise UserError(f"{out}: expected a name that ends in .rrd, such as {out.stem}.rrd")
    task = recorded_task(buffer)
    steps, begin_s = 0, 0.0
    with complete_or_absent(out) as draft:
        stream = rerun.RecordingStream(APPLICATION, recording_id=f"{buffer.path.name}-{buffer.digest()[:12]}")
        stream.save(draft, default_blueprint=blueprint(task))
        log = RerunLog(task, stream)
        for index in episodes:
            start, stop = int(buffer.episode_ends[index - 1]) if index else 0, int(buffer.episode_ends[index])
            times_s = buffer.rows(TIMESTAMP, start, stop)
            for row in range(start, stop):
                time_s = begin_s + float(times_s[row - start] - times_s[0])
                log.at(step=steps, time=time_s, episode=index)
                if row == start:
                    log.document("episode", _said_of(buffer, task, index))
                for key in task.observations:
                    log.observation(key, buffer.rows(key, row, row + 1)[0])
                log.action(buffer.rows(ACTION, row, row + 1)[0])
                if TAKEOVER in buffer:
                    log.number("takeover", float(buffer.rows(TAKEOVER, row, row + 1)[0]))
                steps += 1
            begin_s = time_s + _GAP_S
            stream.flush()
            progress()
        stream.disconnect()
    return f"{len(episodes)} episodes, {steps} steps, {out.stat().st_size / 1e6:.1f} MB; open it with: rerun {out}"


def _said_of(buffer: ReplayBuffer, task: TaskSpec, index: int) -> str:
    success = int(buffer.episode_success[index])
    said: Mapping[str, object] = {
        "task": task.name,
        "seed": int(buffer.episode_seeds[index]),
        "success": "not marked" if success == UNMARKED else bool(success),
        **buffer.episode_info[index],
    }
    return f"# Episode {index}\n\n" + "\n".join(f"- **{name}**: {value}" for name, value in said.items())
