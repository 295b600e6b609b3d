"""Labels for a policy's own mistakes: the expert takes over from states that the policy came to.

The policy runs from a start state until a drawn time, or until it is stuck; then the expert goes on in the same
world until the T is on its goal, and what it commanded is a new demonstration. That is DAgger (Ross, Gordon and
Bagnell, 2011, arXiv 1011.0686) as robots get it, by takeovers, and not by labels for steps that the policy took: the
PushT expert commands a whole push, and a label out of the middle of one is worth little. Easy to get wrong: the
agent is moving when the expert takes over, so it goes on in the same world and not from a copy of its positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dp_ros.sim.actuation_noise import ActuationNoise
from dp_ros.sim.pusht import MAX_STEPS, PushT
from dp_ros.sim.pusht_batch import WIDTH, SampleRequests, together
from dp_ros.sim.pusht_episodes import DemonstrationStyle
from dp_ros.sim.pusht_expert import PushTExpert
from dp_ros.sim.pusht_push_model import pose_distance_px
from dp_ros.sim.pusht_rollout import EpisodeResult, episode, observe
from dp_ros.task import TaskSpec

#: The T is stuck if it has come no farther than this in the steps of `TakeoverRule.patience`.
STUCK_PX = 2.0

Outcome = Literal["solved", "labelled", "unsolved"]


@dataclass(frozen=True)
class TakeoverRule:
    """When the expert takes over.

    Attributes:
        earliest: control step from which on it may.
        latest: control step at which it does at the latest.
        patience: steps without a move of the T after which it does, from `earliest` on.
    """

    earliest: int = 10
    latest: int = 200
    patience: int = 40

    def __post_init__(self) -> None:
        if not 0 <= self.earliest <= self.latest < MAX_STEPS:
            raise ValueError(
                f"takeover from step {self.earliest} to {self.latest}: expected two steps in this order, "
                f"from 0 to {MAX_STEPS - 1}"
            )
        if self.patience < 1:
            raise ValueError(f"patience: got {self.patience}, expected at least 1 step")


@dataclass(frozen=True)
class Label:
    """What came of one start state.

    Attributes:
        seed: of the start state, the takeover's time, the noise and the expert.
        outcome: whether the policy solved it before anybody took over, or the expert did after that, or neither.
        stuck: whether the expert took over because the policy was stuck.
        policy_steps: control steps of the policy.
        steps: rows of the expert alone, as an episode of a recording; empty unless `labelled`.
    """

    seed: int
    outcome: Outcome
    stuck: bool
    policy_steps: int
    steps: list[dict[str, Any]] = field(default_factory=list, repr=False)


def label_episodes(
    task: TaskSpec,
    sample_requests: SampleRequests,
    seeds: Sequence[int],
    rule: TakeoverRule | None = None,
    style: DemonstrationStyle | None = None,
    *,
    recorded: TaskSpec | None = None,
    latencies_ms: Sequence[float] = (),
    width: int = WIDTH,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Iterator[Label]:
    """Run the policy from each seed's start state and let the expert take over.

    Args:
        task: what the policy observes and commands.
        sample_requests: the policy, see `pusht_batch.rollouts`.
        seeds: of the start states.
        rule: when the expert takes over.
        style: how it demonstrates.
        recorded: what its rows have; None: what the policy observes.
        latencies_ms: latencies that the policy has to live with, one a seed in turn; none: lockstep.
        width: most episodes at a time.
        should_stop: asked before each inference.
        options: of `pusht_rollout.episode`: how the policy's chunks are executed.

    Yields:
        What came of each, as the episodes end.
    """
    rule, style = rule or TakeoverRule(), style or DemonstrationStyle()
    takeovers = {seed: _Takeover(seed, rule) for seed in seeds}
    worlds = {seed: PushT() for seed in seeds}
    begun = (
        episode(
            task,
            seed,
            world=worlds[seed],
            until=takeovers[seed],
            latency_ms=latencies_ms[seed % len(latencies_ms)] if latencies_ms else None,
            **options,
        )
        for seed in seeds
    )
    for policy in together(begun, sample_requests, width=width, should_stop=should_stop):
        yield _finish(recorded or task, policy, worlds.pop(policy.seed), takeovers[policy.seed], style)


class _Takeover:
    """Says when the expert takes over one episode; asked once before each step."""

    def __init__(self, seed: int, rule: TakeoverRule) -> None:
        self._rule = rule
        self._step = int(np.random.default_rng(seed).integers(rule.earliest, rule.latest, endpoint=True))
        self._poses: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self.stuck = False

    def __call__(self, world: PushT) -> bool:
        self._poses.append(world.block_pose)
        patience = self._rule.patience
        if world.steps >= self._rule.earliest and len(self._poses) > patience:
            moved = pose_distance_px(np.array(self._poses[-1 - patience : -1]), self._poses[-1])
            self.stuck = bool(moved.max() < STUCK_PX)
        return self.stuck or world.steps >= self._step


def _finish(
    task: TaskSpec, policy: EpisodeResult, world: PushT, takeover: _Takeover, style: DemonstrationStyle
) -> Label:
    """Let the expert go on in `world`."""
    if policy.success:
        return Label(policy.seed, "solved", False, policy.steps)
    expert = PushTExpert(push_px_per_step=style.push_px_per_step, travel_px_per_step=style.travel_px_per_step)
    expert.reset(policy.seed)
    noise = ActuationNoise(style.noise_px, policy.seed)
    steps: list[dict[str, Any]] = []
    while len(steps) < MAX_STEPS:
        target = expert.act(world.state)
        steps.append({**observe(task, world), "action": target, "timestamp": len(steps) * task.dt_ns / 1e9})
        if world.step(noise.apply(target)).done:
            return Label(policy.seed, "labelled", takeover.stuck, policy.steps, steps)
    return Label(policy.seed, "unsolved", takeover.stuck, policy.steps)
