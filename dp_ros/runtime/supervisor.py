"""What stands between a policy and a robot besides the limits: conditions, and a bounded reaction to each.

Conditions are reported as they are seen (`report`, and events such as `press_emergency_stop`); `judge` names the
reaction that the worst of them asks for. Every condition has a reason code, a counter of its onsets and, where it
may last, a time after which it ends the goal. Two clocks come in: ROS time for what robot and policy do, and a
steady clock for what people and processes do, which goes on when simulated time stands still. Easy to get wrong:
the emergency stop is latched, so whoever lets go of the button does not clear it, and neither does a new supervisor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

EMERGENCY_STOP = "EMERGENCY_STOP"
DEADMAN_RELEASED = "DEADMAN_RELEASED"
TAKEOVER = "TAKEOVER"
STREAM_STALE = "STREAM_STALE"
STREAM_FROZEN = "STREAM_FROZEN"
BAD_OBSERVATION = "BAD_OBSERVATION"
OBSERVATION_REASONS = (STREAM_STALE, STREAM_FROZEN, BAD_OBSERVATION)
INFERENCE_OVERDUE = "INFERENCE_OVERDUE"
INFERENCE_FAILED = "INFERENCE_FAILED"
TRACKING_ERROR = "TRACKING_ERROR"
CONTROLLER_SILENT = "CONTROLLER_SILENT"
CLOCK_JUMP = "CLOCK_JUMP"
CLOCK_STOPPED = "CLOCK_STOPPED"
#: Backward steps of ROS time up to this are ignored, s: a clock that is disciplined makes such steps.
BACKWARD_S = 0.05


class Reaction(IntEnum):
    """What a condition asks for; where several hold, the highest."""

    NONE = 0
    #: Counted and watched: what is commanded ends at rest by itself.
    WAIT = 1
    #: Brake along the path and stand until the condition has cleared.
    HOLD = 2
    #: Command nothing, from this tick on: somebody else does.
    YIELD = 3
    #: Brake along the path and end the goal.
    ABORT = 4


@dataclass(frozen=True)
class SafetyOptions:
    """How long each condition may last, s, and what a person has chosen.

    Attributes:
        stale_grace_s: a required stream may be missing, stale, frozen or unusable this long (ROS time) before the
            goal is aborted; it holds meanwhile.
        overdue_grace_s: nothing new to command for this long (ROS time) aborts the goal.
        tracking_grace_s: measured may differ from commanded by more than `limits.tracking_error` this long (ROS
            time) before the goal is aborted.
        silent_grace_s: nobody may listen to the commands this long (steady) before the goal is aborted.
        clock_jump_s: ROS time that is this much ahead of a steady clock from one look to the next has jumped.
        clock_timeout_s: ROS time may stand still this long (steady) before the goal is aborted.
        deadman_required: whether commands need a deadman that is held.
        deadman_timeout_s: a deadman message counts this long (steady).
        deadman_release: whether a release holds the goal or aborts it.
        takeover_timeout_s: an operator's message counts this long (steady).
        takeover_then: whether the goal resumes or ends after an operator took over.
        soft_start_s: time over which a goal's authority rises from 0 to 1.
    """

    stale_grace_s: float = 1.0
    overdue_grace_s: float = 3.0
    tracking_grace_s: float = 0.3
    silent_grace_s: float = 2.0
    clock_jump_s: float = 1.0
    clock_timeout_s: float = 5.0
    deadman_required: bool = False
    deadman_timeout_s: float = 0.3
    deadman_release: Literal["hold", "abort"] = "hold"
    takeover_timeout_s: float = 0.5
    takeover_then: Literal["resume", "end"] = "resume"
    soft_start_s: float = 0.5


@dataclass(frozen=True)
class Verdict:
    """The reaction asked for, by which condition, and why, for a person."""

    reaction: Reaction = Reaction.NONE
    reason: str = ""
    message: str = ""


@dataclass
class _Condition:
    since_s: float
    message: str
    steady: bool


@dataclass
class StopLatch:
    """The emergency stop, which outlives the supervisors that look at it.

    Attributes:
        message: why it is latched, for a person; empty while it is not.
    """

    message: str = ""


class Supervisor:
    """Keeps track of conditions and decides the reaction; knows no clock of its own.

    Args:
        options: limits of time, and choices.
        latch: of the emergency stop; None: one of its own, which is released.

    Attributes:
        counters: onsets of each condition since this was made, by reason code.
    """

    def __init__(self, options: SafetyOptions | None = None, latch: StopLatch | None = None) -> None:
        self.options = options or SafetyOptions()
        self._latch = StopLatch() if latch is None else latch
        o = self.options
        never = math.inf
        #: reason: reaction at once, seconds until the goal is aborted, whether those are of the steady clock
        self._rules: dict[str, tuple[Reaction, float, bool]] = {
            EMERGENCY_STOP: (Reaction.ABORT, 0.0, True),
            INFERENCE_FAILED: (Reaction.ABORT, 0.0, True),
            CLOCK_JUMP: (Reaction.ABORT, 0.0, True),
            CLOCK_STOPPED: (Reaction.WAIT, o.clock_timeout_s, True),
            TRACKING_ERROR: (Reaction.WAIT, o.tracking_grace_s, False),
            TAKEOVER: (Reaction.YIELD, 0.0 if o.takeover_then == "end" else never, True),
            DEADMAN_RELEASED: (Reaction.HOLD, 0.0 if o.deadman_release == "abort" else never, True),
            **{reason: (Reaction.HOLD, o.stale_grace_s, False) for reason in OBSERVATION_REASONS},
            CONTROLLER_SILENT: (Reaction.HOLD, o.silent_grace_s, True),
            INFERENCE_OVERDUE: (Reaction.WAIT, o.overdue_grace_s, False),
        }
        self.counters: Counter[str] = Counter()
        self._active: dict[str, _Condition] = {}
        self._deadman_s = self._operator_s = -math.inf
        self._operator = ""
        self._clock: tuple[int, float] | None = None  # ROS time and steady time of the last look
        self._clock_moved_s = 0.0

    # --- a goal -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A goal begins: what happened before it is forgotten, but for what is latched."""
        self._active.clear()
        self._clock = None

    def refusal(self, steady_s: float) -> Verdict:
        """Why a goal must not begin; `Reaction.NONE` if it may."""
        if self._latch.message:
            return Verdict(Reaction.ABORT, EMERGENCY_STOP, self._latch.message)
        if self.options.deadman_required and not self._deadman_held(steady_s):
            return Verdict(Reaction.HOLD, DEADMAN_RELEASED, "the deadman is not held; hold it first")
        return Verdict()

    # --- events -----------------------------------------------------------------------------------------

    def press_emergency_stop(self, source: str) -> None:
        """Latch the emergency stop; `source` says who pressed it, for a person."""
        if not self._latch.message:
            self.counters[EMERGENCY_STOP] += 1
        self._latch.message = f"emergency stop by {source}; clear it with the service clear_emergency_stop"

    def clear_emergency_stop(self, *, goal_running: bool) -> str:
        """Release the latch; returns why not, empty if it is released."""
        if goal_running:
            return "a goal is being run; cancel it first"
        self._latch.message = ""
        return ""

    @property
    def emergency_stopped(self) -> bool:
        """Whether the emergency stop is latched."""
        return bool(self._latch.message)

    def hold_deadman(self, held: bool, steady_s: float) -> None:
        """A deadman message came."""
        self._deadman_s = steady_s if held else -math.inf

    def operator_commands(self, source: str, steady_s: float) -> None:
        """The operator commanded something, on the topic `source`."""
        self._operator_s, self._operator = steady_s, source

    def operator_is_live(self, steady_s: float) -> bool:
        """Whether the operator's last message still counts."""
        return steady_s - self._operator_s < self.options.takeover_timeout_s

    def _deadman_held(self, steady_s: float) -> bool:
        return steady_s - self._deadman_s < self.options.deadman_timeout_s

    # --- conditions -------------------------------------------------------------------------------------

    def report(self, reason: str, message: str, now_s: float) -> None:
        """A condition holds, or with an empty message does not.

        Args:
            reason: its code.
            message: why, for a person; empty: all is well.
            now_s: time on the clock that its rule counts on.
        """
        if not message:
            self._active.pop(reason, None)
        elif reason in self._active:
            self._active[reason].message = message
        else:
            self._active[reason] = _Condition(now_s, message, self._rules[reason][2])
            self.counters[reason] += 1

    def watch_people(self, steady_s: float) -> None:
        """Look at emergency stop, deadman and operator."""
        if self._latch.message and EMERGENCY_STOP not in self._active:
            self._active[EMERGENCY_STOP] = _Condition(steady_s, self._latch.message, True)
        o = self.options
        released = o.deadman_required and not self._deadman_held(steady_s)
        age_s = steady_s - self._deadman_s
        how = f"last heard {age_s:.2f} s ago" if math.isfinite(age_s) else "let go"
        self.report(DEADMAN_RELEASED, f"the deadman is not held ({how})" if released else "", steady_s)
        live = self.operator_is_live(steady_s)
        self.report(TAKEOVER, f"the operator commands on {self._operator}" if live else "", steady_s)

    def watch_clock(self, now_ns: int, steady_s: float) -> int:
        """Look at ROS time.

        Returns:
            By how much it jumped since the last look, ns; 0 if it did not.
        """
        if self._clock is None:
            self._clock, self._clock_moved_s = (now_ns, steady_s), steady_s
            return 0
        (last_ns, last_s), self._clock = self._clock, (now_ns, steady_s)
        passed_s, steady_passed_s = (now_ns - last_ns) / 1e9, steady_s - last_s
        ahead_s = passed_s - steady_passed_s
        if now_ns != last_ns:
            self._clock_moved_s = steady_s
        still_s = steady_s - self._clock_moved_s
        self.report(
            CLOCK_STOPPED,
            f"ROS time has stood still for {still_s:.1f} s; is the simulation alive?"
            if still_s > 0.5
            else "",
            steady_s - still_s,
        )
        if passed_s >= -BACKWARD_S and ahead_s <= self.options.clock_jump_s:
            return 0
        self.report(CLOCK_JUMP, f"ROS time jumped by {ahead_s:+.3f} s", steady_s)
        return now_ns - last_ns

    def clock_stopped(self) -> str:
        """Why ROS time cannot be relied on at the moment, for a person; empty if it goes on."""
        condition = self._active.get(CLOCK_STOPPED)
        return "" if condition is None else condition.message

    def judge(self, now_ns: int, steady_s: float) -> Verdict:
        """The reaction to everything reported; where two ask for the same, the condition that came first."""
        worst = Verdict()
        for reason, condition in self._active.items():
            reaction, abort_after_s, _ = self._rules[reason]
            lasted_s = (steady_s if condition.steady else now_ns / 1e9) - condition.since_s
            if lasted_s >= abort_after_s:
                reaction = Reaction.ABORT
            if reaction > worst.reaction:
                worst = Verdict(reaction, reason, condition.message)
        return worst

    def bounds(self) -> Mapping[str, tuple[Reaction, float]]:
        """Reaction at once and seconds until the goal is aborted, by reason code."""
        return {reason: (reaction, after_s) for reason, (reaction, after_s, _) in self._rules.items()}

    def authority(self, since_start_s: float) -> float:
        """Share of the policy's command that is followed, 0 to 1, a time after a goal began; smooth at both ends."""
        if self.options.soft_start_s <= 0.0:
            return 1.0
        u = min(max(since_start_s / self.options.soft_start_s, 0.0), 1.0)
        return u * u * u * (10.0 - 15.0 * u + 6.0 * u * u)
