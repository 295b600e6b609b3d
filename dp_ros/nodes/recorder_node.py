"""Records demonstrations: what the task names, on its time grid, into a zarr recording.

Services `~/start`, `~/save` and `~/discard` bound an episode, `~/mark` says how it went, `~/delete_last` takes back
the last one saved; rows begin with the operator's first command
and end with the last. Nothing is filled in: a stream that is missing or too old at a grid time, or an
operator who pauses, ends the recording with a reason, and what came before it can still be saved. Easy to get
wrong: rows are aligned by header stamps, so a driver that does not set them cannot be recorded. With
`takeover_topic` it records a policy's runs, and marks the steps at which an operator had taken over.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future as WriteFuture
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from dp_ros.bridge.bags.raw_bag import BagProblem
from dp_ros.bridge.bags.raw_intake import RawIntake
from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.bridge.command_intake import CommandIntake
from dp_ros.bridge.command_topics import TAKEOVER_NOTICED_NS, command_topics
from dp_ros.bridge.lockstep import DONE_TOPIC, LockstepParticipant
from dp_ros.bridge.observations import ObservationIntake
from dp_ros.bridge.qos import latched_qos, reliable_qos
from dp_ros.bridge.spin import run_node
from dp_ros.bridge.watchers import RECORDER
from dp_ros.data.disk_space import DiskSpace
from dp_ros.data.episode_writer import EpisodeWriter, set_aside_path
from dp_ros.data.layout import UNMARKED
from dp_ros.data.lock import RecordingError
from dp_ros.errors import UserError
from dp_ros.msg import LockstepDone, RecorderStatus
from dp_ros.nodes.recorder_options import declared_options
from dp_ros.runtime.demonstration import CommandGapError, DemonstrationRows
from dp_ros.runtime.observation import BadObservation, ObservationProblem

WATCH_S = 0.02
STATUS_S = 0.5
#: Rows that wait for the disk may take so much memory.
WAITING_BYTES = 2**29


class RecorderNode(Node):
    """The recorder as a node (services `~/start`, `~/save`, `~/discard`, `~/mark`, `~/delete_last`; `~/status`)."""

    def __init__(self) -> None:
        super().__init__(RECORDER)
        options = declared_options(self)
        task = self._task = options.task
        self._lockstep, self._operator = options.lockstep, options.operator
        self._max_age_ns = round(1e9 * max(spec.max_age_s for spec in task.observations.values()))
        self._rows = DemonstrationRows(task, options.hold_ns, takeovers=bool(options.takeover_topic))
        self._writer = EpisodeWriter(
            options.out, task, takeover=bool(options.takeover_topic), storage=options.storage
        )
        try:
            self._space = DiskSpace(self._writer.path, options.low_disk_bytes, options.full_disk_bytes)
        except ValueError as error:
            raise UserError(f"parameters low_disk_mb and full_disk_mb: {error}") from None
        self._success: bool | None = None  # how the episode in progress is marked
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._writes: deque[WriteFuture[Any]] = deque()
        self._recording = self._taking = False
        self._epoch = 0  # of the buffer
        self._anchor_ns: int | None = None  # newest sample of the anchor
        self._last_ns: int | None = None  # where an episode that is being saved ends
        self._arrived: set[str] = set()  # streams that gave a sample since the last look
        self._silent: set[str] = set()  # those that gave none between the last two looks
        self._quiet: set[str] = set()  # those of which nothing waits to be handled
        self._complete = Future()  # its rows
        self._complete.set_result(None)
        self._message = "ready"
        self._times: deque[int] = deque()  # grid times whose rows are due
        self._pending_ns: int | None = None  # clock time that lockstep waits for
        self._operator_done: dict[int, int] = {}  # clock time: stamp of the operator's command for it, or 0
        self._status_pub = self.create_publisher(RecorderStatus, "~/status", latched_qos())
        self._intake = ObservationIntake(
            self,
            task,
            self._rows.buffer,
            lockstep=self._lockstep,
            now_ns=self._now,
            on_sample=self._sampled,
        )
        self._commands = CommandIntake(
            self,
            task,
            self._rows,
            lockstep=self._lockstep,
            now_ns=self._now,
            operator_topic=options.operator_topic,
            takeover_topic=options.takeover_topic,
            on_command=self._commanded,
        )
        self._raw = None
        if options.raw_streams != "none":
            self._raw = RawIntake(
                self,
                task,
                self._writer.path,
                options.raw_streams,
                command_topics(task, self._rows, options.operator_topic, options.takeover_topic),
            )
        self._participant = None
        if self._lockstep:
            self._participant = LockstepParticipant(self, "recorder", self._tick)
            self.create_subscription(LockstepDone, DONE_TOPIC, self._participant_done, reliable_qos())
        self.create_service(Trigger, "~/start", self._start)
        self.create_service(Trigger, "~/discard", self._discard)
        self.create_service(Trigger, "~/delete_last", self._delete_last)
        self.create_service(SetBool, "~/mark", self._mark)
        # In a group of its own, or nothing else would be handled while it waits for the last samples.
        self.create_service(Trigger, "~/save", self._save, callback_group=ReentrantCallbackGroup())
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(WATCH_S, self._look, clock=steady)
        self.create_timer(STATUS_S, self._publish_status, clock=steady)
        self.get_logger().info(
            f"recording task {task.name} to {options.out}, which has {self._writer.n_episodes} episodes"
        )
        left = [self._writer.recovery, self._raw.recovery if self._raw is not None else ""]
        if any(left):
            self._note("; ".join(filter(None, left)))
        self._publish_status()

    def destroy_node(self) -> None:
        """Give up the episode in progress and let others write to the recording."""
        if self._rows.n_rows:
            self.get_logger().warning(f"{self._rows.n_rows} steps were not saved")
        self._intake.close()
        if self._raw is not None:
            self._raw.discard()
        self._disk.submit(self._writer.close).result()
        self._disk.shutdown()
        super().destroy_node()

    # --- services ---------------------------------------------------------------------------------------

    def _start(self, request: Any, response: Any) -> Any:
        if self._recording:
            response.message = f"already recording, {self._rows.n_rows} steps so far; save or discard them"
        elif self._rows.n_rows:
            response.message = f"{self._rows.n_rows} steps are not saved yet; save or discard them"
        elif topics := self._commands.unconnected():
            response.message = f"no operator is connected to {', '.join(topics)} yet; start one first"
        elif full := self._space.full():
            response.message = full
        else:
            try:
                self._rows.buffer.check_fresh(self._now())
                if self._raw is not None:
                    self._raw.begin()
            except (ObservationProblem, BagProblem) as problem:
                response.message = str(problem)
            else:
                self._rows.begin()
                self._last_ns = self._success = None
                self._times = deque([self._now()] if self._lockstep else [])
                self._recording, response.success = True, True
                response.message = self._note("recording")
        return response

    async def _save(self, request: Any, response: Any) -> Any:
        if not self._complete.done():
            response.message = "the episode is being saved"
            return response
        if self._recording and not self._lockstep:
            await self._rows_until(self._now())
        steps, early = self._rows.n_rows, not self._recording
        if not steps:
            self._last_ns = None
            topics = ", ".join(self._rows.uncommanded()) or self._task.action.topic
            response.message = "no steps to save: " + (
                f"nothing was commanded on {topics}" if self._recording else "not recording"
            )
            return response
        try:
            self._wait_for_writes()
            bag = self._raw.save() if self._raw is not None else None
            seed, info = self.get_parameter("episode_seed").value, self._info(bag)
            index = self._disk.submit(self._writer.save, seed, success=self._success, info=info).result()
        except RecordingError as error:
            response.message = self._note(str(error))
            return response
        end = f"; {self._message}" if early else ""
        if self._raw is not None:
            end += f"; without its raw messages: {self._raw.problem}" if bag is None else ""
            self._raw.forget()
        self._recording, self._success = False, None
        self._rows.begin()
        response.success, response.message = True, self._note(f"episode {index} saved, {steps} steps{end}")
        return response

    async def _rows_until(self, time_ns: int) -> None:
        """Wait for the rows up to `time_ns`, whose samples may still be on their way; takes no later ones."""
        self._last_ns = time_ns
        complete = self._complete = Future()
        self._advance()
        await complete

    def _discard(self, request: Any, response: Any) -> Any:
        if not self._recording and not self._rows.n_rows:
            response.message = "not recording"
            return response
        steps = self._rows.n_rows
        self._recording, self._success = False, None
        self._rows.begin()
        self._writes.clear()
        try:
            if self._raw is not None:
                self._raw.discard()
            self._disk.submit(self._writer.discard).result()
            response.success, response.message = True, self._note(f"{steps} steps discarded")
        except OSError as error:
            response.message = self._note(f"{steps} steps discarded, but not cleared from the disk: {error}")
        return response

    def _mark(self, request: Any, response: Any) -> Any:
        if not self._recording and not self._rows.n_rows:
            response.message = "no episode is in progress that could be marked"
            return response
        self._success = bool(request.data)
        response.success = True
        response.message = self._note(f"marked as a {'success' if self._success else 'failure'}")
        return response

    def _delete_last(self, request: Any, response: Any) -> Any:
        try:
            index = self._disk.submit(self._writer.delete_last).result()
        except UserError as error:
            response.message = self._note(str(error))
            return response
        kept = set_aside_path(self._writer.path)
        response.success = True
        response.message = self._note(f"episode {index} deleted; it is kept in {kept}")
        return response

    def _info(self, bag: Path | None) -> dict[str, str]:
        """What is saved with an episode whose raw messages are in `bag`."""
        known = {
            "operator": self.get_parameter("operator_name").value,
            "instruction": self.get_parameter("instruction").value,
            "raw": "" if bag is None else f"{bag.parent.name}/{bag.name}",
        }
        saved = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {
            **{key: value for key, value in known.items() if value},
            "task_digest": self._task.digest(),
            "saved_at": saved,
        }

    # --- messages ---------------------------------------------------------------------------------------

    def _now(self) -> int:
        return (
            self._participant.now_ns if self._participant is not None else self.get_clock().now().nanoseconds
        )

    def _sampled(self, key: str, problem: BadObservation | None) -> None:
        """Go on after a sample; the grid begins at the first one of the anchor that has a command."""
        self._arrived.add(key)
        buffer, known_ns = self._rows.buffer, self._anchor_ns
        newest_ns = self._anchor_ns = buffer.newest_ns(self._task.anchor)
        searching = self._recording and not self._lockstep and self._rows.first_ns is None
        if buffer.epoch != self._epoch:
            self._clock_set_back()
        elif problem is not None and self._recording and self._lockstep:
            self._end(str(problem))  # there will be no other sample for this time
        elif searching and newest_ns is not None and newest_ns != known_ns:
            self._times.append(newest_ns)
        self._advance()

    def _clock_set_back(self) -> None:
        """Forget the commands of a time that is now to come, as the buffer has forgotten its samples."""
        self._epoch = self._rows.buffer.epoch
        self._rows.forget_commands()
        self._operator_done.clear()
        if self._recording:
            self._end("the clock was set back")

    def _commanded(self, problem: str | None) -> None:
        if problem and self._recording:
            self._end(problem)
        if not self._taking:
            self._advance()

    def _tick(self, time_ns: int) -> None:
        self._pending_ns = time_ns
        if self._rows.buffer.see_clock(time_ns):
            self._clock_set_back()
        if self._recording:
            self._times.append(time_ns)
        self._advance()

    def _participant_done(self, message: Any) -> None:
        if message.participant == self._operator:
            self._operator_done[to_ns(message.stamp)] = to_ns(message.last_command)
            while len(self._operator_done) > 64:
                del self._operator_done[min(self._operator_done)]
            self._advance()

    def _look(self) -> None:
        waiting = {key for key in self._task.observations if self._intake.backlog(key)}
        silent = set(self._task.observations) - self._arrived - waiting
        # Twice in a row: this look may be the first after a hold-up, before what has come meanwhile.
        self._quiet, self._silent = silent & self._silent, silent
        self._arrived.clear()
        if self._recording and self._raw is not None and self._raw.problem:
            self._end(self._raw.problem)
        self._advance()

    # --- rows -------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Write the rows that are due, and let lockstep go on when there is no more to come for its time."""
        while self._recording and self._next_in_episode() and self._ready(self._times[0]):
            if not self._lockstep:
                self._taking = True
                self._commands.take_waiting()
                self._taking = False
            if self._recording:
                self._take(self._times.popleft())
        while self._writes and self._writes[0].done():
            error = self._writes.popleft().exception()
            if error is not None:
                self._end(str(error))
        if not self._complete.done() and not self._rows_to_come():
            self._complete.set_result(None)
        if self._participant is not None and self._pending_ns is not None:
            # Also while idle, so that nothing is missed between this and the start of a recording.
            due = self._recording and self._pending_ns in self._times
            if not due and self._ready(self._pending_ns):
                self._participant.done(self._pending_ns)
                self._pending_ns = None

    def _next_in_episode(self) -> bool:
        """Whether a row is due that belongs to the episode."""
        return bool(self._times) and (self._last_ns is None or self._times[0] <= self._last_ns)

    def _rows_to_come(self) -> bool:
        """Whether samples that belong to the episode that is being saved may still be on their way."""
        return (
            self._recording
            and self._last_ns is not None
            and (self._next_in_episode() or not self._ready(self._last_ns))
        )

    def _ready(self, time_ns: int) -> bool:
        """Whether everything that belongs to `time_ns` is here, or will not come any more."""
        if self._lockstep:
            command_ns = self._operator_done.get(time_ns)
            return (
                command_ns is not None
                and (command_ns == 0 or command_ns in self._commands.here)
                and self._rows.buffer.complete_at(time_ns)
            )
        if self._rows.takeovers is not None and self._now() < time_ns + TAKEOVER_NOTICED_NS:
            return False
        late = {key for key in self._task.observations if (self._rows.buffer.newest_ns(key) or 0) < time_ns}
        return not late or (late <= self._quiet and self._now() - time_ns > self._max_age_ns)

    def _take(self, time_ns: int) -> None:
        try:
            row = self._rows.row(time_ns)
        except (ObservationProblem, CommandGapError) as problem:
            self._end(str(problem))
            return
        if row is not None:
            self._writes.append(self._disk.submit(self._writer.add, row))
            waiting = len(self._writes) * sum(np.asarray(value).nbytes for value in row.values())
            if waiting > WAITING_BYTES:
                self._end(f"the disk cannot keep up, {waiting / 1e6:.0f} MB wait; record to a faster one")
        if not self._lockstep and self._rows.first_ns is not None:
            self._times = deque([time_ns + self._task.dt_ns])

    def _end(self, problem: str) -> None:
        """Stop recording, keep the rows so far until they are saved or discarded."""
        self._recording = False
        self._times.clear()
        if self._raw is not None:
            self._raw.stop()
        self._note(f"recording ended after {self._rows.n_rows} steps: {problem}", bad=True)

    def _wait_for_writes(self) -> None:
        while self._writes:
            self._writes.popleft().result()

    def _note(self, message: str, *, bad: bool = False) -> str:
        """Log and publish what happened."""
        self._message = message
        logger = self.get_logger()
        if bad:
            logger.error(message)
        else:
            logger.info(message)
        self._publish_status()
        return message

    def _publish_status(self) -> None:
        if self._recording and (full := self._space.full()):
            self._end(full)
            return  # which has published
        missing = []
        if self._pending_ns is not None:
            incomplete = self._rows.buffer.incomplete_at(self._pending_ns)
            missing = [f"{key} ({self._task.observations[key].topic})" for key in incomplete]
            if self._pending_ns not in self._operator_done:
                missing.append(f"the operator {self._operator}")
        message = RecorderStatus(
            phase="recording" if self._recording else "idle",
            episodes=self._writer.n_episodes,
            steps=self._rows.n_rows,
            message=f"waiting for {', '.join(missing)}" if missing else self._message,
            path=str(self._writer.path),
            success=UNMARKED if self._success is None else int(self._success),
        )
        now_ns, buffer = self._now(), self._rows.buffer
        problems = {} if self._lockstep else buffer.problems(now_ns)
        message.problems = [*problems.values(), *filter(None, [self._space.low()])]
        for key in self._task.observations:
            newest_ns = buffer.newest_ns(key)
            message.streams.append(key)
            message.ages_s.append(-1.0 if newest_ns is None else (now_ns - newest_ns) / 1e9)
        message.header.stamp = to_stamp(now_ns)
        self._status_pub.publish(message)


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(RecorderNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
