from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from dp_ros.errors import UserError
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.training.evaluate import summarize
from dp_ros.training.metrics import METRICS, MetricsLog, merit, read_metrics, score_metrics, seeds_of


class FakeRun:
    def __init__(self, id: str) -> None:
        self.id = id
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module in the place of wandb that keeps what it is told."""
    module: Any = types.ModuleType("wandb")
    module.started = []
    module.runs = []

    def init(**options: Any) -> FakeRun:
        module.started.append(options)
        module.runs.append(FakeRun(options["id"] or "abc123"))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_lines_are_written_as_they_come(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, "none", 0, {}) as log:
        log.write(50, {"train_loss": 0.5, "lr": 1e-3})
        assert read_metrics(tmp_path) == [{"step": 50, "train_loss": 0.5, "lr": 1e-3}]
    assert sorted(path.name for path in tmp_path.iterdir()) == [METRICS]


def test_a_resumed_run_drops_what_it_is_going_to_do_again(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, "none", 0, {}) as log:
        for step in (50, 100, 150):
            log.write(step, {"train_loss": 1.0})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 200, "trai')  # killed here
    with MetricsLog(tmp_path, "none", 100, {}) as log:
        log.write(150, {"train_loss": 2.0})
    lines = read_metrics(tmp_path)
    assert [(line["step"], line["train_loss"]) for line in lines] == [(50, 1.0), (100, 1.0), (150, 2.0)]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\nhello\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is damaged: 'hello"):
        read_metrics(tmp_path)


def test_a_run_of_an_older_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no metrics.jsonl.*older version.*tensorboard --logdir"):
        read_metrics(tmp_path)


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, "wandb", 0, {}, active=False) as log:
        log.write(50, {"train_loss": 0.5})
    assert not list(tmp_path.iterdir())


def test_scores_have_their_fixed_names() -> None:
    episodes = [EpisodeResult(7, 0, 0.4, False, 0.3, 300), EpisodeResult(8, 0, 1.0, True, 0.96, 90)]
    metrics = score_metrics(summarize(episodes), "test")
    assert metrics.pop("test/mean_score_low") <= 0.7 <= metrics.pop("test/mean_score_high")
    assert metrics == {
        "test/sim_max_reward_7": 0.4,
        "test/sim_max_reward_8": 1.0,
        "test/mean_score": 0.7,
        "test/success_rate": 0.5,
        "test/final_coverage": pytest.approx(0.63),
    }
    assert seeds_of([metrics, {"step": 1}], "test") == [7, 8]
    assert "test/mean_score_low" not in score_metrics(summarize(episodes[:1]), "test")


def test_evaluations_are_compared_by_score_and_without_one_by_validation_loss() -> None:
    assert merit({"test/mean_score": 0.5, "val_loss": 0.1}) == 0.5
    assert merit({"val_loss": 0.1}) == -0.1
    assert merit({"train_loss": 0.1}) is None


@pytest.mark.parametrize(("logger", "mode"), [("wandb", "online"), ("wandb_offline", "offline")])
def test_weights_and_biases_gets_everything_and_goes_on_after_a_resume(
    logger: str, mode: str, tmp_path: Path, wandb: Any
) -> None:
    with MetricsLog(tmp_path, logger, 0, {"seed": 3}) as log:
        log.write(50, {"train_loss": 0.5})
    (started,) = wandb.started
    assert started["mode"] == mode
    assert started["config"] == {"seed": 3}
    assert started["dir"] == str(tmp_path)
    assert wandb.runs[0].logged == [(50, {"train_loss": 0.5})]
    assert wandb.runs[0].finished
    assert json.loads((tmp_path / METRICS).read_text()) == {"step": 50, "train_loss": 0.5}
    with MetricsLog(tmp_path, logger, 50, {}):
        pass
    assert wandb.started[1]["id"] == "abc123"


def test_weights_and_biases_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"wandb, which is not installed; `pip install wandb`, or give training.logger="
    ):
        MetricsLog(tmp_path, "wandb", 0, {})


def test_weights_and_biases_that_refuses_is_quoted(tmp_path: Path, wandb: Any) -> None:
    def init(**options: Any) -> None:
        raise RuntimeError("no API key configured")

    wandb.init = init
    reason = "wandb refuses: no API key configured; run `wandb login`, or .* --resume training.logger="
    with pytest.raises(UserError, match=reason):
        MetricsLog(tmp_path, "wandb", 0, {})
