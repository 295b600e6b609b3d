"""A web page to watch, teleoperate, record, review and stop: the robot's console.

Shows cameras, state, the policy and the recorder, and does what a person in front of it asks for, through the same
topics and services that anybody else uses. Easy to get wrong: the web server has a thread of its own, and what it asks
for is done on the executor's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from dp_ros.action import RunPolicy
from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import CodecProblem, decode, message_class
from dp_ros.bridge.images import ImageProblem, decode_compressed, decode_image
from dp_ros.bridge.operator_output import OperatorOutput
from dp_ros.bridge.parameters import declare
from dp_ros.bridge.qos import latched_qos, observation_qos, reliable_qos
from dp_ros.bridge.spin import run_node
from dp_ros.console.access import Access, is_loopback
from dp_ros.console.episodes import Episodes
from dp_ros.console.messages import Do
from dp_ros.console.server import Answer, ConsoleServer
from dp_ros.data.pictures import jpeg
from dp_ros.errors import UserError
from dp_ros.msg import ActionChunk, EpisodeStatus, PolicyStatus, RecorderStatus
from dp_ros.nodes.teleop_device import declare_motion
from dp_ros.runtime.operator import drive_names
from dp_ros.srv import ResetEpisode
from dp_ros.task import TaskSpec, load_task

#: What arrives less often than this is not shown as present any more, seconds.
STALE_S = 3.0
_TIME_LIMIT_S = 60.0
_TRIGGERS = {
    "record.start": "start",
    "record.save": "save",
    "record.discard": "discard",
    "record.delete_last": "delete_last",
}
_POLICY_TRIGGERS = {
    "policy.emergency_stop": "emergency_stop",
    "policy.clear_emergency_stop": "clear_emergency_stop",
}


class ConsoleNode(Node):
    """The console as a node; `Robot` of `console.server`."""

    def __init__(self) -> None:
        super().__init__("console")
        task = self._task = load_task(
            declare(self, "task", "pusht_image", "task file or name", read_only=True)
        )
        host: str = declare(
            self,
            "host",
            "127.0.0.1",
            "address to serve on; one that others reach needs a token",
            read_only=True,
        )
        port: int = declare(
            self, "port", 8080, "port to serve on; 0: a free one", low=0, high=65535, read_only=True
        )
        token: str = declare(
            self,
            "token",
            "",
            "secret in the address that is opened, ?token=..., 12 characters or more",
            read_only=True,
        )
        names: list[str] = list(
            declare(
                self,
                "names",
                [""],
                "names under which this machine is addressed, e.g. [lab3]",
                read_only=True,
            )
        )
        out: str = declare(
            self, "recording", "", "recording that is reviewed; empty: the recorder's", read_only=True
        )
        self._policy: str = declare(self, "policy", "/policy", "policy node", read_only=True).rstrip("/")
        recorder: str = declare(self, "recorder", "/recorder", "recorder node", read_only=True).rstrip("/")
        takeover_topic: str = declare(
            self,
            "takeover_topic",
            f"{self._policy}/operator",
            "on which every command is repeated, so that the policy yields; empty: nowhere",
            read_only=True,
        )
        self._plane = self._declare_plane()
        self._motion = declare_motion(self, task)
        access = Access(host, token, [name for name in names if name])
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._wake = self.create_guard_condition(self._run_jobs)
        self._newest: dict[str, tuple[float, Any]] = {}  # what arrived last, and when
        self._encoded: dict[str, tuple[int, bytes]] = {}  # each camera's picture that was shown last
        self._latency_ms: float | None = None
        self._goal: Any = None
        self._goal_said = ""
        self._stopped = False  # the emergency stop was pressed here
        self._cameras = [key for key, spec in task.observations.items() if spec.is_image]
        self._output = OperatorOutput(self, task, self._motion, takeover_topic=takeover_topic)
        self._listen(recorder)
        self._episodes = Episodes(Path(out) if out else Path())
        self._follow_recorder = not out
        self._server = ConsoleServer(self, self._episodes, access, port)
        shown = "127.0.0.1" if is_loopback(host) else host
        self.port = self._server.port
        address = f"http://{shown}:{self.port}/" + (f"?token={token}" if token else "")
        self.get_logger().info(f"console of task {task.name}: open {address}")

    def _declare_plane(self) -> list[float] | None:
        plane = list(
            declare(
                self,
                "plane",
                [0.0, 0.0, 0.0, 0.0],
                "x and y of the picture's upper left and lower right corner in units of the action, where it "
                "commands a point in the picture; all 0: it does not",
                read_only=True,
            )
        )
        if not any(plane):
            return None
        if len(plane) != 4 or plane[0] == plane[2] or plane[1] == plane[3]:
            raise UserError(f"parameter plane: got {plane}, expected [left, top, right, bottom]")
        if self._task.action.command_dim != 2 or self._task.action.is_velocity:
            raise UserError(
                f"parameter plane: task {self._task.name} commands {', '.join(self._task.action.command_names)}, "
                "expected the two coordinates of a point"
            )
        return plane

    def _listen(self, recorder: str) -> None:
        task = self._task
        for key, spec in task.observations.items():
            self.create_subscription(
                message_class(spec.type),
                spec.topic,
                lambda message, key=key: self._receive(f"stream {key}", message),
                observation_qos(lockstep=False, picture=spec.is_image),
            )
        for name, kind, topic, qos in (
            ("policy", PolicyStatus, f"{self._policy}/status", reliable_qos()),
            ("chunk", ActionChunk, f"{self._policy}/action_chunk", reliable_qos()),
            ("recorder", RecorderStatus, f"{recorder}/status", latched_qos()),
            ("robot", EpisodeStatus, "/pusht/status", reliable_qos(1000)),
            ("diagnostics", DiagnosticArray, "/diagnostics", reliable_qos()),
        ):
            self.create_subscription(
                kind, topic, lambda message, name=name: self._receive(name, message), qos
            )
        self._triggers = {
            do: self.create_client(Trigger, f"{recorder}/{name}") for do, name in _TRIGGERS.items()
        } | {
            do: self.create_client(Trigger, f"{self._policy}/{name}") for do, name in _POLICY_TRIGGERS.items()
        }
        self._marking = self.create_client(SetBool, f"{recorder}/mark")
        self._resetting = self.create_client(ResetEpisode, "/pusht/reset")
        self._running = ActionClient(self, RunPolicy, f"{self._policy}/run")
        self._deadman_pub = self.create_publisher(Bool, f"{self._policy}/deadman", reliable_qos())
        self._stop_pub = self.create_publisher(Bool, f"{self._policy}/emergency_stop", reliable_qos())

    def destroy_node(self) -> None:
        """End the server first: it asks this node for everything."""
        self._server.close()
        self._running.destroy()
        super().destroy_node()

    # --- what came in -----------------------------------------------------------------------------------

    def _receive(self, name: str, message: Any) -> None:
        with self._lock:
            self._newest[name] = (time.monotonic(), message)
            if name == "chunk":
                now_ns = self.get_clock().now().nanoseconds
                self._latency_ms = (now_ns - to_ns(message.observation_stamp)) / 1e6

    def _fresh(self, name: str, age_s: float = STALE_S) -> Any:
        """The newest message of a name; None if it is too old."""
        arrived_s, message = self._newest.get(name, (0.0, None))
        return message if time.monotonic() - arrived_s < age_s else None

    # --- Robot: called from the server's thread ----------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What does not change."""
        action = self._task.action
        limits = action.limits.position
        return {
            "task": self._task.name,
            "description": self._task.description,
            "rate_hz": self._task.rate_hz,
            "cameras": self._cameras,
            "streams": [key for key in self._task.observations if key not in self._cameras],
            "names": action.command_names,
            "drives": drive_names(action),
            "limits": {"min": limits.min, "max": limits.max},
            "plane": self._plane,
        }

    def state(self) -> dict[str, Any]:
        """What does."""
        with self._lock:
            newest = {
                name: self._fresh(name) for name in ("policy", "recorder", "robot", "chunk", "diagnostics")
            }
            streams = {key: self._fresh(f"stream {key}") for key in self._task.observations}
            latency_ms = self._latency_ms
        position = self._motion.position
        return {
            "streams": {
                key: _values(message, self._task, key)
                for key, message in streams.items()
                if key not in self._cameras
            },
            "live": {key: message is not None for key, message in streams.items()},
            "commanded": None if position is None else position.round(4).tolist(),
            "problem": self._output.problem,
            "stopped": self._is_stopped(),
            "policy": _policy(newest["policy"], latency_ms, newest["diagnostics"]),
            "said": self._goal_said,
            "recorder": _recorder(newest["recorder"]),
            "robot": _robot(newest["robot"]),
            "chunk": _chunk(newest["chunk"]),
        }

    def picture(self, camera: int, after_ns: int) -> tuple[int, bytes] | None:
        """Newest picture of a camera."""
        key = self._cameras[camera]
        with self._lock:
            message, encoded = self._fresh(f"stream {key}"), self._encoded.get(key)
        stamp_ns = None if message is None else to_ns(message.header.stamp)
        if stamp_ns is None or stamp_ns == after_ns:
            return None
        if encoded is not None and encoded[0] == stamp_ns:
            return encoded
        spec = self._task.observations[key]
        read = decode_compressed if spec.type.endswith("CompressedImage") else decode_image
        try:
            pixels = read(message, str(spec.encoding))
        except ImageProblem:
            return None
        encoded = stamp_ns, jpeg(pixels, str(spec.encoding))
        with self._lock:
            self._encoded[key] = encoded
        return encoded

    def place(self, values: Sequence[float]) -> str:
        """The device points there."""
        self._motion.checked_place(values)
        return self._wish(self._motion.place, values)

    def drive(self, values: Sequence[float]) -> str:
        """The device asks for speeds."""
        self._motion.checked_rates(values)
        return self._wish(self._motion.drive, values)

    def _wish(self, say: Callable[[Sequence[float], int], None], values: Sequence[float]) -> str:
        if self._is_stopped():
            return "the emergency stop is pressed; clear it first"
        now_ns = self.get_clock().now().nanoseconds
        self._later(lambda: say(values, now_ns))
        return ""

    def _is_stopped(self) -> bool:
        with self._lock:
            policy = self._fresh("policy")
        return self._stopped or (policy is not None and policy.emergency_stop)

    def let_go(self) -> None:
        """The device was let go."""
        self._later(self._motion.let_go)

    def deadman(self, held: bool) -> None:
        """The policy's deadman."""
        self._later(lambda: self._deadman_pub.publish(Bool(data=held)))

    def do(self, request: Do) -> Future[Answer]:
        """Do something once."""
        answer: Future[Answer] = Future()

        def begin() -> None:
            try:
                self._begin(request, answer)
            except Exception as error:  # what a service call makes rclpy raise must not end the node
                _settle(answer, False, f"{type(error).__name__}: {error}")

        self._later(begin)
        return answer

    def _later(self, job: Callable[[], None]) -> None:
        """Have something done on the executor's thread."""
        self._jobs.append(job)
        self._wake.trigger()

    # --- done on the executor's thread -------------------------------------------------------------------

    def _run_jobs(self) -> None:
        while self._jobs:
            self._jobs.popleft()()
        if self._follow_recorder:
            recorder = self._newest.get("recorder")
            if recorder is not None:
                self._episodes.path = Path(recorder[1].path)

    def _begin(self, request: Do, answer: Future[Answer]) -> None:
        if request.do == "policy.clear_emergency_stop":
            self._stopped = False
        if request.do == "policy.emergency_stop":
            self._stopped = True
            self._stop_pub.publish(Bool(data=True))  # reaches every policy node of that name, answered or not
            self._motion.let_go()
        if request.do in _POLICY_TRIGGERS and not self._triggers[request.do].service_is_ready():
            pressed = request.do == "policy.emergency_stop"
            _settle(answer, True, f"{'stopped' if pressed else 'cleared'} here; no policy node answers")
        elif request.do in self._triggers:
            self._call(self._triggers[request.do], Trigger.Request(), answer)
        elif request.do == "record.mark":
            self._call(self._marking, SetBool.Request(data=request.success is not False), answer)
        elif request.do == "robot.reset":
            self._motion.abandon()  # the robot will be elsewhere
            robot = self._newest.get("robot")
            another = 0 if robot is None else max(robot[1].seed + 1, 0)
            seed = another if request.seed is None else request.seed
            self._call(self._resetting, ResetEpisode.Request(seed=seed, legacy=True), answer)
        elif request.do == "policy.run":
            self._run_policy(request, answer)
        else:
            self._cancel(answer)

    def _call(self, client: Any, request: Any, answer: Future[Answer]) -> None:
        if not client.service_is_ready():
            _settle(answer, False, f"{client.srv_name}: nobody offers this service; is the node running?")
            return
        called = client.call_async(request)
        called.add_done_callback(lambda done: _settle(answer, done.result().success, done.result().message))

    def _run_policy(self, request: Do, answer: Future[Answer]) -> None:
        if self._goal is not None:
            _settle(answer, False, "the policy is running already")
            return
        if not self._running.server_is_ready():
            _settle(answer, False, f"{self._policy}: no policy node is active")
            return
        goal = RunPolicy.Goal(
            time_limit_s=_TIME_LIMIT_S if request.time_limit_s is None else request.time_limit_s,
            seed=request.seed or 0,
        )
        self._goal = self._running.send_goal_async(goal)  # nobody else may begin one meanwhile

        def accepted(sent: Any) -> None:
            handle = sent.result()
            if not handle.accepted:
                self._goal = None
                _settle(answer, False, "the policy node refused the goal; its status says why")
                return
            self._goal, self._goal_said = handle, ""
            handle.get_result_async().add_done_callback(ended)
            _settle(answer, True, "the policy runs")

        def ended(finished: Any) -> None:
            self._goal = None
            result = finished.result().result
            self._goal_said = f"{result.reason}: {result.message}" if result.message else result.reason

        self._goal.add_done_callback(accepted)

    def _cancel(self, answer: Future[Answer]) -> None:
        if self._goal is None or not hasattr(self._goal, "cancel_goal_async"):
            _settle(answer, False, "no goal of this console is being run")
            return
        self._goal.cancel_goal_async().add_done_callback(
            lambda done: _settle(answer, True, "the policy brakes")
        )


def _settle(answer: Future[Answer], done: bool, text: str) -> None:
    if answer.set_running_or_notify_cancel():
        answer.set_result((bool(done), text or ("done" if done else "refused")))


def _values(message: Any, task: TaskSpec, key: str) -> list[float] | None:
    if message is None:
        return None
    try:
        return [round(float(value), 4) for value in decode(message, task.observations[key]).reshape(-1)]
    except CodecProblem:
        return None


def _policy(status: Any, latency_ms: float | None, diagnostics: Any) -> dict[str, Any] | None:
    if status is None:
        return None
    jitter = None  # a trajectory has no ticks
    for entry in [] if diagnostics is None else diagnostics.status:
        if entry.name.endswith(": setpoints"):
            jitter = next((float(pair.value) for pair in entry.values if pair.key == "jitter_p99_ms"), jitter)
    return {
        **{
            key: getattr(status, key)
            for key in (
                "state",
                "reason",
                "message",
                "model_id",
                "mode",
                "gate",
                "emergency_stop",
                "takeover",
                "dry_run",
                "inferences",
                "late_steps",
            )
        },
        "queue_s": _number(status.queue_s),
        "inference_ms": _number(status.inference_ms),
        "latency_ms": None if latency_ms is None else _number(latency_ms),
        "jitter_ms": None if jitter is None else _number(jitter),
        "counts": dict(zip(status.counted, [int(count) for count in status.counts], strict=True)),
    }


def _recorder(status: Any) -> dict[str, Any] | None:
    if status is None:
        return None
    return {
        "phase": status.phase,
        "episodes": status.episodes,
        "steps": status.steps,
        "message": status.message,
        "path": status.path,
        "success": status.success,
        "problems": list(status.problems),
        "ages_s": dict(zip(status.streams, [round(float(age), 3) for age in status.ages_s], strict=True)),
    }


def _robot(status: Any) -> dict[str, Any] | None:
    if status is None:
        return None
    return {
        "phase": status.phase,
        "episode": status.episode,
        "seed": status.seed,
        "step": status.step,
        "score": _number(status.score),
        "coverage": _number(status.coverage),
        "success": status.success,
    }


def _chunk(message: Any) -> dict[str, Any] | None:
    if message is None:
        return None
    width = max(len(message.names), 1)
    values = [round(float(value), 3) for value in message.values]
    return {
        "stamp_ns": to_ns(message.header.stamp),
        "values": [values[i : i + width] for i in range(0, len(values), width)],
    }


def _number(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return round(float(value), 4) if abs(value) < 1e12 else None


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(ConsoleNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
