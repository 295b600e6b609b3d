"""Shows a running robot in the rerun viewer: cameras, states, commands, and what the policy does.

Only listens, and may fall behind without anybody waiting for it. What is shown is at the time of its capture, as
everywhere. Easy to get wrong: a viewer that is started keeps everything in its own memory, so it is given pictures as
JPEG and no more often than `picture_hz`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import message_class
from dp_ros.bridge.command_topics import command_topics
from dp_ros.bridge.observations import ObservationIntake
from dp_ros.bridge.parameters import declare
from dp_ros.bridge.qos import reliable_qos
from dp_ros.bridge.spin import run_node
from dp_ros.bridge.watchers import VIEW
from dp_ros.data.formats.rerun import APPLICATION, RerunLog, blueprint, rerun_library
from dp_ros.errors import UserError
from dp_ros.msg import PolicyStatus
from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.demonstration import DemonstrationRows
from dp_ros.runtime.observation import BadObservation
from dp_ros.task import load_task

SPAWN = "spawn"
_ADDRESS = re.compile(r"[\w.\-]+:\d+")


class ViewNode(Node):
    """The viewer's node."""

    def __init__(self) -> None:
        super().__init__(VIEW)
        task = self._task = load_task(
            declare(self, "task", "pusht_image", "task file or name", read_only=True)
        )
        rerun: str = declare(
            self,
            "rerun",
            SPAWN,
            "where to: spawn opens a viewer here, HOST:PORT is one that runs, FILE.rrd keeps it",
            read_only=True,
        )
        picture_hz: float = declare(
            self,
            "picture_hz",
            10.0,
            "pictures of a camera a second, at most",
            low=0.1,
            high=100.0,
            read_only=True,
        )
        policy: str = declare(self, "policy", "/policy", "node of the policy; empty: none", read_only=True)
        self._stream = _stream_to(rerun, task)
        self._log = RerunLog(task, self._stream)
        self._picture_ns = round(1e9 / picture_hz)
        self._shown_ns = dict.fromkeys(task.observations, 0)
        self._rows = DemonstrationRows(task, 3 * task.dt_ns)
        self._space = ActionSpace.absolute(task)
        self._state = ""
        self._intake = ObservationIntake(
            self,
            task,
            self._rows.buffer,
            lockstep=False,
            now_ns=lambda: self.get_clock().now().nanoseconds,
            on_sample=self._sampled,
        )
        for topic in command_topics(task, self._rows, "", ""):
            self.create_subscription(
                message_class(topic.type),
                topic.name,
                lambda message, topic=topic: topic.take(message, self.get_clock().now().nanoseconds),
                reliable_qos(),
            )
        if policy:
            self.create_subscription(PolicyStatus, f"{policy}/status", self._policy_said, reliable_qos())
        self.get_logger().info(f"task {task.name} goes to rerun: {rerun}")

    def destroy_node(self) -> None:
        """Give the viewer, or the file, the last of it."""
        self._intake.close()
        self._stream.flush()
        self._stream.disconnect()
        super().destroy_node()

    def _sampled(self, key: str, problem: BadObservation | None) -> None:
        newest_ns = self._rows.buffer.newest_ns(key)
        if problem is not None or newest_ns is None:
            return
        picture = self._task.observations[key].is_image
        shown_ns = self._shown_ns[key]
        too_soon = newest_ns < shown_ns + (self._picture_ns if picture else 1)
        set_back = newest_ns < shown_ns - self._picture_ns  # the clock, and it goes on from there
        if too_soon and not set_back:
            return
        self._shown_ns[key] = newest_ns
        self._at(newest_ns)
        self._log.observation(key, self._rows.buffer.sample(key, newest_ns), lossy=True)
        if key == self._task.anchor:
            self._command_at(newest_ns)

    def _command_at(self, time_ns: int) -> None:
        """Show what is commanded while a picture is taken."""
        main = self._rows.commands.at(time_ns)
        parts = {name: track.at(time_ns) for name, track in self._rows.grippers.items()}
        if main is None or any(part is None for part in parts.values()):
            return
        values = dict(zip(self._rows.command_names, main.tolist(), strict=True))
        values |= {name: float(part[0]) for name, part in parts.items() if part is not None}
        command = np.array([[values[name] for name in self._task.action.command_names]])
        self._log.action(self._space.to_policy(command)[0])

    def _policy_said(self, status: Any) -> None:
        self._at(to_ns(status.header.stamp))
        self._log.number("policy/queue_s", status.queue_s)
        self._log.number("policy/inference_ms", status.inference_ms)
        state = f"{status.state} {status.reason} {status.message}".strip()
        if state != self._state:
            self._log.text("policy/state", state)
        self._state = state

    def _at(self, time_ns: int) -> None:
        self._log.at(stamp=np.datetime64(time_ns, "ns"))


def _stream_to(rerun: str, task: Any) -> Any:
    """A stream of rerun to where a person said. Raises UserError."""
    library = rerun_library()
    stream = library.RecordingStream(APPLICATION)
    if rerun == SPAWN:
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError(
                f"rerun:={SPAWN}: there is no screen here to open a viewer on; give HOST:PORT or FILE.rrd"
            )
        stream.spawn(default_blueprint=blueprint(task))
    elif _ADDRESS.fullmatch(rerun):
        stream.connect_grpc(f"rerun+http://{rerun}/proxy", default_blueprint=blueprint(task))
    elif rerun.endswith(".rrd"):
        path = Path(rerun).absolute()
        if path.exists() or not path.parent.is_dir():
            why = "is there already" if path.exists() else "its folder is not there"
            raise UserError(f"rerun:={rerun}: {why}; give another name")
        stream.save(path, default_blueprint=blueprint(task))
    else:
        raise UserError(f"rerun:={rerun}: expected {SPAWN}, HOST:PORT of a viewer that runs, or FILE.rrd")
    return stream


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(ViewNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
