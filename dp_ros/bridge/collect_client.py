"""Drives the recording of demonstrations from outside: reset, record, demonstrate, save.

What `dp-ros collect` uses; a person with the same services at hand could do what it does. Easy to get wrong:
the recorder must be recording before the operator starts, or the first commands are lost; each of the two
refuses to start until it is connected to those it needs, and is asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_srvs.srv import Trigger

from dp_ros.bridge.client import RosClient
from dp_ros.bridge.pusht_client import PushTClient
from dp_ros.bridge.qos import latched_qos
from dp_ros.errors import UserError
from dp_ros.msg import RecorderStatus
from dp_ros.sim.pusht_episodes import Outcome
from dp_ros.task import TaskSpec


class CollectClient(PushTClient):
    """A connection to the simulated robot, the teleoperation and the recorder, for use in a `with` block."""

    def __init__(self, task: TaskSpec, check: Callable[[], None], timeout_s: float = 30.0) -> None:
        super().__init__(task, check, timeout_s)
        self.recorder: Any = None

    def __enter__(self) -> Self:
        super().__enter__()
        self._triggers = {
            name: self.node.create_client(Trigger, name)
            for name in ("/recorder/start", "/recorder/save", "/recorder/discard", "/teleop/start")
        }
        self._set_parameters = self.node.create_client(SetParameters, "/recorder/set_parameters")
        self.node.create_subscription(
            RecorderStatus, "/recorder/status", self._receive_recorder, latched_qos()
        )
        return self

    def connect(self) -> None:
        """Wait until simulated robot, teleoperation and recorder are there. Raises UserError."""
        self.wait(self._reset_client.service_is_ready, "the simulated robot (service /pusht/reset)")
        for name, client in self._triggers.items():
            self.wait(client.service_is_ready, f"service {name}")
        self.wait(self._set_parameters.service_is_ready, "the recorder's parameters")
        self.wait(lambda: self.statuses, "the simulated robot's status (/pusht/status)")
        self.wait(lambda: self.recorder, "the recorder's status (/recorder/status)")

    def demonstrate(self, seed: int, *, keep_failures: bool) -> Outcome:
        """Record one episode from the start state of `seed`; it is saved if it succeeded or all are to be
        kept.

        Raises:
            UserError: if a node refuses or ends, the recording has a gap, or simulated time stands still.
        """
        self.reset(seed)
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)
        request = SetParameters.Request(parameters=[Parameter(name="episode_seed", value=value)])
        answer = self._call(self._set_parameters, request, "the recorder to take the episode's seed")
        if not answer.results[0].successful:
            raise UserError(f"recorder refused seed {seed}: {answer.results[0].reason}")
        self._start("/recorder/start")
        self.wait(lambda: self.recorder.phase == "recording", "the recorder's status to say that it records")
        self._start("/teleop/start")
        last = self._watch(seed)
        kept = last.success or keep_failures
        if self.recorder.phase != "recording":
            raise UserError(f"seed {seed}: {self.recorder.message}")
        self._trigger("/recorder/save" if kept else "/recorder/discard")
        return Outcome(last.success, kept, last.step)

    def _start(self, name: str) -> None:
        """Call a service until it succeeds: nodes refuse while what they need has not reached them."""
        end_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._trigger(name)
            except UserError:
                if time.monotonic() > end_s:
                    raise
                self._executor.spin_once(timeout_sec=0.2)

    def _watch(self, seed: int) -> Any:
        """Wait for the end of the episode; returns the robot's last status."""
        while not self.statuses[-1].done:
            step = self.statuses[-1].step

            def moved(step: int = step) -> bool:
                return bool(self.statuses[-1].step > step or self.recorder.phase != "recording")

            self.wait(moved, f"step {step} of seed {seed} to end; the recorder says: {self.recorder.message}")
            if self.recorder.phase != "recording":
                raise UserError(f"seed {seed}: {self.recorder.message}")
        return self.statuses[-1]

    def _receive_recorder(self, status: Any) -> None:
        self.recorder = status

    def _trigger(self, name: str) -> None:
        answer = self._call(self._triggers[name], Trigger.Request(), f"the answer of {name}")
        if not answer.success:
            raise UserError(f"{name}: {answer.message}")

    def _call(self, client: Any, request: Any, what: str) -> Any:
        future = client.call_async(request)
        return self.wait(lambda: future.done() and future.result(), what)


class RecorderClient(RosClient):
    """A connection to the recorder alone, for use in a `with` block."""

    def __init__(self, name: str, check: Callable[[], None], timeout_s: float = 60.0) -> None:
        super().__init__(name, check, timeout_s)
        self.recorder: Any = None

    def __enter__(self) -> Self:
        super().__enter__()
        self._triggers = {
            name: self.node.create_client(Trigger, f"/recorder/{name}") for name in ("start", "save")
        }
        self.node.create_subscription(RecorderStatus, "/recorder/status", self._receive, latched_qos())
        return self

    def connect(self) -> None:
        """Wait until the recorder is there. Raises UserError."""
        self.wait(lambda: self.recorder, "the recorder's status (/recorder/status)")
        for name, client in self._triggers.items():
            self.wait(client.service_is_ready, f"service /recorder/{name}")

    def start(self) -> None:
        """Start an episode, once the recorder hears everything that it needs. Raises UserError."""
        end_s = time.monotonic() + self._timeout_s
        while not (answer := self._call("start")).success:
            if time.monotonic() > end_s:
                raise UserError(f"/recorder/start: {answer.message}")
            self._executor.spin_once(timeout_sec=0.2)
        self.wait(lambda: self.recorder.phase == "recording", "the recorder's status to say that it records")

    def save(self) -> None:
        """Save the episode. Raises UserError."""
        answer = self._call("save")
        if not answer.success:
            raise UserError(f"/recorder/save: {answer.message}")

    def _receive(self, status: Any) -> None:
        self.recorder = status

    def _call(self, name: str) -> Any:
        future = self._triggers[name].call_async(Trigger.Request())
        return self.wait(lambda: future.done() and future.result(), f"the answer of /recorder/{name}")
