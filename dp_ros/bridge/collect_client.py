"""Drives the recording of demonstrations from outside: reset, record, demonstrate, save.

What `dp-ros collect` uses; a person with the same services at hand could do what it does. Easy to get wrong:
the recorder must be recording before the operator starts, or the first commands are lost; each of the two
refuses to start until it is connected to those it needs, and is asked again.
"""

from __future__ import annotations

from typing import Any, Self

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_srvs.srv import Trigger

from dp_ros.bridge.pusht_client import PushTClient
from dp_ros.bridge.recorder_link import RecorderLink
from dp_ros.errors import UserError
from dp_ros.sim.pusht_episodes import Outcome


class CollectClient(PushTClient):
    """A connection to the simulated robot, the teleoperation and the recorder, for use in a `with` block."""

    def __enter__(self) -> Self:
        super().__enter__()
        self.recorder = RecorderLink(self)
        self._operate = self.node.create_client(Trigger, "/teleop/start")
        self._set_parameters = self.node.create_client(SetParameters, "/recorder/set_parameters")
        return self

    def connect(self) -> None:
        """Wait until simulated robot, teleoperation and recorder are there. Raises UserError."""
        self.wait(self._reset_client.service_is_ready, "the simulated robot (service /pusht/reset)")
        self.recorder.connect()
        self.wait(self._operate.service_is_ready, f"service {self._operate.srv_name}")
        self.wait(self._set_parameters.service_is_ready, "the recorder's parameters")
        self.wait(lambda: self.statuses, "the simulated robot's status (/pusht/status)")

    def demonstrate(self, seed: int, *, keep_failures: bool) -> Outcome:
        """Record one episode from the start state of `seed`; it is saved if it succeeded or all are to be
        kept.

        Raises:
            UserError: if a node refuses or ends, the recording has a gap, or simulated time stands still.
        """
        self.reset(seed)
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)
        request = SetParameters.Request(parameters=[Parameter(name="episode_seed", value=value)])
        answer = self.call(self._set_parameters, request, "the recorder to take the episode's seed")
        if not answer.results[0].successful:
            raise UserError(f"recorder refused seed {seed}: {answer.results[0].reason}")
        self.recorder.start()
        self.trigger_patiently(self._operate)
        last = self._watch(seed)
        kept = last.success or keep_failures
        if self.recorder.status.phase != "recording":
            raise UserError(f"seed {seed}: {self.recorder.status.message}")
        if kept:
            self.recorder.save()
        else:
            self.recorder.discard()
        return Outcome(last.success, kept, last.step)

    def _watch(self, seed: int) -> Any:
        """Wait for the end of the episode; returns the robot's last status."""
        while not self.statuses[-1].done:
            step = self.statuses[-1].step

            def moved(step: int = step) -> bool:
                return bool(self.statuses[-1].step > step or self.recorder.status.phase != "recording")

            self.wait(
                moved, f"step {step} of seed {seed} to end; the recorder says: {self.recorder.status.message}"
            )
            if self.recorder.status.phase != "recording":
                raise UserError(f"seed {seed}: {self.recorder.status.message}")
        return self.statuses[-1]
