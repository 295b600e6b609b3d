"""The recorder node from outside: its status, and the services that bound an episode."""

from __future__ import annotations

from typing import Any

from std_srvs.srv import Trigger

from dp_ros.bridge.client import RosClient
from dp_ros.bridge.qos import latched_qos
from dp_ros.msg import RecorderStatus


class RecorderLink:
    """A connection to the recorder.

    Args:
        client: an entered client, which receives while it waits.

    Attributes:
        status: newest RecorderStatus; None before the first.
    """

    def __init__(self, client: RosClient) -> None:
        self._client = client
        self.status: Any = None
        self._services = {
            name: client.node.create_client(Trigger, f"/recorder/{name}")
            for name in ("start", "save", "discard")
        }
        client.node.create_subscription(RecorderStatus, "/recorder/status", self._receive, latched_qos())

    def connect(self) -> None:
        """Wait until the recorder is there. Raises UserError."""
        for service in self._services.values():
            self._client.wait(service.service_is_ready, f"service {service.srv_name}")
        self._client.wait(lambda: self.status, "the recorder's status (/recorder/status)")

    def start(self) -> None:
        """Start an episode, once the recorder hears everything that it needs. Raises UserError."""
        self._client.trigger_patiently(self._services["start"])
        self._client.wait(
            lambda: self.status.phase == "recording", "the recorder's status to say that it records"
        )

    def save(self) -> None:
        """Save the episode. Raises UserError."""
        self._client.trigger(self._services["save"])

    def discard(self) -> None:
        """Forget the episode. Raises UserError."""
        self._client.trigger(self._services["discard"])

    def _receive(self, status: Any) -> None:
        self.status = status
