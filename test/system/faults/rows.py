"""Rows of the fault matrix: a fault, the reaction awaited and measured, and what must hold in every row.

Every row goes on the same way: a goal moves the robot, a fault is injected, the reaction comes, the fault is
cleared. Times are wall times at which messages were sent, so that a stall of the test counts for nothing. Easy to
get wrong: after a failure the fault must be cleared as well, or every row after it fails too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus

from dp_ros.bridge.clock import to_ns

from .bench import Bench
from .motion import Motion, Sent, excesses, explained_jump, lateness_s, replay
from .robot_process import WELL

#: Ends at which nothing can be waited for, or the witness does not hear the brake.
_REPORTED_MOVING = ("CLOCK_STOPPED", "CLOCK_JUMP", "CONTROLLER_SILENT")
#: Of the motion's samples, and of the way of a trajectory.
_REST_TOLERANCE_NS = 30_000_000
#: Final state of a goal by the reason of its end; of all others: aborted.
_FINAL = {"TIME_LIMIT": GoalStatus.STATUS_SUCCEEDED, "CANCELED": GoalStatus.STATUS_CANCELED}


@contextlib.contextmanager
def row(bench: Bench, fault: str, *, clock_jumps: bool = False, from_measured: bool = False) -> Iterator[Row]:
    """One row of the matrix; checks at its end what must hold in every row.

    Args:
        bench: of the module.
        fault: its name.
        clock_jumps: ROS time jumps, and with it a controller that follows it: only what is sent is judged.
        from_measured: the controller goes on from the measured state to a trajectory that begins later, as a stock one.
    """
    bench.set(interpolates_from="measured" if from_measured else "desired")
    entry = Row(bench, fault, from_measured=from_measured)
    try:
        yield entry
        entry.finish(judge_motion=not clock_jumps)
    except BaseException:
        entry.recover()
        raise


class Row:
    """One row."""

    def __init__(self, bench: Bench, fault: str, *, from_measured: bool = False) -> None:
        self.bench, self.name, self._from_measured = bench, fault, from_measured
        self.begin_ns = bench.set()
        self._start = bench.position
        self.fault_ns = 0
        self._first, self._heard = len(bench.trajectories), len(bench.statuses)
        self._before = bench.counters()
        self._said: list[str] = []
        self._goal: Any = None

    # --- what is done -----------------------------------------------------------------------------------

    def begin(self, time_limit_s: float = 120.0) -> Any:
        """Run a goal and wait until the robot moves by what more than one inference gave; returns its handle."""
        self.bench.wait_until_ready()
        self._before = self.bench.counters()
        seen = len(self.bench.chunks)
        self._goal = self.bench.send_goal(time_limit_s)
        assert self._goal.accepted, self.bench.describe()
        self._wait_for_motion(seen, "the robot to move")
        self.bench.usual_threads = self.bench.usual_threads or self.bench.threads()
        return self._goal

    def fault(self, **faults: Any) -> None:
        """Inject a fault into the robot process."""
        self.happened(self.bench.set(**faults))

    def happened(self, wall_ns: int | None = None) -> None:
        """The fault took effect, now or then."""
        self.fault_ns = time.time_ns() if wall_ns is None else wall_ns
        self._heard = len(self.bench.statuses)

    def clear(self) -> None:
        """Set everything right again."""
        self.bench.set(**WELL)

    def cancel(self) -> None:
        """Cancel the goal, which still runs."""
        self.bench.answer(self._goal.cancel_goal_async(), "the answer to cancelling")
        self.happened()
        self.ends("CANCELED", within_s=5.0)

    # --- what must come of it ---------------------------------------------------------------------------

    def stands_still(self, within_s: float) -> None:
        """Wait until the robot stands still, and check how long after the fault that was."""

        def still() -> bool:
            return time.time_ns() - max(self.motion().moving_until_ns(), self.fault_ns) > 300_000_000

        self.bench.until(still, f"the robot to stand still after {self.name}")
        took_s = max(self.motion().moving_until_ns() - self.fault_ns, 0) / 1e9
        self._note(f"stands still after {took_s:.2f} s (bound {within_s:g} s)")
        assert took_s <= within_s, f"{self.name}: it stood still only after {took_s:.2f} s; {self.account()}"

    def says(self, state: str, reason: str, within_s: float = 15.0) -> Any:
        """Wait until a status since the fault has this state and reason; returns it."""

        def said() -> Sent | None:
            wanted = (state, reason)
            new = self.bench.statuses[self._heard :]
            return next((s for s in new if (s.message.state, s.message.reason) == wanted), None)

        first = self.bench.until(said, f"state {state} and reason {reason}")
        took_s = (first.sent_ns - self.fault_ns) / 1e9
        self._note(f"{state} {reason} after {took_s:.2f} s (bound {within_s:g} s)")
        assert took_s <= within_s, (
            f"{self.name}: {state} {reason} only after {took_s:.2f} s; {self.account()}"
        )
        return first.message

    def counts(self, reason: str) -> None:
        """Wait until the counter of a reason has risen in this row."""
        self.bench.until(
            lambda: self.bench.counters().get(reason, 0) > self._before.get(reason, 0),
            f"the counter of {reason} to rise",
        )

    def ends(self, reason: str | tuple[str, ...], *words: str, within_s: float) -> Any:
        """The result of the goal, which must have this reason; the words must be in its message.

        It comes when the robot stands still.

        Args:
            reason: code of action/RunPolicy.action; of several, any.
            words: that a person needs.
            within_s: from the fault.
        """
        answer = self.result(within_s + 15.0)
        result = answer.result
        reasons = (reason,) if isinstance(reason, str) else reason
        assert result.reason in reasons, f"{self.name}: {result.reason}: {result.message}; {self.account()}"
        for word in words:
            assert word in result.message, f"{self.name}: {word!r} is not in {result.message!r}"
        assert answer.status == _FINAL.get(result.reason, GoalStatus.STATUS_ABORTED)

        def idle() -> Sent | None:
            new = self.bench.statuses[self._heard :]
            return next((s for s in new if s.message.state == "idle" and s.sent_ns > self.fault_ns), None)

        ended_ns = self.bench.until(idle, "the idle status").sent_ns
        took_s = (ended_ns - self.fault_ns) / 1e9
        self._note(f"goal ends with {result.reason} after {took_s:.2f} s (bound {within_s:g} s)")
        assert took_s <= within_s, f"{self.name}: the goal ended only after {took_s:.2f} s; {self.account()}"
        if result.reason not in _REPORTED_MOVING:
            early_ns = self.motion().moving_until_ns() - ended_ns
            assert early_ns <= _REST_TOLERANCE_NS, (
                f"{self.name}: the end is reported {early_ns / 1e9:.3f} s before the robot stands; {self.account()}"
            )
        return result

    def result(self, limit_s: float = 20.0) -> Any:
        """The end of the goal: its result, and its status."""
        return self.bench.answer(self._goal.get_result_async(), "the goal's end", limit_s)

    def goes_on(self, within_s: float = 10.0) -> None:
        """Wait until the robot moves, by two new chunks, in the same goal; not longer than `within_s` from now on."""
        begin_s = time.monotonic()
        self._wait_for_motion(len(self.bench.chunks), "the robot to move again")
        took_s = time.monotonic() - begin_s
        self._note(f"goes on after {took_s:.2f} s (bound {within_s:g} s)")
        assert took_s <= within_s, f"{self.name}: it went on only after {took_s:.2f} s; {self.account()}"

    def motion(self) -> Motion:
        """What a controller has made of what was sent since the row began."""
        bench = self.bench
        sent = bench.trajectories[self._first :]
        return replay(
            sent, self._start, self.begin_ns, time.time_ns(), bench.ros_ns, from_measured=self._from_measured
        )

    def account(self) -> str:
        """The trajectories of this row and what the policy said, for a person."""
        lines = []
        for one in self.bench.trajectories[self._first :]:
            points = one.message.points
            fastest = max(max(map(abs, point.velocities)) for point in points)
            lines.append(
                f"sent {(one.sent_ns - self.fault_ns) / 1e9:+.3f} s from the fault, "
                f"{lateness_s(one, self.bench.ros_ns):.3f} s late, {len(points)} points, "
                f"{to_ns(points[-1].time_from_start) / 1e9:.2f} s, fastest {fastest:.3f}, "
                f"from {np.round(points[0].positions, 4)} to {np.round(points[-1].positions, 4)}"
            )
        return "\n  ".join([*lines, self.bench.describe()])

    # --- the end of the row -----------------------------------------------------------------------------

    def finish(self, *, judge_motion: bool) -> None:
        """The invariants: everything accepted, nothing beyond a limit, at rest, node alive, no thread left."""
        bench = self.bench
        if judge_motion:
            self.bench.until(
                lambda: time.time_ns() - self.motion().moving_until_ns() > 100_000_000,
                "the robot to come to rest",
            )
        motion, sent = self.motion(), bench.trajectories[self._first :]
        assert motion.rejected == [], f"{self.name}: rejected by the controller: {motion.rejected}"
        beyond = [text for one in sent for text in excesses(one.message)]
        assert beyond == [], f"{self.name}: beyond the limits: {beyond[:3]}"
        if judge_motion:
            late_s = [lateness_s(one, bench.ros_ns) for one in sent]
            jump = motion.jump()
            assert jump <= explained_jump(max(late_s, default=0.0)), (
                f"{self.name}: the command jumps by {jump:.4f} rad; {self.account()}"
            )
            bench.late_s += late_s
        assert not bench.policy.ended(), bench.policy.describe_end("policy")
        bench.expect_threads()
        bench.table.append(f"{self.name:34} | {'; '.join(self._said)}")

    def recover(self) -> None:
        """After a failure: leave the bench as the next row expects it."""
        with contextlib.suppress(Exception, AssertionError):
            self.bench.deadman = True
            self.bench.listen(True)
            self.clear()
            if self._goal is not None and self._goal.accepted:
                self.bench.answer(self._goal.cancel_goal_async(), "the answer to cancelling", 5.0)
            self.happened()
            self.stands_still(within_s=30.0)
            self.bench.call("clear_emergency_stop")

    def _wait_for_motion(self, seen: int, what: str) -> None:
        self.bench.until(lambda: len(self.bench.chunks) >= seen + 2 and self.motion().moves(), what)

    def _note(self, text: str) -> None:
        self._said.append(text)
