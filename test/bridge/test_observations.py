"""From topics into a buffer: in order, off the executor's thread where decoding is slow, and never waiting."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402

from dp_ros.bridge import observations  # noqa: E402
from dp_ros.bridge.clock import to_stamp  # noqa: E402
from dp_ros.bridge.codecs import encode_image  # noqa: E402
from dp_ros.bridge.observations import WAITING, DecodingThread, ObservationIntake  # noqa: E402
from dp_ros.bridge.qos import reliable_qos  # noqa: E402
from dp_ros.runtime.observation import BadObservation, ObservationBuffer  # noqa: E402
from dp_ros.task import TaskSpec, load_task  # noqa: E402

T0 = 1_000_000_000
MS = 1_000_000


def two_camera_task() -> TaskSpec:
    data = load_task("pusht_image").model_dump(mode="json")
    picture = {"encoding": "rgb8", "shape": [4, 6, 3], "max_age_s": 5.0}
    data["observations"] = {
        "front": {"topic": "/front", "type": "sensor_msgs/msg/Image", **picture},
        "wrist": {"topic": "/wrist", "type": "sensor_msgs/msg/CompressedImage", **picture},
        "agent_pos": {
            "topic": "/joints",
            "type": "sensor_msgs/msg/JointState",
            "fields": ["position"],
            "names": ["a"],
            "shape": [1],
            "max_age_s": 5.0,
        },
    }
    return TaskSpec.from_dict(data)


def pixels(k: int) -> np.ndarray:
    return np.full((4, 6, 3), k, np.uint8)


def raw(k: int) -> Any:
    return encode_image(pixels(k), T0 + k * MS, "camera")


def compressed(k: int) -> Any:
    message = CompressedImage(format="png", data=cv2.imencode(".png", pixels(k))[1].tobytes())
    message.header.stamp = to_stamp(T0 + k * MS)
    return message


def joints(k: int) -> Any:
    message = JointState(name=["b", "a"], position=[-1.0, float(k)])
    message.header.stamp = to_stamp(T0 + k * MS)
    return message


class Stage:
    """An intake and publishers for its three streams, in this process."""

    def __init__(self) -> None:
        rclpy.init(args=[])
        self.node = rclpy.create_node("stage")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.publishers = {
            "front": self.node.create_publisher(Image, "/front", reliable_qos(100)),
            "wrist": self.node.create_publisher(CompressedImage, "/wrist", reliable_qos(100)),
            "agent_pos": self.node.create_publisher(JointState, "/joints", reliable_qos(100)),
        }
        self.intake: Any = None
        self.sampled: list[tuple[str, BadObservation | None, int]] = []

    def listen(self, *, lockstep: bool = False) -> ObservationBuffer:
        task = two_camera_task()
        self.buffer = ObservationBuffer(task)
        self.intake = ObservationIntake(
            self.node,
            task,
            self.buffer,
            lockstep=lockstep,
            now_ns=lambda: T0 + 100 * MS,
            on_sample=self._note,
        )
        self.until(lambda: all(p.get_subscription_count() for p in self.publishers.values()), "listeners")
        self.until(lambda: all(map(self.intake.connected, self.publishers)), "publishers")
        return self.buffer

    def _note(self, key: str, problem: BadObservation | None) -> None:
        self.sampled.append((key, problem, threading.get_ident()))

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = 20.0) -> None:
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s, f"waited in vain for {what}"
            self.executor.spin_once(timeout_sec=0.01)

    def show(self, key: str, message: Any) -> None:
        """Publish and wait until it was received: best effort may lose what comes faster."""
        seen = self.intake.counts[key].received
        self.publishers[key].publish(message)
        self.until(lambda: self.intake.counts[key].received > seen, f"a message of {key}")

    def close(self) -> None:
        if self.intake is not None:
            assert self.intake.close(10.0)
        self.node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


@pytest.fixture
def stage(ros_domain: int) -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


def slow_decode(message: Any, spec: Any) -> Any:
    """Decoding that costs 3 ms of processor time where the stream is a picture."""
    end_ns = time.thread_time_ns() + 3 * MS * spec.is_image
    while time.thread_time_ns() < end_ns:
        pass
    return DECODE(message, spec)


DECODE = observations.decode


def test_raw_and_compressed_cameras_and_joints_each_fill_their_stream(stage: Stage) -> None:
    buffer = stage.listen()
    for k in range(6):
        stage.show("agent_pos", joints(k))
        if k % 2 == 0:
            stage.show("front", raw(k))
        if k % 3 == 0:
            stage.show("wrist", compressed(k))
    assert {key: counts.added for key, counts in stage.intake.counts.items()} == {
        "front": 3,
        "wrist": 2,
        "agent_pos": 6,
    }
    assert buffer.sample("front", T0 + 4 * MS)[0, 0].tolist() == [4, 4, 4]
    assert buffer.sample("wrist", T0 + 3 * MS)[0, 0].tolist() == [3, 3, 3]
    assert buffer.sample("agent_pos", T0 + 5 * MS).tolist() == [5.0]
    assert not any(stage.intake.off_thread(key) for key in stage.intake.counts)


def test_a_stream_that_is_slow_to_decode_gets_a_thread_and_keeps_its_order(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observations, "decode", slow_decode)
    decoded_in: set[str] = set()

    def noting(message: Any, spec: Any) -> Any:
        decoded_in.add(threading.current_thread().name if spec.is_image else "joints")
        return slow_decode(message, spec)

    monkeypatch.setattr(observations, "decode", noting)
    stage.listen()
    for k in range(8):
        stage.show("front", raw(k))
        stage.show("agent_pos", joints(k))
    stage.until(lambda: stage.intake.counts["front"].added == 8, "all pictures")
    assert stage.intake.off_thread("front") and not stage.intake.off_thread("agent_pos")
    assert "decode front" in decoded_in
    assert stage.buffer.counts["front"].late == 0
    assert {ident for _, _, ident in stage.sampled} == {threading.get_ident()}  # always the executor's


def test_what_has_piled_up_is_taken_in_one_go(stage: Stage) -> None:
    stage.listen()
    stage.show("agent_pos", joints(0))
    for k in range(1, 60):
        stage.publishers["agent_pos"].publish(joints(k))
    spins = 0
    while stage.intake.counts["agent_pos"].added < 60:
        assert spins < 30, stage.intake.counts
        stage.executor.spin_once(timeout_sec=1.0)
        spins += 1
    assert stage.buffer.counts["agent_pos"].late == 0


def test_in_lockstep_everything_is_decoded_in_place(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "decode", slow_decode)
    buffer = stage.listen(lockstep=True)
    for k in range(6):
        stage.show("front", raw(k))
        assert buffer.newest_ns("front") == T0 + k * MS
    assert not stage.intake.off_thread("front")


def test_a_message_that_cannot_be_used_is_refused_with_its_reason_in_a_thread_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observations, "decode", slow_decode)
    stage.listen()
    for k in range(4):
        stage.show("wrist", compressed(k))
    assert stage.intake.off_thread("wrist")
    broken = compressed(4)
    broken.data = b"no picture"
    stage.show("wrist", broken)
    stage.show("wrist", compressed(5))
    stage.until(lambda: stage.intake.counts["wrist"].added == 5, "the picture after the broken one")
    assert stage.intake.counts["wrist"].refused == 1
    (problem,) = [problem for _, problem, _ in stage.sampled if problem is not None]
    assert "wrist: /wrist: 10 bytes of format 'png' cannot be decoded" in str(problem)


def test_a_stamp_from_the_future_is_refused_but_not_in_lockstep(stage: Stage) -> None:
    buffer = stage.listen()
    stage.show("agent_pos", joints(500))  # the clock of this test says 100
    assert buffer.counts["agent_pos"].future == 1
    assert "0.400 s ahead of this node's clock" in str(stage.sampled[0][1])


def test_closing_and_listening_again_leaves_no_thread_and_no_descriptor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observations, "decode", slow_decode)

    def one_round() -> tuple[int, int]:
        stage.listen()
        for k in range(4):
            stage.show("front", raw(k))
        assert stage.intake.off_thread("front")
        assert stage.intake.close(10.0)
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    one_round()
    first = one_round()
    for _ in range(5):
        last = one_round()
    assert last == first


class Gate:
    """Decoding that waits at a gate, so that a test decides when the thread goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        monkeypatch.setattr(observations, "decode", self._decode)

    def _decode(self, message: Any, spec: Any) -> Any:
        self.reached.set()
        assert self.open.wait(20.0)
        return np.array([message.value])


def stamped(k: int) -> Any:
    return SimpleNamespace(header=SimpleNamespace(stamp=to_stamp(T0 + k)), value=k)


def test_of_the_messages_that_wait_the_newest_win_and_each_dropped_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch)
    thread = DecodingThread("front", two_camera_task().observations["front"], lambda: None)
    assert thread.put(stamped(0))
    assert gate.reached.wait(20.0)  # the thread holds the first
    kept = [thread.put(stamped(k)) for k in range(1, WAITING + 6)]
    assert kept == [True] * WAITING + [False] * 5
    assert thread.backlog == WAITING + 1
    gate.open.set()
    got: list[int] = []
    end_s = time.monotonic() + 20.0
    while len(got) < WAITING + 1:
        assert time.monotonic() < end_s
        decoded = thread.take()
        if decoded is not None:
            got.append(decoded.stamp_ns - T0)
    assert got == [0, *range(6, WAITING + 6)]
    thread.ask_to_close()
    assert thread.join(20.0)


def test_closing_does_not_wait_for_a_picture_that_never_ends_and_wakes_nobody_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch)
    woken: list[int] = []
    thread = DecodingThread("front", two_camera_task().observations["front"], lambda: woken.append(1))
    thread.put(stamped(0))
    assert gate.reached.wait(20.0)
    thread.ask_to_close()
    assert not thread.join(0.01)
    gate.open.set()
    assert thread.join(20.0)
    assert not woken
