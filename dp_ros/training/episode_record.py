"""What the simulated episodes of an evaluation looked like: one small npz file for each evaluation of a run.

Only states are kept; pictures are drawn from them when somebody looks. Easy to get wrong: a start state may have been
run both as one of the test and as one of the demonstrations', so episodes are told apart by group and seed.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp_ros.errors import UserError
from dp_ros.sim.pusht_rollout import EpisodeResult

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode.

    Attributes:
        group: test or train.
        seed: of the start state.
        score: highest reward.
        success: whether coverage exceeded 0.95.
        final_coverage: coverage at the last step.
        states: (steps + 1, 5) agent x, y, block x, y [px], angle [rad].
    """

    group: str
    seed: int
    score: float
    success: bool
    final_coverage: float
    states: NDArray[np.float32]


def save_episodes(run: Path, step: int, groups: Mapping[str, Sequence[EpisodeResult]]) -> None:
    """Write the episodes of the evaluation at `step`, by group."""
    episodes = [
        (group, episode) for group, members in groups.items() for episode in members if episode.states
    ]
    if not episodes:
        return
    path = episodes_file(run, step)
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez_compressed(
            file,
            group=np.array([group for group, _ in episodes]),
            seed=np.array([episode.seed for _, episode in episodes], np.int64),
            score=np.array([episode.score for _, episode in episodes]),
            success=np.array([episode.success for _, episode in episodes]),
            final_coverage=np.array([episode.final_coverage for _, episode in episodes]),
            end=np.cumsum([len(episode.states) for _, episode in episodes]),
            states=np.concatenate([np.asarray(episode.states, np.float32) for _, episode in episodes]),
        )
    os.replace(part, path)


def load_episodes(run: Path, step: int) -> list[EpisodeRecord]:
    """Episodes of the evaluation at `step`; none if it had none. Raises UserError if the file is damaged."""
    path = episodes_file(run, step)
    if not path.exists():
        return []
    try:
        with np.load(path, allow_pickle=False) as file:
            states = np.split(file["states"], file["end"][:-1])
            columns = zip(
                file["group"].tolist(),
                file["seed"].tolist(),
                file["score"].tolist(),
                file["success"].tolist(),
                file["final_coverage"].tolist(),
                states,
                strict=True,
            )
            return [EpisodeRecord(*values) for values in columns]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is damaged ({error}); take it away") from None


def episodes_file(run: Path, step: int) -> Path:
    """Where the episodes of the evaluation at `step` are."""
    return run / EVALUATIONS / f"step_{step:07d}.npz"
