"""Which pictures are worth encoding before an inference is due."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.runtime.controller import Controller
from dp_ros.runtime.execution import Execution
from dp_ros.runtime.look_ahead import frame_ahead
from dp_ros.runtime.observation import ObservationBuffer
from dp_ros.task import TaskSpec, load_task

BEGIN_NS = 1_000_000_000_000


def picture(k: int) -> np.ndarray:
    return np.full((96, 96, 3), k % 256, np.uint8)


def used_and_ahead(
    period_ms: float, every: int, jitter_ms: float = 0.0, task: TaskSpec | None = None
) -> tuple[list[int], list[int]]:
    """Stamps of the pictures that inferences looked at, and of those that were chosen before one was due."""
    task = task or load_task("pusht_image")
    rng = np.random.default_rng(0)
    controller = Controller(task, immediate=True, execution=Execution("rtc", every))
    used: list[int] = []
    ahead: list[int] = []
    started = False
    for k in range(round(6000 / period_ms)):
        now_ns = BEGIN_NS + round(1e6 * (k * period_ms + jitter_ms * rng.uniform(-1, 1)))
        controller.buffer.add("agent_pos", now_ns, np.full(2, 256.0, np.float32))
        controller.buffer.add("image", now_ns, picture(k))
        if now_ns - BEGIN_NS > 300e6 and not started:
            controller.start(now_ns, seed=0, time_limit_s=60.0)
            started = True
        request = controller.tick(now_ns).request
        if request is not None:
            used += [frame.stamp_ns for frame in request.window.frames["image"]]
            actions = np.full((task.horizon, 2), 256.0)
            controller.accept(request, actions, now_ns=now_ns, inference_ns=1_000_000)
        elif (found := controller.frame_ahead("image")) is not None:
            ahead.append(found[0].stamp_ns)
    return used, ahead


@pytest.mark.parametrize(
    ("period_ms", "every", "jitter_ms"),
    [(100, 4, 0), (100, 8, 0), (100, 4, 8), (1000 / 30, 4, 5), (50, 3, 0)],
)
def test_the_older_pictures_of_a_window_are_encoded_ahead_and_no_others(
    period_ms: float, every: int, jitter_ms: float
) -> None:
    used, ahead = used_and_ahead(period_ms, every, jitter_ms)
    windows = len(used) // 2
    assert windows >= 6
    older = set(used[2:-2:2])  # of the first window nothing can be known before
    assert len(older & set(ahead)) >= 0.8 * len(older), "what is used is encoded ahead"
    assert len(set(ahead) - set(used)) <= 0.2 * windows + 1, "and hardly anything else"


def test_with_an_inference_at_every_picture_there_is_nothing_to_be_done_ahead() -> None:
    assert used_and_ahead(100, 1)[1] == []


def test_a_second_camera_is_encoded_before_the_one_that_completes_the_window() -> None:
    data = load_task("pusht_image").model_dump(mode="json")
    data["observations"] = {
        "image": data["observations"]["image"],
        "wrist": {**data["observations"]["image"], "topic": "/wrist"},
        "agent_pos": data["observations"]["agent_pos"],
    }
    task = TaskSpec.from_dict({**data, "name": "two_cameras"})
    assert task.anchor == "image"
    buffer, dt_ns = ObservationBuffer(task), task.dt_ns
    for k in range(5):
        buffer.add("image", BEGIN_NS + k * dt_ns, picture(k))
        buffer.add("wrist", BEGIN_NS + k * dt_ns - 5_000_000, picture(k))
    due_ns = BEGIN_NS + 4 * dt_ns + dt_ns // 2  # the window ends with the next picture
    newest = buffer.newest_ns("wrist")
    buffer.add("wrist", BEGIN_NS + 5 * dt_ns - 5_000_000, picture(5))
    found = frame_ahead(task, buffer, "wrist", due_ns)
    assert found is not None
    assert found[0].stamp_ns == BEGIN_NS + 5 * dt_ns - 5_000_000 != newest
    assert frame_ahead(task, buffer, "image", due_ns + 3 * dt_ns) is None, "three steps before nobody looks"


def test_a_picture_is_known_by_more_than_its_time() -> None:
    task = load_task("pusht_image")
    buffers = [ObservationBuffer(task), ObservationBuffer(task)]
    for buffer in buffers:
        for k in range(2):
            buffer.add("agent_pos", BEGIN_NS + k * task.dt_ns, np.zeros(2, np.float32))
            buffer.add("image", BEGIN_NS + k * task.dt_ns, picture(k))
    now_ns = BEGIN_NS + task.dt_ns
    frames = [buffer.window(now_ns).frames["image"] for buffer in buffers]
    assert [frame.stamp_ns for frame in frames[0]] == [BEGIN_NS, now_ns]
    assert not set(frames[0]) & set(frames[1]), "another episode has other pictures"
    assert buffers[0].window(now_ns).frames["image"] == frames[0]
    buffers[0].clear()
    for k in range(2):
        buffers[0].add("agent_pos", BEGIN_NS + k * task.dt_ns, np.zeros(2, np.float32))
        buffers[0].add("image", BEGIN_NS + k * task.dt_ns, picture(7))
    assert not set(buffers[0].window(now_ns).frames["image"]) & set(frames[0]), (
        "and so has a bag that begins anew"
    )
