"""What a person sees of a training run: a bar on a terminal, lines elsewhere and in the run's train.log.

Easy to get wrong: the rate is that of this process; a resumed run counts only its own steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dp_ros.training.checkpoint import Progress as TrainingProgress
from dp_ros.training.config import OptimizationSpec

_MEAN_OVER = 50  # steps
_LINE_EVERY = 500  # steps, where there is no terminal


class TrainingDisplay:
    """Shows loss, learning rate, samples per second and time left.

    Args:
        console: where.
        spec: for the number of steps.
        progress: where the run starts from; the losses that are not in a mean yet are kept in it.
        samples_per_step: of a step.
        log: file that the lines are added to, too; None for none.
    """

    def __init__(
        self,
        console: Console,
        spec: OptimizationSpec,
        progress: TrainingProgress,
        samples_per_step: int,
        log: Path | None = None,
    ) -> None:
        self.mean_loss = float("nan")
        """Mean loss of the last full stretch of steps."""
        step = progress.step
        self._console, self._spec, self._step = console, spec, step
        self._per_step, self._log = samples_per_step, log
        self._losses = progress.losses
        self._first_step, self._started_s = step, time.monotonic()
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  lr {task.fields[rate]}  {task.fields[speed]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=spec.steps, completed=step, loss="-", rate="-", speed="-")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, loss: float, rate: float) -> bool:
        """Count one step; True when a new `mean_loss` is ready."""
        self._step += 1
        self._losses.append(loss)
        if self._step % _MEAN_OVER and self._step != self._spec.steps:
            return False
        self.mean_loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        samples_per_s = (self._step - self._first_step) * self._per_step / elapsed_s
        loss_text, rate_text, speed = f"{self.mean_loss:.4f}", f"{rate:.1e}", f"{samples_per_s:.0f} samples/s"
        self._bar.update(self._task, completed=self._step, loss=loss_text, rate=rate_text, speed=speed)
        if self._step % _LINE_EVERY == 0:
            left_s = (self._spec.steps - self._step) * self._per_step / samples_per_s
            line = (
                f"step {self._step}/{self._spec.steps}  loss {loss_text}  lr {rate_text}  {speed}  "
                f"{left_s / 60:.1f} min left"
            )
            self.say(line, show=not self._console.is_terminal)
        return True

    def evaluated(self, step: int, metrics: Mapping[str, float], is_best: bool) -> None:
        """Show the result of an evaluation: all but the single start states."""
        shown = {name: value for name, value in metrics.items() if "sim_max_reward" not in name}
        values = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        self.say(f"step {step}: {values or 'nothing to evaluate on'}{'  (best so far)' if is_best else ''}")

    def say(self, line: str, *, show: bool = True) -> None:
        """A line for the log and, unless the bar says the same, for the console."""
        if show:
            self._console.print(line, highlight=False, soft_wrap=True)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")
