"""Offline and live parity in real time: what a run was asked and answered can be computed again, bit for bit.

Which window an inference is given depends on what had arrived, and in mode rtc on what was commanded meanwhile; the
message `~/sample` tells both. Easy to get wrong: another run infers from other observations; only where the
observations are the same must the samples be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from dp_ros import bringup
from dp_ros.action import RunPolicy
from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.bridge.codecs import decode
from dp_ros.bridge.policy_samples import actions_of, request_of, window_of
from dp_ros.bridge.qos import reliable_qos
from dp_ros.inference.load import load_engine
from dp_ros.inference.worker import sample_request
from dp_ros.msg import PolicySample
from dp_ros.paths import share_dir
from dp_ros.processes import running
from dp_ros.runtime.controller import Controller
from dp_ros.runtime.execution import Execution
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.supervisor import SafetyOptions
from dp_ros.task import load_task

from .robot import Robot

pytestmark = pytest.mark.timeout(180)
TASK = load_task("pusht_state")
TOPICS = {"keypoint": ("/pusht/keypoints", PoseArray), "agent_pos": ("/pusht/joint_states", JointState)}
SEED, INFERENCES = 5, 5
#: Few enough that an inference of a second on a busy machine does not bring the next one forward.
INFER_EVERY = 4
LIMIT_S = 60.0


class Recorder:
    """A robot whose observations change, and everything that it published and that the policy sampled."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.messages: list[tuple[str, int, Any]] = []  # stream, stamp, message
        self.samples: list[Any] = []
        for key, (topic, kind) in TOPICS.items():
            robot.node.create_subscription(kind, topic, self._listener(key), reliable_qos(1000))
        robot.node.create_subscription(PolicySample, "/policy/sample", self._sampled, reliable_qos(100))
        self._random = np.random.default_rng(0)
        self._turn, self._publish_both = False, robot._publish
        robot._publish = self._publish  # type: ignore[method-assign]

    def _publish(self) -> None:
        """Streams in turn, each with other values: of two messages at once either may arrive first."""
        self._turn = not self._turn
        self.robot.publish_joints = self._turn
        self.robot.position = self._random.uniform(100.0, 400.0, 2)
        self.robot.keypoints = None if self._turn else self._random.uniform(100.0, 400.0, (9, 2))
        self._publish_both()

    def end(self) -> None:
        """Let the robot publish nothing more."""
        self.robot._publish = lambda: None  # type: ignore[method-assign]
        self.messages.sort(key=lambda entry: entry[1])

    def _listener(self, key: str) -> Callable[[Any], None]:
        return lambda message: self.messages.append((key, to_ns(message.header.stamp), message))

    def _sampled(self, message: Any) -> None:
        self.samples.append(message)

    def recorded(self) -> dict[str, list[tuple[int, Any]]]:
        """Header stamp and value of every message, by stream."""
        return {
            key: [(stamp, decode(m, TASK.observations[key])) for k, stamp, m in self.messages if k == key]
            for key in TOPICS
        }


def node(mode: str, **parameters: Any) -> bringup.Bringup:
    """The policy in real time, with soft limits of time for a busy machine."""
    (spec,) = bringup.policy(
        model="pusht_state", engine="onnx", mode=mode, infer_every=INFER_EVERY, **parameters
    ).nodes
    patient = {"overdue_grace_s": 20.0, "stale_grace_s": 20.0}
    return bringup.Bringup(
        "realtime", (bringup.NodeSpec("policy", "policy_node", {**spec.parameters, **patient}),)
    )


def live_run(robot: Robot, mode: str) -> Recorder:
    """Run until the policy was asked INFERENCES times."""
    recorder = Recorder(robot)
    with running(node(mode)):
        robot.until(lambda: robot.node.count_publishers("/policy/sample"), "the policy")
        robot.until_ready()
        handle = robot.send_goal(LIMIT_S, seed=SEED)
        assert handle.accepted

        def enough() -> bool:
            return len(recorder.samples) >= INFERENCES and (mode != "rtc" or bool(conditioned(recorder)))

        robot.until(enough, "the samples", 60.0)
        robot.answer(handle.cancel_goal_async(), "the answer to cancelling")
    recorder.end()
    return recorder


def conditioned(recorder: Recorder) -> list[Any]:
    """Samples that had to go on from what was commanded; on a busy machine a chunk may have run out before."""
    return [sample for sample in recorder.samples if len(sample.prefix_weights)]


def asked(sample: Any) -> tuple[int, int, tuple[int, ...]]:
    return to_ns(sample.header.stamp), sample.step, tuple(map(to_ns, sample.newest))


@pytest.mark.parametrize("mode", ["replace", "rtc"])
def test_a_real_time_run_is_computed_again_bit_for_bit(
    robot: Robot, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test.system.robot.PERIOD_S", 0.05)
    live = live_run(robot, mode)
    engine = load_engine(share_dir() / "models" / "pusht_state", engine="onnx")
    recorded = live.recorded()
    for sample in live.samples:
        request = request_of(sample, window_of(sample, TASK, recorded))
        again = sample_request(engine, request)
        assert again.astype(np.float32).tobytes() == actions_of(sample).tobytes()
    assert {sample.seed for sample in live.samples} == {SEED}
    assert len({actions_of(sample).tobytes() for sample in live.samples}) == len(live.samples)
    if mode == "rtc":
        sample = conditioned(live)[0]
        free = replace(request_of(sample, window_of(sample, TASK, recorded)), prefix=None)
        assert sample_request(engine, free).astype(np.float32).tobytes() != actions_of(sample).tobytes()
        return
    assert not conditioned(live)
    replay_in_controller(live, engine)
    play_to_another_node(robot, live)


def replay_in_controller(live: Recorder, engine: Any) -> None:
    """The same through the runtime's own loop: it asks for the same from the same observations."""
    safety = SafetyOptions(stale_grace_s=20.0, overdue_grace_s=20.0)
    controller = Controller(TASK, immediate=False, execution=Execution("replace", INFER_EVERY), safety=safety)
    first = to_ns(live.samples[0].header.stamp)
    found: dict[tuple[int, int, tuple[int, ...]], bytes] = {}
    for key, stamp, message in live.messages:
        controller.buffer.add(key, stamp, decode(message, TASK.observations[key]), now_ns=stamp)
        if key != TASK.anchor:
            continue
        if stamp == first:
            controller.start(stamp, seed=SEED, time_limit_s=LIMIT_S)
        tick = controller.tick(stamp)
        assert tick.stop is None, tick.stop
        request = tick.request
        if request is not None:
            actions = sample_request(engine, request)
            chunk = controller.accept(request, actions, now_ns=stamp, inference_ns=1_000_000)
            assert isinstance(chunk, ActionChunk), chunk
            newest = tuple(request.window.newest_ns.values())
            found[(request.window.stamp_ns, request.step, newest)] = actions.astype(np.float32).tobytes()
    same(live.samples, found)


def play_to_another_node(robot: Robot, live: Recorder) -> None:
    """The same through a second node, which is shown the recording in simulated time at its own pace."""
    first = to_ns(live.samples[0].header.stamp)
    last = to_ns(live.samples[-1].header.stamp)
    qos = reliable_qos(1000)
    clock = robot.node.create_publisher(Clock, "/clock", qos)
    publishers = {key: robot.node.create_publisher(kind, t, qos) for key, (t, kind) in TOPICS.items()}
    again: list[Any] = []
    robot.node.create_subscription(PolicySample, "/policy/sample", again.append, qos)
    waiting = [m for m in live.messages if first - 5 * TASK.dt_ns <= m[1] <= last]
    shown_ns, seen_ns = waiting[0][1], robot.now_ns()

    shown: list[tuple[str, Any]] = []

    def play(until_ns: int, speed: float = 1.0) -> bool:
        """Let simulated time go on, at most to a time, and publish what is due; whether it is there."""
        nonlocal shown_ns, seen_ns
        now_ns = robot.now_ns()
        shown_ns, seen_ns = min(shown_ns + round(speed * (now_ns - seen_ns)), until_ns), now_ns
        while waiting and waiting[0][1] <= shown_ns:
            key, _, message = waiting.pop(0)
            shown.append((key, message))
            publishers[key].publish(message)
        clock.publish(Clock(clock=to_stamp(shown_ns)))
        return shown_ns == until_ns

    def slowly(condition: Callable[[], Any]) -> Callable[[], Any]:
        """While time goes on so slowly that there is nothing to be done in it: were it to stop, no goal could begin."""
        return lambda: condition() or (play(first + TASK.dt_ns // 2, 0.01) and None)

    def ready() -> bool:
        # A publisher may know the node's subscription before that knows the publisher, and what is published then is
        # lost. What has come already is ignored.
        for key, message in shown:
            publishers[key].publish(message)
        return any(status.state == "idle" and not status.reason for status in robot.statuses)

    with running(node("replace", use_sim_time=True)):
        # Beside the recorder's own subscriptions.
        robot.until(
            lambda: (
                clock.get_subscription_count()
                and all(p.get_subscription_count() >= 2 for p in publishers.values())
            ),
            "the second node",
        )
        robot.until(robot.run_client.server_is_ready, "the action server")
        robot.until(lambda: robot.node.count_publishers("/policy/sample"), "its samples")
        seen_ns = robot.now_ns()
        robot.until(lambda: play(first), "the time of the first sample")
        robot.statuses.clear()
        robot.until(slowly(ready), "the second node to be ready")
        sent = robot.run_client.send_goal_async(RunPolicy.Goal(time_limit_s=LIMIT_S, seed=SEED))
        robot.until(slowly(sent.done), "the answer")
        assert sent.result().accepted
        robot.until(slowly(lambda: again), "the first sample")
        robot.until(lambda: play(last + TASK.dt_ns // 2) and len(again) >= 2, "the end of the recording")
    same(live.samples, {asked(sample): actions_of(sample).tobytes() for sample in again})


def same(samples: list[Any], found: dict[tuple[int, int, tuple[int, ...]], bytes]) -> None:
    """Of the same questions the answers are equal, and there is more than one of them."""
    common = [sample for sample in samples if asked(sample) in found]

    def seen(question: tuple[int, int, tuple[int, ...]]) -> str:
        first = to_ns(samples[0].header.stamp)
        return f"{(question[0] - first) / 1e9:.3f} s with {[(t - first) / 1e9 for t in question[2]]}"

    assert len(common) >= 2, "\n".join(
        ["live", *(seen(asked(s)) for s in samples), "again", *map(seen, found)]
    )
    assert all(actions_of(sample).tobytes() == found[asked(sample)] for sample in common)
