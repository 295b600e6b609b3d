"""Records what calibration needs of a robot in motion: every stream and the commands, at full rate, raw stamps.

Listens only; whoever moves the robot (a person, a policy) does so on the command topic as always. Easy to get
wrong: a trajectory is no sample of the command. What is commanded at each time follows from all of them
together, so they are replayed through the rules of the controller that executes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.bridge.client import RosClient
from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import CodecProblem, decode, decode_setpoint, decode_trajectory, message_class
from dp_ros.bridge.qos import observation_qos
from dp_ros.bridge.watchers import MOTION_RECORDER
from dp_ros.calibration.motion_recording import MotionRecording, Samples, column_names
from dp_ros.calibration.pictures import thumbnail
from dp_ros.data.layout import ACTION
from dp_ros.errors import UserError
from dp_ros.sim.trajectory_controller import Trajectory, TrajectoryController
from dp_ros.task import ActionSpec, TaskSpec

#: Step at which trajectories are sampled.
COMMAND_STEP_NS = 5_000_000
REPORT_S = 0.2

Report = Callable[[float, Mapping[str, int]], None]


def record_motion(
    task: TaskSpec,
    duration_s: float,
    *,
    report: Report = lambda elapsed_s, counts: None,
    check: Callable[[], None] = lambda: None,
    timeout_s: float = 30.0,
) -> MotionRecording:
    """Listen to a task's streams and command topic for some time.

    Args:
        task: topics and types.
        duration_s: wall time, from when every stream has given something.
        report: called now and then with the seconds passed and the messages so far of each stream and of
            `action`.
        check: called while waiting; raises when a process that is needed has ended.
        timeout_s: how long to wait for the streams.

    Raises:
        UserError: if a stream does not come, or gives what the task does not say.
    """
    with RosClient(MOTION_RECORDER, check, timeout_s) as client:
        listener = _Listener(client.node, task)
        try:
            client.wait(lambda: not listener.silent(), "the streams of the task")
        except UserError as error:
            silent = [f"{key} ({task.observations[key].topic})" for key in listener.silent()]
            raise UserError(f"{error}; nothing came of {', '.join(silent)}{listener.problem}") from None
        begin_s = time.monotonic()
        reported_s = 0.0

        def over() -> bool:
            nonlocal reported_s
            elapsed_s = time.monotonic() - begin_s
            if elapsed_s - reported_s > REPORT_S:
                reported_s = elapsed_s
                report(elapsed_s, listener.counts())
            return elapsed_s >= duration_s

        client.wait(over, "the end of the recording", duration_s + timeout_s)
        return listener.recording()


class _Listener:
    """Subscriptions, and what they have received."""

    def __init__(self, node: Any, task: TaskSpec) -> None:
        self._node, self._task = node, task
        self._samples: dict[str, list[tuple[int, NDArray[Any]]]] = {key: [] for key in task.observations}
        self._commands: list[tuple[int, Any]] = []  # received, message
        self.problem = ""
        for key, spec in task.observations.items():
            node.create_subscription(
                message_class(spec.type),
                spec.topic,
                lambda message, key=key: self._receive(key, message),
                observation_qos(lockstep=False, picture=spec.is_image),
            )
        # Best effort hears every publisher.
        node.create_subscription(
            message_class(task.action.type),
            task.action.topic,
            self._command,
            observation_qos(lockstep=False, picture=False),
        )

    def silent(self) -> list[str]:
        """Streams of which nothing usable has come."""
        return [key for key, samples in self._samples.items() if not samples]

    def counts(self) -> dict[str, int]:
        """Samples of each stream, and commands."""
        return {**{key: len(samples) for key, samples in self._samples.items()}, ACTION: len(self._commands)}

    def recording(self) -> MotionRecording:
        """Everything received so far."""
        streams = {}
        for key, samples in self._samples.items():
            names = () if self._task.observations[key].is_image else column_names(self._task, key)
            stamps = np.array([stamp for stamp, _ in samples], dtype=np.int64)
            streams[key] = Samples(stamps, np.stack([value for _, value in samples]), names)
        if self._commands:
            streams[ACTION] = commanded_samples(self._task.action, self._commands)
        return MotionRecording(streams)

    def _now_ns(self) -> int:
        now_ns: int = self._node.get_clock().now().nanoseconds
        return now_ns

    def _receive(self, key: str, message: Any) -> None:
        spec = self._task.observations[key]
        try:
            value = decode(message, spec)
        except CodecProblem as problem:
            self.problem = f"; {problem}"
            return
        stamp_ns = to_ns(message.header.stamp)
        if stamp_ns <= 0:
            self.problem = f"; {spec.topic} publishes without a header stamp"
            return
        self._samples[key].append((stamp_ns, thumbnail(value) if spec.is_image else value))

    def _command(self, message: Any) -> None:
        self._commands.append((self._now_ns(), message))


def commanded_samples(action: ActionSpec, received: list[tuple[int, Any]]) -> Samples:
    """What was commanded when, of the command messages as they came.

    Args:
        action: message type and names.
        received: (time of arrival, message), in this order.

    Returns:
        Trajectories as the positions that a joint_trajectory_controller wants, every COMMAND_STEP_NS; setpoints
        at their header stamps, or at their arrival where they have none.

    Raises:
        UserError: if no message holds what the task says.
    """
    own_topic = {gripper.name for gripper in action.grippers if gripper.topic is not None}
    names = tuple(name for name in action.command_names if name not in own_topic)
    if action.output == "trajectory":
        return _of_trajectories(names, [(at_ns, decode_trajectory(message)) for at_ns, message in received])
    rows = [(_stamp_ns(message, at_ns), _setpoint(action, message, names)) for at_ns, message in received]
    usable = [(stamp_ns, row) for stamp_ns, row in rows if row is not None]
    if not usable:
        raise UserError(f"no message on {action.topic} holds {len(names)} values for {', '.join(names)}")
    stamps = np.array([stamp_ns for stamp_ns, _ in usable], dtype=np.int64)
    return Samples(stamps, np.array([row for _, row in usable], dtype=np.float64), names)


def _of_trajectories(names: tuple[str, ...], received: list[tuple[int, Trajectory]]) -> Samples:
    controller = TrajectoryController(names, allow_partial_joints_goal=True)
    begun = False
    waiting = list(reversed(received))
    end_ns = received[-1][0]
    stamps: list[int] = []
    rows: list[NDArray[np.float64]] = []
    refusal = ""
    for time_ns in range(received[0][0], end_ns + 1, COMMAND_STEP_NS):
        while waiting and waiting[-1][0] <= time_ns:
            at_ns, trajectory = waiting.pop()
            if not begun and len(trajectory.positions) and set(trajectory.names) == set(names):
                # Before the first trajectory nobody knows what was commanded: where that one begins.
                order = [list(trajectory.names).index(name) for name in names]
                controller.hold(np.array(trajectory.positions[0])[order])
            problem = controller.accept(trajectory, at_ns)
            begun |= problem is None
            refusal = problem or refusal
            controller.sample(time_ns)
        if begun:
            stamps.append(time_ns)
            rows.append(controller.sample(time_ns))
    if not rows:
        raise UserError(f"no trajectory could be executed: {refusal or 'only one was received'}")
    return Samples(np.array(stamps, dtype=np.int64), np.array(rows), names)


def _stamp_ns(message: Any, received_ns: int) -> int:
    return (to_ns(message.header.stamp) if hasattr(message, "header") else 0) or received_ns


def _setpoint(action: ActionSpec, message: Any, names: tuple[str, ...]) -> list[float] | None:
    """Values of one message in the order of names; None if it does not hold them."""
    try:
        return decode_setpoint(message, action, names)
    except CodecProblem:
        return None
