"""Who demonstrates and what the robot is to do: the recorder's parameters, which are saved with the next episode.

Easy to get wrong: others may set them, too, and a recorder that was started again has forgotten what it was told, so
they are asked for whenever it speaks after a silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter

_NAMES = ("operator_name", "instruction")
#: Asked again after so much time, s.
_PERIOD_S = 2.0


class RecorderLabels:
    """The recorder's `operator_name` and `instruction`.

    Args:
        node: an rclpy node.
        recorder: name of the recorder's node.
    """

    def __init__(self, node: Any, recorder: str) -> None:
        self._get = node.create_client(GetParameters, f"{recorder}/get_parameters")
        self._set = node.create_client(SetParameters, f"{recorder}/set_parameters")
        self._asked_s = -_PERIOD_S
        self.known: dict[str, str] | None = None
        """`operator_name` and `instruction`; None if the recorder has not said; never changed."""

    def ask(self) -> None:
        """Ask the recorder what they are, now and then."""
        if time.monotonic() - self._asked_s < _PERIOD_S or not self._get.service_is_ready():
            return
        self._asked_s = time.monotonic()

        def heard(done: Any) -> None:
            values = [value.string_value for value in done.result().values]
            if len(values) == len(_NAMES):
                self.known = dict(zip(_NAMES, values, strict=True))

        self._get.call_async(GetParameters.Request(names=list(_NAMES))).add_done_callback(heard)

    def set(self, given: Mapping[str, str | None], answered: Callable[[bool, str], None]) -> None:
        """Set those that are given.

        Args:
            given: by name; None leaves what is there.
            answered: called with whether it was done, and what there is to say.
        """
        texts = {name: text for name, text in given.items() if text is not None}
        if not texts:
            answered(False, "say who demonstrates, or what the robot is to do")
            return
        if not self._set.service_is_ready():
            answered(False, f"{self._set.srv_name}: nobody offers this service; is the recorder running?")
            return

        def done(called: Any) -> None:
            problems = [result.reason for result in called.result().results if not result.successful]
            if not problems:
                self.known = {**(self.known or dict.fromkeys(_NAMES, "")), **texts}
            answered(not problems, "; ".join(problems) or "saved with the next episode")

        values = [Parameter(name, value=text).to_parameter_msg() for name, text in texts.items()]
        self._set.call_async(SetParameters.Request(parameters=values)).add_done_callback(done)
