from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dp_ros.errors import UserError
from dp_ros.sim.pusht import PushT
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.training.episode_record import episodes_file, load_episodes, save_episodes
from dp_ros.training.metrics import METRICS
from dp_ros.training.report import history_table, summarize_run, summary_rows, summary_table

LINES = [
    {"step": 50, "epoch": 0.5, "lr": 1e-3, "train_loss": 0.9, "gradient_norm": 2.0},
    {"step": 60, "epoch": 0.6, "val_loss": 0.8, "test/mean_score": 0.5, "test/sim_max_reward_10": 0.5},
    {"step": 100, "epoch": 1.0, "lr": 5e-4, "train_loss": 0.5, "gradient_norm": 1.0},
    {"step": 120, "epoch": 1.2, "val_loss": 0.7, "test/mean_score": 0.75, "test/sim_max_reward_10": 0.75},
    {"step": 150, "epoch": 1.5, "lr": 1e-6, "train_loss": 0.4, "gradient_norm": 0.0},
    {"step": 180, "epoch": 1.8, "val_loss": 0.6, "test/mean_score": 0.7, "test/sim_max_reward_9": 0.7},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def episode(seed: int, success: bool) -> EpisodeResult:
    world = PushT()
    world.reset(seed)
    states = [world.state.copy() for _ in range(3)]
    return EpisodeResult(
        seed, 0, 1.0 if success else 0.25, success, 0.96 if success else 0.2, 2, states=states
    )


def text_of(table: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_each_evaluation_is_a_row_with_the_loss_and_rate_that_it_was_made_at(run: Path) -> None:
    summary = summarize_run(run)
    assert [(row["step"], row["lr"], row["train_loss"]) for row in summary.evaluations] == [
        (60, 1e-3, 0.9),
        (120, 5e-4, 0.5),
        (180, 1e-6, 0.4),
    ]
    shown = text_of(history_table(summary))
    assert re.search(r"1\.2 .* 120 .* 5\.00e-04 .* 0\.5000 .* 0\.7000 .* 0\.7500", shown)
    assert "train/mean_score" not in shown, "what was never measured has no column"


def test_the_best_evaluation_is_the_one_that_was_kept(run: Path) -> None:
    summary = summarize_run(run)
    assert summary.best is not None
    assert summary.best["step"] == 120


def test_the_summary_names_every_value_and_every_start_state(run: Path) -> None:
    rows = summary_rows(summarize_run(run))
    assert [name for name, _, _ in rows] == [
        "epoch",
        "step",
        "lr",
        "gradient_norm",
        "train_loss",
        "val_loss",
        "test/mean_score",
        "test/sim_max_reward_9",
        "test/sim_max_reward_10",
    ]
    values = {name: (last, best) for name, last, best in rows}
    assert values["step"] == ("180", "120")
    assert values["test/mean_score"] == ("0.7000", "0.7500")
    assert values["test/sim_max_reward_9"] == ("0.7000", "-"), "it was not measured at step 120"
    assert "test/sim_max_reward_10" in text_of(summary_table(summarize_run(run)))


def test_a_run_that_has_measured_nothing_yet_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text("")
    with pytest.raises(UserError, match="nothing has been measured yet"):
        summarize_run(tmp_path)


def test_episodes_are_kept_by_group_and_seed(tmp_path: Path) -> None:
    save_episodes(tmp_path, 120, {"test": [episode(5, True), episode(6, False)], "train": [episode(5, True)]})
    kept = load_episodes(tmp_path, 120)
    assert [(one.group, one.seed, one.success, one.score) for one in kept] == [
        ("test", 5, True, 1.0),
        ("test", 6, False, 0.25),
        ("train", 5, True, 1.0),
    ]
    np.testing.assert_allclose(kept[1].states, episode(6, False).states, rtol=1e-6)
    assert load_episodes(tmp_path, 60) == []


def test_episodes_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    save_episodes(tmp_path, 1, {"test": [episode(5, True)]})
    path = episodes_file(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step_0000001.npz: is damaged"):
        load_episodes(tmp_path, 1)
