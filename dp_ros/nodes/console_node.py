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
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import message_class
from dp_ros.bridge.images import ImageProblem, decode_compressed, decode_image
from dp_ros.bridge.operator_output import OperatorOutput
from dp_ros.bridge.qos import latched_qos, observation_qos, reliable_qos
from dp_ros.bridge.spin import run_node
from dp_ros.bridge.watchers import count_executors
from dp_ros.console.access import Access, is_loopback
from dp_ros.console.episodes import Episodes
from dp_ros.console.messages import Do
from dp_ros.console.replay import PageReplay
from dp_ros.console.server import Answer, ConsoleServer
from dp_ros.console.ticks import TickGaps
from dp_ros.data.pictures import jpeg
from dp_ros.msg import ActionChunk, EpisodeStatus, PolicyStatus, RecorderStatus
from dp_ros.nodes.console_goal import PolicyGoal, settle
from dp_ros.nodes.console_labels import RecorderLabels
from dp_ros.nodes.console_options import declared_options
from dp_ros.nodes.console_view import chunk_shown, policy_shown, recorder_shown, robot_shown, values_shown
from dp_ros.nodes.teleop_device import declare_motion
from dp_ros.runtime.operator import OperatorMotion, drive_names
from dp_ros.runtime.replay import Floats
from dp_ros.srv import ResetEpisode
from dp_ros.task import TaskSpec

#: What arrives less often than this is not shown as present any more, seconds.
STALE_S = 3.0
#: States in which the policy's loop does not run.
_RESTING = ("idle", "inactive")
#: What is shown of how evenly the policy runs, by what it puts out.
_JITTER = {"trajectory": "loop period, longest", "setpoint": "setpoint jitter, p99"}
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
        options = self._options = declared_options(self)
        task = self._task = options.task
        self._motion = declare_motion(self, task)
        access = Access(options.host, options.token, options.names)
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._wake = self.create_guard_condition(self._run_jobs)
        self._newest: dict[str, tuple[float, Any]] = {}  # what arrived last, and when
        self._encoded: dict[str, tuple[int, bytes]] = {}  # each camera's picture that was shown last
        self._latency_ms: float | None = None
        self._ticks = TickGaps()  # of the policy's loop
        self._goal = PolicyGoal(self, options.policy)
        self._stopped = False  # the emergency stop was pressed here, or on its topic
        self._cameras = [key for key, spec in task.observations.items() if spec.is_image]
        self._output = OperatorOutput(
            self, task, self._motion, takeover_topic=options.takeover_topic, on_tick=self._before_tick
        )
        self._replay = PageReplay(
            task, self._motion, self._commanded_by, silence_s=self.get_parameter("command_timeout_s").value
        )
        self._labels = RecorderLabels(self, options.recorder)
        self._listen(options.policy, options.recorder)
        self._episodes = Episodes(Path(options.recording) if options.recording else Path())
        self._follow_recorder = not options.recording
        self._server = ConsoleServer(self, self._episodes, access, options.port)
        shown = "127.0.0.1" if is_loopback(options.host) else options.host
        self.port = self._server.port
        address = f"http://{shown}:{self.port}/" + (f"?token={options.token}" if options.token else "")
        self.get_logger().info(f"console of task {task.name}: open {address}")

    def _listen(self, policy: str, recorder: str) -> None:
        task = self._task
        for key, spec in task.observations.items():
            self.create_subscription(
                message_class(spec.type),
                spec.topic,
                lambda message, key=key: self._receive(f"stream {key}", message),
                observation_qos(lockstep=False, picture=spec.is_image),
            )
        for name, kind, topic, qos in (
            ("policy", PolicyStatus, f"{policy}/status", reliable_qos()),
            ("chunk", ActionChunk, f"{policy}/action_chunk", reliable_qos()),
            ("recorder", RecorderStatus, f"{recorder}/status", latched_qos()),
            ("robot", EpisodeStatus, "/pusht/status", reliable_qos(1000)),
            ("diagnostics", DiagnosticArray, "/diagnostics", reliable_qos()),
        ):
            self.create_subscription(
                kind, topic, lambda message, name=name: self._receive(name, message), qos
            )
        self._triggers = {
            do: self.create_client(Trigger, f"{recorder}/{name}") for do, name in _TRIGGERS.items()
        } | {do: self.create_client(Trigger, f"{policy}/{name}") for do, name in _POLICY_TRIGGERS.items()}
        self._marking = self.create_client(SetBool, f"{recorder}/mark")
        self._resetting = self.create_client(ResetEpisode, "/pusht/reset")
        self.create_subscription(Bool, f"{policy}/emergency_stop", self._stop_pressed, reliable_qos())
        self._deadman_pub = self.create_publisher(Bool, f"{policy}/deadman", reliable_qos())
        self._stop_pub = self.create_publisher(Bool, f"{policy}/emergency_stop", reliable_qos())

    def destroy_node(self) -> None:
        """End the server first: it asks this node for everything."""
        self._server.close()
        self._goal.destroy()
        super().destroy_node()

    # --- what came in -----------------------------------------------------------------------------------

    def _receive(self, name: str, message: Any) -> None:
        if name == "recorder" and self._follow_recorder:
            self._episodes.path = Path(message.path)  # before anybody is shown that there are episodes
        with self._lock:
            self._newest[name] = (time.monotonic(), message)
            if name == "chunk":
                now_ns = self.get_clock().now().nanoseconds
                self._latency_ms = (now_ns - to_ns(message.observation_stamp)) / 1e6
            elif name == "policy" and message.state in _RESTING:
                self._ticks.rest()
            elif name == "policy":
                self._ticks.ticked(to_ns(message.header.stamp))
        if name == "recorder":
            self._labels.ask()

    def _stop_pressed(self, message: Any) -> None:
        if message.data:
            self._stop()

    def _stop(self) -> None:
        self._stopped = True
        self._replay.stop("the emergency stop was pressed")
        self._motion.let_go()

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
            "plane": self._options.plane,
            "plane_camera": self._options.plane_camera,
            "gamepad": self._options.gamepad,
            "jitter": _JITTER["trajectory" if action.output == "trajectory" else "setpoint"],
        }

    def state(self) -> dict[str, Any]:
        """What does."""
        with self._lock:
            newest = {
                name: self._fresh(name) for name in ("policy", "recorder", "robot", "chunk", "diagnostics")
            }
            streams = {key: self._fresh(f"stream {key}") for key in self._task.observations}
            latency_ms, tick_gap_ms = self._latency_ms, self._ticks.longest_ms()
        position = self._output.motion.position
        return {
            "streams": {
                key: values_shown(message, self._task, key)
                for key, message in streams.items()
                if key not in self._cameras
            },
            "live": {key: message is not None for key, message in streams.items()},
            "commanded": None if position is None else position.round(4).tolist(),
            "problem": self._output.problem,
            "stopped": self._is_stopped(),
            "policy": policy_shown(newest["policy"], latency_ms, tick_gap_ms, newest["diagnostics"]),
            "said": self._goal.said,
            "recorder": recorder_shown(newest["recorder"]),
            "labels": self._labels.known if newest["recorder"] is not None else None,
            "replay": self._replay.state,
            "robot": robot_shown(newest["robot"]),
            "chunk": chunk_shown(newest["chunk"]),
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

        def begin() -> None:
            if self._replay.active:
                self._replay.stop("a hand took over")  # and moves the robot when that has come to rest
            else:
                say(values, now_ns)

        self._later(begin)
        return ""

    def _is_stopped(self) -> bool:
        with self._lock:
            policy = self._fresh("policy")
        return self._stopped or (policy is not None and policy.emergency_stop)

    def let_go(self) -> None:
        """The device was let go."""

        def let_go() -> None:
            self._replay.stop("whoever had it replayed let go")
            self._motion.let_go()

        self._later(let_go)

    def deadman(self, held: bool) -> None:
        """The policy's deadman."""
        self._later(lambda: self._deadman_pub.publish(Bool(data=held)))

    def do(self, request: Do) -> Future[Answer]:
        """Do something once."""
        return self._answered(lambda answer: self._begin(request, answer))

    def replay(self, episode: int, task: TaskSpec, commands: Floats, speed: float) -> Future[Answer]:
        """Replay an episode on the robot."""
        return self._answered(lambda answer: self._begin_replay(answer, episode, task, commands, speed))

    def replay_watched(self) -> None:
        """Somebody watches the episode that is replayed."""
        self._replay.here()

    def _answered(self, job: Callable[[Future[Answer]], None]) -> Future[Answer]:
        answer: Future[Answer] = Future()

        def begin() -> None:
            try:
                job(answer)
            except Exception as error:  # what a service call makes rclpy raise must not end the node
                settle(answer, False, f"{type(error).__name__}: {error}")

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

    def _begin(self, request: Do, answer: Future[Answer]) -> None:
        if request.do == "policy.clear_emergency_stop":
            self._stopped = False
        if request.do == "policy.emergency_stop":
            self._stop_pub.publish(Bool(data=True))  # reaches every policy node of that name, answered or not
            self._stop()
        if request.do in _POLICY_TRIGGERS and not self._triggers[request.do].service_is_ready():
            pressed = request.do == "policy.emergency_stop"
            settle(answer, True, f"{'stopped' if pressed else 'cleared'} here; no policy node answers")
        elif request.do in self._triggers:
            self._call(self._triggers[request.do], Trigger.Request(), answer)
        elif request.do == "record.mark":
            self._call(self._marking, SetBool.Request(data=request.success is not False), answer)
        elif request.do == "record.label":
            given = {"operator_name": request.operator, "instruction": request.instruction}
            self._labels.set(given, lambda done, text: settle(answer, done, text))
        elif request.do == "robot.stop_replay":
            was = self._replay.active
            self._replay.stop("it was stopped")
            settle(answer, was, "the replay ends" if was else "no episode is being replayed")
        elif request.do == "robot.reset":
            self._replay.abandon("the robot was put elsewhere")
            self._motion.abandon()  # the robot will be elsewhere
            robot = self._newest.get("robot")
            another = 0 if robot is None else max(robot[1].seed + 1, 0)
            seed = another if request.seed is None else request.seed
            self._call(self._resetting, ResetEpisode.Request(seed=seed, legacy=True), answer)
        elif request.do == "policy.run":
            if self._replay.active:
                settle(answer, False, "an episode is being replayed; stop that first")
            else:
                self._goal.run(request.time_limit_s, request.seed, answer)
        else:
            self._goal.cancel(answer)

    def _begin_replay(
        self, answer: Future[Answer], episode: int, task: TaskSpec, commands: Floats, speed: float
    ) -> None:
        policy, topic = self._fresh("policy"), self._task.action.topic
        problem = ""
        if self._is_stopped():
            problem = "the emergency stop is pressed; clear it first"
        elif policy is not None and policy.state not in _RESTING:
            problem = "the policy runs; cancel it first"
        elif self._output.measured(self.get_clock().now().nanoseconds) is None:
            problem = "where the robot is, is not known (no fresh sample of its state)"
        elif not count_executors(self, topic):
            problem = f"nobody listens to {topic}; is the robot's controller running?"
        else:
            try:
                self._replay.begin(episode, task, commands, speed)
            except ValueError as error:
                problem = str(error)
        text = f"episode {episode}: {problem}" if problem else f"episode {episode} is replayed"
        settle(answer, not problem, text)

    def _before_tick(self, now_ns: int) -> None:
        if self._replay.active:
            if self._is_stopped():
                self._replay.stop("the emergency stop was pressed")
            self._replay.tick(now_ns, self._output.measured(now_ns), self._output.measured_ns)

    def _commanded_by(self, motion: OperatorMotion) -> None:
        self._output.motion = motion

    def _call(self, client: Any, request: Any, answer: Future[Answer]) -> None:
        if not client.service_is_ready():
            settle(answer, False, f"{client.srv_name}: nobody offers this service; is the node running?")
            return
        called = client.call_async(request)
        called.add_done_callback(lambda done: settle(answer, done.result().success, done.result().message))


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(ConsoleNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
