"""The bench of the fault tests: a real policy node, a real robot process, and a witness of what passes between.

Easy to get wrong: the witness listens to trajectories as well, and would be the controller that a silent one is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from dp_ros.action import RunPolicy
from dp_ros.bridge.client import RosClient
from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.qos import reliable_qos
from dp_ros.msg import ActionChunk, PolicyStatus
from dp_ros.processes import Processes

from .motion import Floats, Sent

#: A participant that dies is forgotten after two seconds, not twenty.
LEASE = """<?xml version="1.0" encoding="UTF-8"?>
<dds><profiles xmlns="http://www.eprosima.com"><participant profile_name="short_lease" is_default_profile="true">
<rtps><builtin><discovery_config>
<leaseDuration><sec>2</sec></leaseDuration><leaseAnnouncement><nanosec>500000000</nanosec></leaseAnnouncement>
</discovery_config></builtin></rtps></participant></profiles></dds>
"""
POLL_S = 0.1


class RobotProcess:
    """The robot as a process that can be told what is wrong with it, stopped and killed."""

    def __init__(self, folder: Path, clock_s: float | None = None) -> None:
        profile = folder / "short_lease.xml"
        profile.write_text(LEASE)
        command = [sys.executable, "-m", f"{__package__}.robot_process"]
        command += [] if clock_s is None else [str(clock_s)]
        root = Path(__file__).parents[3]
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile)},
        )
        self._answers: SimpleQueue[str] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def set(self, **faults: Any) -> dict[str, Any]:
        """Set faults; returns when they took effect, see `robot_process.Robot.set`."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(faults) + "\n")
        self._popen.stdin.flush()
        try:
            answer: dict[str, Any] = json.loads(self._answers.get(timeout=20.0))
        except Empty:
            raise AssertionError(
                f"the robot process does not answer; it ended: {self._popen.poll()}"
            ) from None
        return answer

    def send(self, number: int) -> None:
        """Send a signal."""
        self._popen.send_signal(number)

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self._popen.kill()
        self._popen.wait(10.0)
        self._reader.join(10.0)
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._answers.put(line)


class Bench(RosClient):
    """A policy node and a robot, in a `with` block. It holds the deadman while it waits.

    Args:
        policy: the running node, named `policy`.
        folder: for files of this bench.
        clock_s: None: wall time; else the robot publishes /clock from this time on.

    Attributes:
        trajectories: what was sent to the robot, when (wall time).
        statuses: what the policy said, when.
        chunks: what the model gave.
        position: (2,) where the controller wanted the robot when a fault was set last.
        table: one line for each row.
        late_s: of every trajectory, how long after the time of its first point it was there.
        deadman: what is sent on the deadman topic; None: nothing.
    """

    def __init__(self, policy: Processes, folder: Path, clock_s: float | None = None) -> None:
        super().__init__("bench")
        self.policy, self._folder, self._clock_s = policy, folder, clock_s
        self.trajectories: list[Sent] = []
        self.statuses: list[Sent] = []
        self.chunks: list[Any] = []
        self.position: Floats = np.zeros(2)
        self.table: list[str] = []
        self.late_s: list[float] = []
        self.deadman: bool | None = True
        self._clocks: list[dict[str, Any]] = []
        self.usual_threads = 0  # of the policy, in its first goal
        self._listener: Any = None

    def __enter__(self) -> Bench:
        super().__enter__()
        node, qos = self.node, reliable_qos(100)
        self.listen(True)
        node.create_subscription(ActionChunk, "/policy/action_chunk", self.chunks.append, qos)
        node.create_subscription(PolicyStatus, "/policy/status", self._hear, qos)
        self._deadman_pub = node.create_publisher(Bool, "/policy/deadman", qos)
        self._operator_pub = node.create_publisher(JointTrajectory, "/policy/operator", qos)
        self._run = ActionClient(node, RunPolicy, "/policy/run")
        self._services = {
            name: node.create_client(kind, f"/policy/{name}")
            for name, kind in (
                ("emergency_stop", Trigger),
                ("clear_emergency_stop", Trigger),
                ("change_state", ChangeState),
                ("set_parameters", SetParameters),
            )
        }
        self.start_robot()
        return self

    def __exit__(self, *of_error: Any) -> None:
        self.robot.end()
        self._run.destroy()
        super().__exit__(*of_error)

    # --- the robot --------------------------------------------------------------------------------------

    def start_robot(self) -> None:
        """Start a robot process, which stands at zero."""
        self.robot = RobotProcess(self._folder, self._clock_s)
        self.set()
        self._clocks[-1]["wall_ns"] = self._clocks[-1]["started_ns"]

    def kill_robot(self) -> int:
        """Kill the robot process, and with it its clock; returns the wall time."""
        wall_ns = time.time_ns()
        self.robot.end()
        if self._clock_s is not None:
            self._clocks.append({"wall_ns": wall_ns, "stopped_ns": self.ros_ns(wall_ns)})
        return wall_ns

    def set(self, **faults: Any) -> int:
        """Set faults of the robot; returns the wall time at which they took effect."""
        answer = self.robot.set(**faults)
        self._clocks.append(answer)
        self.position = np.array(answer["position"])
        return int(answer["wall_ns"])

    def ros_ns(self, wall_ns: int) -> int:
        """The robot's ROS time at a wall time."""
        if self._clock_s is None:
            return wall_ns
        clock = [c for c in self._clocks if c["wall_ns"] <= wall_ns or c is self._clocks[0]][-1]
        if clock["stopped_ns"] is not None:
            return int(clock["stopped_ns"])
        return wall_ns + int(clock["offset_ns"])

    # --- people -----------------------------------------------------------------------------------------

    def operate(self) -> None:
        """Send one command of an operator."""
        self._operator_pub.publish(JointTrajectory())

    def call(self, service: str, request: Any = None) -> Any:
        """The response of a service of the node."""
        client = self._services[service]
        self.until(client.service_is_ready, f"the service {service}")
        return self.answer(client.call_async(request or Trigger.Request()), f"the answer of {service}")

    def change_state(self, transition: int) -> None:
        """Send the lifecycle node through a transition."""
        request = ChangeState.Request()
        request.transition.id = transition
        assert self.call("change_state", request).success

    def set_parameter(self, name: str, value: Any) -> None:
        """Set a parameter of the node."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self.call("set_parameters", request).results
        assert result.successful, result.reason

    def send_goal(self, time_limit_s: float) -> Any:
        """Send a goal; returns its handle, accepted or not."""
        self.until(self._run.server_is_ready, "the action server")
        sent = self._run.send_goal_async(RunPolicy.Goal(time_limit_s=time_limit_s, seed=1))
        return self.answer(sent, "the answer to the goal")

    # --- waiting ----------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = 20.0) -> Any:
        """Receive until `condition` gives something true; fails after `limit_s` or when the policy has ended."""
        end_s = time.monotonic() + limit_s
        look_s = 0.0
        while True:
            if time.monotonic() >= look_s:
                if value := condition():
                    return value
                assert not self.policy.ended(), self.policy.describe_end("policy")
                assert time.monotonic() < end_s, f"waited {limit_s} s for {what}, in vain; {self.describe()}"
                look_s = time.monotonic() + POLL_S
                if self.deadman is not None:
                    self._deadman_pub.publish(Bool(data=self.deadman))
            self._executor.spin_once(timeout_sec=0.02)

    def answer(self, future: Any, what: str, limit_s: float = 20.0) -> Any:
        """The result of a future."""
        self.until(future.done, what, limit_s)
        return future.result()

    def describe(self) -> str:
        """What the policy said last, for a person."""
        last = self.statuses[-1].message if self.statuses else None
        said = f"status {last.state} {last.reason} {last.message}" if last else "no status"
        return "\n  ".join([said, *self.policy.output("policy")[-12:]])

    def wait_until_ready(self) -> None:
        """Wait until the node, by the robot's clock, says that a goal could begin now."""
        seen = len(self.statuses)

        def ready() -> bool:
            if len(self.statuses) == seen:
                return False
            last = self.statuses[-1]
            behind_ns = self.ros_ns(last.sent_ns) - to_ns(last.message.header.stamp)
            return last.message.state == "idle" and not last.message.reason and abs(behind_ns) < 500_000_000

        self.until(ready, "the policy to be ready")

    def wait_until_standing(self) -> None:
        """Wait until the robot, without a fault, has stood for half a second: what was under way has arrived."""
        since_s = time.monotonic()

        def standing() -> bool:
            nonlocal since_s
            before = self.position
            self.set()
            if not np.array_equal(before, self.position):
                since_s = time.monotonic()
            return time.monotonic() - since_s > 0.5

        self.until(standing, "the robot to stand")

    # --- the policy -------------------------------------------------------------------------------------

    def listen(self, wanted: bool) -> None:
        """Listen to trajectories or not."""
        if wanted and self._listener is None:
            self._listener = self.node.create_subscription(
                JointTrajectory, "/robot/joint_trajectory", self._receive, reliable_qos(100)
            )
        elif not wanted and self._listener is not None:
            self.node.destroy_subscription(self._listener)
            self._listener = None

    def counters(self) -> dict[str, int]:
        """How often each reason has occurred, as the last status says."""
        if not self.statuses:
            return {}
        status = self.statuses[-1].message
        return dict(zip(status.counted, status.counts, strict=True))

    def threads(self) -> int:
        """Threads of the policy node."""
        return len(os.listdir(f"/proc/{self.policy.pids['policy']}/task"))

    def expect_threads(self) -> None:
        """The policy has no more threads than in its first goal."""
        if self.usual_threads:
            self.until(lambda: self.threads() <= self.usual_threads, "the threads of the policy to end", 10.0)

    def report(self) -> None:
        """Print the table of rows."""
        late_ms = np.array(self.late_s) * 1e3
        late = f"late by {np.median(late_ms):.0f} ms, at most {late_ms.max():.0f} ms" if len(late_ms) else ""
        print("\n" + "\n".join([*self.table, f"{len(late_ms)} trajectories {late}"]))

    def replace_policy(self, policy: Processes) -> None:
        """Go on with another process."""
        self.policy, self.usual_threads = policy, 0

    def _receive(self, message: Any, info: Any) -> None:
        self.trajectories.append(Sent(int(info["source_timestamp"]), message))

    def _hear(self, message: Any, info: Any) -> None:
        self.statuses.append(Sent(int(info["source_timestamp"]), message))
