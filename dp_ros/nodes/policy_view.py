"""What the policy node shows: `~/status`, `/diagnostics` once a second, and markers while somebody looks at them.

Easy to get wrong: diagnostics repeat the last status, so that all three tell the same story.
"""

from __future__ import annotations

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from visualization_msgs.msg import MarkerArray

from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.command_stream import CommandStream
from dp_ros.bridge.diagnostics import PERIOD_S, diagnostics, policy_status, setpoint_status, stream_status
from dp_ros.bridge.markers import chunk_markers
from dp_ros.bridge.observations import ObservationIntake
from dp_ros.bridge.outputs import encode_chunk
from dp_ros.bridge.policy_samples import encode_sample
from dp_ros.bridge.qos import reliable_qos
from dp_ros.inference.worker import InferenceResult
from dp_ros.msg import ActionChunk as ActionChunkMsg
from dp_ros.msg import PolicySample, PolicyStatus
from dp_ros.nodes.policy_options import PolicyOptions
from dp_ros.runtime.controller import Controller
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.safety import BadAction
from dp_ros.runtime.supervisor import Verdict
from dp_ros.task import TaskSpec


class PolicyView:
    """Publishers of one configured node.

    Args:
        node: an rclpy node.
        task: of the policy.
        options: of the markers.
    """

    def __init__(self, node: Any, task: TaskSpec, options: PolicyOptions) -> None:
        self._node, self._task, self._options = node, task, options
        self._name = node.get_name()
        self._diagnostics_s = 0.0
        self._chunk: ActionChunk | None = None  # in force
        self._chunks = node.create_publisher(ActionChunkMsg, "~/action_chunk", reliable_qos())
        self._samples = node.create_publisher(PolicySample, "~/sample", reliable_qos())
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", reliable_qos())
        self._status = node.create_publisher(PolicyStatus, "~/status", reliable_qos())
        self._last: Any = None
        self._markers = node.create_publisher(MarkerArray, "~/markers", reliable_qos(1))

    @property
    def wanted(self) -> bool:
        """Whether somebody looks at the markers."""
        return bool(self._markers.get_subscription_count())

    def publish_status(self, now_ns: int, controller: Controller, verdict: Verdict, **fields: Any) -> None:
        """Publish a `PolicyStatus`; `fields` are those of the message that only the node knows."""
        supervisor, counted = controller.supervisor, controller.counters()
        self._last = PolicyStatus(
            reason=verdict.reason,
            message=verdict.message,
            mode=controller.execution.mode,
            emergency_stop=supervisor.emergency_stopped,
            takeover=supervisor.operator_is_live(time.monotonic()),
            dry_run=self._options.dry_run,
            clamped=controller.counts.clamped,
            counted=list(counted),
            counts=list(counted.values()),
            **fields,
        )
        self._last.header.stamp = to_stamp(now_ns)
        self._status.publish(self._last)

    def publish_chunk(self, chunk: ActionChunk, model_id: str) -> None:
        """Publish a chunk that has been commanded."""
        self._chunk = chunk
        self._chunks.publish(encode_chunk(chunk, self._task.action.command_names, model_id))

    def publish_sample(self, result: InferenceResult) -> None:
        """Publish what the policy was asked and answered, whatever becomes of it."""
        if result.actions is not None:
            names = self._task.action.names
            self._samples.publish(encode_sample(result.request, result.actions, names, result.model_id))

    def draw(self, controller: Controller, result: InferenceResult, now_ns: int) -> None:
        """Publish the chunk in force and the alternatives to it."""
        if self._chunk is None or result.alternatives is None:
            return
        try:
            alternatives = [controller.preview(result.request, actions) for actions in result.alternatives]
        except BadAction:
            alternatives = []
        self._markers.publish(
            chunk_markers(
                self._task.action,
                self._chunk.values,
                alternatives,
                dt_s=self._task.dt_ns / 1e9,
                now_ns=now_ns,
                frame=self._options.marker_frame,
                width=self._options.marker_width,
            )
        )

    def publish_diagnostics(
        self, controller: Controller, intake: ObservationIntake, commands: CommandStream, now_ns: int
    ) -> None:
        """Publish `/diagnostics`, if the last time was a second ago."""
        status = self._last
        if status is None or time.monotonic() - self._diagnostics_s < PERIOD_S:
            return
        self._diagnostics_s = time.monotonic()
        values: dict[str, object] = {
            key: getattr(status, key)
            for key in (
                "model_id",
                "mode",
                "gate",
                "dry_run",
                "inferences",
                "late_steps",
                "queue_s",
                "inference_ms",
            )
        }
        values |= dict(zip(status.counted, status.counts, strict=True))
        statuses = [policy_status(self._name, status.state, status.reason, status.message, values)]
        for key, spec in self._task.observations.items():
            newest_ns = controller.buffer.newest_ns(key)
            age_s = None if newest_ns is None else (now_ns - newest_ns) / 1e9
            counts = controller.buffer.counts[key]
            statuses.append(
                stream_status(self._name, key, spec.topic, age_s, spec.max_age_s, counts, intake.counts[key])
            )
        punctuality = commands.statistics()
        if punctuality is not None:
            statuses.append(setpoint_status(self._name, punctuality))
        self._diagnostics.publish(diagnostics(now_ns, statuses))

    def destroy(self) -> None:
        """Remove the publishers."""
        self._node.destroy_publisher(self._diagnostics)
        self._node.destroy_publisher(self._markers)
        self._node.destroy_publisher(self._status)
        self._node.destroy_publisher(self._chunks)
        self._node.destroy_publisher(self._samples)
