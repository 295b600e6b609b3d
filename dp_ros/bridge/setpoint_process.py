"""The policy node's end of the process that sends setpoints (`bridge.setpoint_loop`).

The process is told of each change of what is commanded as soon as that is made, and tells in return how late its
ticks were and what its gate did. Easy to get wrong: nothing here may wait for the process, for what waits is the
thread that schedules; a process that takes nothing any more is an error, as one that has ended is.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from dp_ros.bridge.setpoint_loop import MESSAGE_BYTES, Settings
from dp_ros.bridge.ticker import TickRecord, TickStatistics
from dp_ros.errors import UserError
from dp_ros.runtime.outlet import Outlet
from dp_ros.runtime.safety import BadAction
from dp_ros.task import ActionSpec

#: How long the process may take to begin, on a busy machine.
BEGIN_S = 60.0
#: How long it may take to end once the robot is at rest.
END_S = 5.0


class SetpointProcess:
    """Starts the process; returns when it ticks.

    Args:
        node: an rclpy node.
        action: what is commanded, at which rate.
        outlet: where it comes from; its changes are handed over.
        dry_run: publish nothing.
        realtime_priority: of the ticking thread, see `Ticker`.
        on_error: called from another thread with what went wrong; nothing is sent any more then.

    Attributes:
        record: of the ticks, as far as they are known here.
        priority: SCHED_FIFO priority of the ticking thread, 0 for none.
        listeners: how many the process's publisher reaches; a subscriber that the node sees may not be among them yet.

    Raises:
        UserError: if the process does not begin, or may not have its priority.
    """

    def __init__(
        self,
        node: Any,
        action: ActionSpec,
        outlet: Outlet,
        *,
        dry_run: bool,
        realtime_priority: int,
        on_error: Callable[[Exception], None],
    ) -> None:
        assert action.rate_hz is not None
        self._outlet, self._on_error = outlet, on_error
        self.record = TickRecord(action.rate_hz)
        self.priority = self.listeners = 0
        self._closing = False
        settings = Settings(
            action=_resolved(node, action).model_dump(mode="json"),
            node=f"{node.get_name()}_setpoints",
            namespace=node.get_namespace(),
            dry_run=dry_run,
            realtime_priority=realtime_priority,
            use_sim_time=bool(node.get_clock().ros_time_is_active),
            ros_arguments=enclave_arguments(sys.argv),
        )
        self._link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        self._reader: threading.Thread | None = None
        with other:
            # In a session of its own it shares no scheduling group with inference, and no Ctrl-C with the node.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dp_ros.bridge.setpoint_loop", str(other.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                start_new_session=True,
            )
        try:
            self._link.send(json.dumps(dataclasses.asdict(settings)).encode())
            self._begin()
        except BaseException:
            self.close()
            raise
        self._reader = threading.Thread(target=self._read, name="setpoint reports", daemon=True)
        self._reader.start()
        outlet.on_change = self._hand_over
        self._hand_over()

    def statistics(self) -> TickStatistics:
        """How punctual the ticks have been."""
        return self.record.statistics()

    def close(self) -> bool:
        """Let the process end, which brings what still moves to rest; False if it had to be killed."""
        self._closing = True
        self._outlet.on_change = lambda: None
        self._link.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(END_S)
            ended = True
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            ended = False
        if self._reader is not None:
            self._reader.join()
        self._link.close()
        return ended

    def _begin(self) -> None:
        self._link.settimeout(BEGIN_S)
        report: dict[str, Any] = {}
        try:
            while not report.get("ready"):
                report = json.loads(self._link.recv(MESSAGE_BYTES) or b'{"refused": ""}')
                if "refused" in report:
                    raise UserError(
                        report["refused"] or "the process that sends setpoints ended; see its output"
                    )
            self.priority = report["priority"]
        except TimeoutError:
            raise UserError(f"the process that sends setpoints did not begin within {BEGIN_S:g} s") from None
        except ConnectionError as error:
            raise UserError(f"the process that sends setpoints ended ({error}); see its output") from None
        self._link.settimeout(None)

    def _hand_over(self) -> None:
        message = pickle.dumps(self._outlet.hand_over(), protocol=pickle.HIGHEST_PROTOCOL)
        try:
            self._link.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self._on_error(RuntimeError("the process that sends setpoints does not take them any more"))
        except ConnectionError:
            pass  # the reading thread says so
        except OSError as error:
            self._on_error(RuntimeError(f"{len(message)} bytes could not be handed over to it: {error}"))

    def _read(self) -> None:
        while message := self._receive():
            report = json.loads(message)
            for late_ns, skipped in report["late"]:
                self.record.note(late_ns, skipped)
            self._outlet.heard(report["counts"], report["limiting"])
            self.listeners = report["listeners"]
            if "error" in report:
                name, text = report["error"]
                self._on_error(BadAction(text) if name == "BadAction" else RuntimeError(f"{name}: {text}"))
        if not self._closing:
            self._on_error(RuntimeError(f"the process that sends setpoints ended ({self._process.wait()})"))

    def _receive(self) -> bytes:
        try:
            return self._link.recv(MESSAGE_BYTES)
        except ConnectionError:
            return b""


def enclave_arguments(argv: Sequence[str]) -> list[str]:
    """Those of a node's command line that its process has to have too: the security enclave."""
    for flag in ("--enclave", "-e"):
        if flag in argv[:-1]:
            return ["--ros-args", "--enclave", argv[argv.index(flag) + 1]]
    return []


def _resolved(node: Any, action: ActionSpec) -> ActionSpec:
    """The action with its topics as the node's names and remappings make them."""
    grippers = [
        gripper.model_copy(update={"topic": gripper.topic and node.resolve_topic_name(gripper.topic)})
        for gripper in action.grippers
    ]
    return action.model_copy(update={"topic": node.resolve_topic_name(action.topic), "grippers": grippers})
