"""A recording from which something can be learnt in seconds, and the recipe for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.task import load_task
from dp_ros.training.config import TrainingConfig, load_config

#: Small and quick; no simulation.
QUICK = {
    "network.widths": [8, 16],
    "network.step_dim": 16,
    "training.batch_size": 16,
    "training.steps": 40,
    "training.warmup_steps": 5,
    "training.checkpoint_every": 10,
    "training.eval_every": 15,
    "training.eval_episodes": 0,
    "training.validation_share": 0.2,
}


def quick_config(**training: Any) -> TrainingConfig:
    """The default recipe, made quick; `training` replaces values of its training section."""
    changes = {f"training.{key}": value for key, value in training.items()}
    return load_config(overrides={**QUICK, **changes})


def record_circles(path: Path, n_episodes: int = 6, shift_px: float = 0.0) -> Path:
    """Episodes in which the agent goes round the middle, each from another angle."""
    with EpisodeWriter(path, load_task("pusht_state")) as writer:
        for seed in range(n_episodes):
            angle = np.random.default_rng(seed).uniform(0, 6) + 0.1 * np.arange(26)
            path_px = 256 + shift_px + 150 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            for k in range(25):
                keypoint = np.tile(path_px[k], 9) + np.arange(18)
                step = {"keypoint": keypoint, "agent_pos": path_px[k], "action": path_px[k + 1]}
                writer.add({**step, "timestamp": k / 10})
            writer.save(seed)
    return path
