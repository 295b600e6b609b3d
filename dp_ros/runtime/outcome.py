"""What comes of a tick of the closed loop, and of a run.

Easy to get wrong: a tick may have a problem and still no end of the run; what follows is the verdict's to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from dp_ros.runtime.execution import InferenceRequest
from dp_ros.runtime.observation import ObservationProblem
from dp_ros.runtime.supervisor import Verdict

TIME_LIMIT = "TIME_LIMIT"


@dataclass(frozen=True)
class Stop:
    """The run has ended: `reason` is a code of action/RunPolicy.action."""

    reason: str
    message: str


@dataclass(frozen=True)
class Tick:
    """Outcome of one tick.

    Attributes:
        request: an inference to run, if one is due.
        stop: why the run ended, if it did.
        problem: why no inference can be made at the moment, if so.
        verdict: what the supervisor asks for.
        braked: whether what is commanded has just been cut short by a brake.
    """

    request: InferenceRequest | None = None
    stop: Stop | None = None
    problem: ObservationProblem | None = None
    verdict: Verdict = Verdict()
    braked: bool = False


@dataclass
class RunCounts:
    """What happened in a run so far."""

    inferences: int = 0
    late_steps: int = 0
    clamped: int = 0
