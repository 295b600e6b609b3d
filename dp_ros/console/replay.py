"""A recorded episode on the robot, asked for by a page: only while that page says that somebody is in front of it.

The way there and the limits are those of `dp-ros data replay`, `runtime.replay.EpisodeReplay`; this adds who may let it
go on. Easy to get wrong: the hand's motion and the replay's must not command at the same time, and the hand's may only
go on when the replay's has come to rest and commands nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.operator import OperatorMotion
from dp_ros.runtime.replay import EpisodeReplay
from dp_ros.task import TaskSpec

Floats = npt.NDArray[np.float64]
#: Share of the velocity limits with which the robot goes to the first command.
APPROACH = 0.1
#: How long the place of rest is commanded at the end, s.
_HOLD_S = 0.5


class PageReplay:
    """Takes the robot's motion from the hand for a replay, and gives it back.

    Args:
        task: of the robot.
        hand: the motion that commands otherwise.
        use: makes a motion the one that commands.
        silence_s: a page that says nothing for so long is gone.
        clock: seconds, of a clock that nobody sets.
    """

    def __init__(
        self,
        task: TaskSpec,
        hand: OperatorMotion,
        use: Callable[[OperatorMotion], None],
        *,
        silence_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._hand, self._use = task, hand, use
        self._silence_s, self._clock = silence_s, clock
        self._replay: EpisodeReplay | None = None
        self._motion = hand
        self._heard_s = 0.0
        self.state: dict[str, Any] | None = None
        """What there is to show: `episode`, `phase`, `active`, `progress_s`, `seconds`, `problem`; never changed."""

    @property
    def active(self) -> bool:
        """Whether the replay has the robot's motion."""
        return self._replay is not None

    def begin(self, episode: int, task: TaskSpec, commands: Floats, speed: float) -> None:
        """Replay an episode.

        Args:
            episode: its number, to show.
            task: that was recorded.
            commands: (n, command_dim), one a step.
            speed: 1 is as recorded.

        Raises:
            ValueError: it cannot be replayed on this robot, or not now.
        """
        ours, theirs = self._task, task
        if self.active:
            raise ValueError("an episode is being replayed; stop that first")
        if self._hand.is_moving:
            raise ValueError("the robot is being moved; let go first")
        if (names := theirs.action.command_names) != ours.action.command_names:
            raise ValueError(
                f"the episode commands {', '.join(names)}, this robot {', '.join(ours.action.command_names)}"
            )
        if theirs.dt_ns != ours.dt_ns:
            raise ValueError(
                f"the episode was recorded at {theirs.rate_hz:g} Hz, the task says {ours.rate_hz:g}"
            )
        if commands.ndim != 2 or commands.shape[1] != len(names) or not np.isfinite(commands).all():
            raise ValueError("the episode has commands that are not finite, or of another number of values")
        motion = OperatorMotion(
            ours, tick_s=self._hand.tick_s, speed_scale=APPROACH, timeout_s=1.0, hold_s=_HOLD_S
        )
        self._replay = EpisodeReplay(ours, commands, motion, speed=speed)
        self._motion, self._heard_s = motion, self._clock()
        self._hand.abandon()
        self._use(motion)
        self.state = {"episode": episode, "seconds": round(len(commands) * ours.dt_ns / 1e9, 2)}
        self._show()

    def here(self) -> None:
        """The page that asked for it says that somebody is in front of it."""
        self._heard_s = self._clock()

    def stop(self, why: str) -> None:
        """End the replay, the robot is brought to rest; nothing if there is none."""
        if self._replay is not None:
            self._replay.stop(why)
            self._show()

    def abandon(self, why: str) -> None:
        """Command nothing more, at once: somebody else moves the robot. Nothing if there is no replay."""
        if self._replay is not None:
            self._replay.stop(why)
            self._motion.abandon()
            self._end()

    def tick(self, now_ns: int, measured: Floats | None, measured_ns: int) -> None:
        """Before each tick of the motion that commands; as `EpisodeReplay.tick`."""
        if self._replay is None:
            return
        if self._clock() - self._heard_s > self._silence_s:
            self._replay.stop("the page that asked for it is silent")
        self._replay.tick(now_ns, measured, measured_ns)
        if self._replay.phase in ("done", "failed") and not self._motion.is_commanding:
            self._end()
        else:
            self._show()

    def _end(self) -> None:
        self._show()
        assert self.state is not None
        self.state = {**self.state, "active": False}
        self._replay, self._motion = None, self._hand
        self._use(self._hand)

    def _show(self) -> None:
        assert self._replay is not None and self.state is not None
        self.state = {
            **self.state,
            "phase": self._replay.phase,
            "active": True,
            "progress_s": round(self._replay.progress_s, 2),
            "problem": self._replay.problem,
        }
