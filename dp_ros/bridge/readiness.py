"""Whether a policy node could begin a goal now, as its status says, for clients that are about to send one.

Discovery takes seconds on a busy machine: an action server that answers may not hear the robot's streams yet,
and a goal sent then runs into `stale_grace_s`. Easy to get wrong: the status of a goal that has just ended is
idle as well, and says whether the next one could begin.
"""

from __future__ import annotations

from typing import Any

from dp_ros.bridge.client import RosClient
from dp_ros.bridge.qos import reliable_qos
from dp_ros.errors import UserError
from dp_ros.msg import PolicyStatus


class PolicyReadiness:
    """Listens to the status of a policy node.

    Args:
        client: an entered client, which receives while it waits.
        topic: of the status, `/policy/status`.
    """

    def __init__(self, client: RosClient, topic: str) -> None:
        self._client, self._topic = client, topic
        self._newest: Any = None
        client.node.create_subscription(PolicyStatus, topic, self._receive, reliable_qos())

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the node says that observations are complete and fresh.

        Raises:
            UserError: after the time-out, with what the node says is missing.
        """
        try:
            self._client.wait(self._ready, "the policy node to be ready", timeout_s)
        except UserError as error:
            if self._newest is None:
                why = f"it has published nothing on {self._topic}"
            elif self._newest.state != "idle":
                why = f"its state is {self._newest.state}"
            elif self._newest.reason:
                why = f"{self._newest.reason}: {self._newest.message}"
            else:  # it became ready; something else failed
                raise
            raise UserError(f"{error}; {why}") from None

    def _receive(self, status: Any) -> None:
        self._newest = status

    def _ready(self) -> bool:
        return self._newest is not None and self._newest.state == "idle" and not self._newest.reason
