"""The scripted PushT expert as the operator, which sees the simulated robot's status.

It commands after `~/start`, until `~/stop` or the end of the episode. Easy to get wrong: what is published is what the
operator wants, and noise on what is executed is the robot's (`actuation_noise_px`); and a command published before a
listener is connected never reaches it, so `~/start` refuses until all `listeners` are.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.lockstep import LockstepParticipant
from dp_ros.bridge.outputs import encode_command
from dp_ros.bridge.parameters import declare
from dp_ros.bridge.qos import reliable_qos
from dp_ros.msg import EpisodeStatus
from dp_ros.sim.pusht_expert import SMOOTH_PX_PER_STEP, PushTExpert
from dp_ros.task import TaskSpec


class ExpertOperator:
    """The scripted expert as the operator (services `~/start`, `~/stop`).

    Args:
        node: an rclpy node; gets the expert's parameters, topics and services.
        task: that is demonstrated.
        lockstep: take part in lockstep simulation as `teleop`.
    """

    def __init__(self, node: Any, task: TaskSpec, *, lockstep: bool) -> None:
        self._node, self._task = node, task
        self._listeners: list[str] = list(
            declare(
                node,
                "listeners",
                ["pusht"],
                "nodes that must be connected to the command topic before ~/start is accepted",
                read_only=True,
            )
        )
        push, travel = (
            declare(
                node,
                name,
                default,
                f"speed of the expert {when}, px per step",
                low=0.1,
                high=100.0,
                read_only=True,
            )
            for name, default, when in (
                ("push_px_per_step", SMOOTH_PX_PER_STEP[0], "while pushing"),
                ("travel_px_per_step", SMOOTH_PX_PER_STEP[1], "between pushes"),
            )
        )
        self._expert = PushTExpert(push_px_per_step=push, travel_px_per_step=travel)
        self._enabled = False
        self._episode = -1  # that the expert was last reset for
        self._operating = -1  # episode that is being demonstrated
        self._pending_ns: int | None = None  # clock time that lockstep waits for
        self._newest: Any = None  # command
        self._status: Any = None
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="planner")
        self._planned = self._node.create_guard_condition(self._publish_planned)
        self._planned_episode = -1
        self._plan: Future[NDArray[np.float64]] | None = None
        self._target: NDArray[np.float64] | None = None  # commanded last
        self._command_pub = self._node.create_publisher(
            JointTrajectory, self._task.action.topic, reliable_qos()
        )
        self._participant = LockstepParticipant(node, "teleop", self._tick) if lockstep else None
        self._node.create_subscription(
            EpisodeStatus, "/pusht/status", self._receive_status, reliable_qos(1000)
        )
        self._node.create_service(Trigger, "~/start", self._start)
        self._node.create_service(Trigger, "~/stop", self._stop)

    def close(self) -> None:
        """Stop planning."""
        self._planner.shutdown(cancel_futures=True)

    # --- services ---------------------------------------------------------------------------------------

    def _start(self, request: Any, response: Any) -> Any:
        if self._status is None:
            response.message = "no status of the simulated robot yet (/pusht/status)"
        elif self._status.phase == "done":
            response.message = f"episode {self._status.episode} is over; reset the robot first"
        elif deaf := self._deaf():
            response.message = deaf
        else:
            self._enabled, self._operating, self._target = True, self._status.episode, None
            response.success, response.message = True, f"demonstrating episode {self._operating}"
        return response

    def _stop(self, request: Any, response: Any) -> Any:
        response.success, response.message = True, "stopped" if self._enabled else "was not demonstrating"
        self._enabled = False
        return response

    def _deaf(self) -> str:
        """Why the first command would not reach everybody; empty if it would.

        That a listener is known does not mean that it is connected: both are asked.
        """
        topic = self._task.action.topic
        known = self._node.get_subscriptions_info_by_topic(self._command_pub.topic_name)
        missing = sorted(set(self._listeners) - {endpoint.node_name for endpoint in known})
        if missing:
            return f"not yet listening to {topic}: {', '.join(missing)}"
        volatile = sum(e.qos_profile.durability == DurabilityPolicy.VOLATILE for e in known)
        connected = self._command_pub.get_subscription_count()
        return f"{connected} of {volatile} listeners to {topic} are connected" if connected < volatile else ""

    # --- operation --------------------------------------------------------------------------------------

    def _receive_status(self, status: Any) -> None:
        stamp_ns = to_ns(status.header.stamp)
        if self._status is not None and stamp_ns <= to_ns(self._status.header.stamp):
            # Lockstep repeats what it published while it waits: perhaps somebody missed the command.
            if self._newest is not None and to_ns(self._newest.header.stamp) == stamp_ns:
                self._command_pub.publish(self._newest)
            return
        self._status = status
        if self._enabled and (status.phase == "done" or status.episode != self._operating):
            self._enabled = False
        if self._participant is not None:
            self._answer()
        elif self._enabled and self._plan is None:
            self._planned_episode = status.episode
            self._plan = self._planner.submit(self._act, status)
            self._plan.add_done_callback(lambda _: self._planned.trigger())
        elif self._enabled and status.phase == "running" and self._target is not None:
            self._command(self._target, stamp_ns + self._task.dt_ns)  # stay there while planning

    def _tick(self, time_ns: int) -> None:
        self._pending_ns = time_ns
        self._answer()

    def _answer(self) -> None:
        """Lockstep: command for the clock time, once its status is here."""
        time_ns = self._pending_ns
        if time_ns is None or self._status is None or to_ns(self._status.header.stamp) != time_ns:
            return
        self._pending_ns = None
        if self._enabled:
            self._command(self._act(self._status), time_ns)
        assert self._participant is not None
        self._participant.done(time_ns, time_ns if self._enabled else 0)

    def _publish_planned(self) -> None:
        """Real time: command what was planned, for the step after the newest one seen."""
        if self._plan is None or not self._plan.done():
            return
        target, self._plan = self._plan.result(), None
        if self._enabled and self._planned_episode == self._operating:
            self._command(target, to_ns(self._status.header.stamp) + self._task.dt_ns)

    def _act(self, status: Any) -> NDArray[np.float64]:
        """Target for the state of `status`; in real time this runs in the planning thread."""
        if status.episode != self._episode or status.phase == "ready":
            self._expert.reset(max(status.seed, 0))
            self._episode = status.episode
        return self._expert.act(status.state)

    def _command(self, target: NDArray[np.float64], time_ns: int) -> None:
        self._target = target
        self._newest = encode_command(target, time_ns, self._task.action.names)
        self._command_pub.publish(self._newest)
