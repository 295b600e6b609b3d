"""A run as a person makes and looks at it: overrides, folder by date, report."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")

from dp_ros.cli.main import main  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from dp_ros.training.metrics import read_metrics  # noqa: E402
from dp_ros.training.run_folder import dated_run, open_run  # noqa: E402
from test.training.recordings import record_circles  # noqa: E402

SMALL = ["network.widths=[8,16]", "network.step_dim=16", "training.batch_size=16", "training.steps=4"]
SIMULATED = ["training.eval_episodes=2", "training.eval_train_episodes=1", "sampler.num_inference_steps=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_circles(tmp_path_factory.mktemp("data") / "circles.zarr")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in the folder that it gets where none is given."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Overrides stand before, between and after the options.
        given = ["train", SMALL[0], "--task", "pusht_state", *SMALL[1:], "--data", str(data), *SIMULATED]
        assert main([*given, "training.logger=none", "--seed", "7"]) == 0
    (made,) = (folder / "runs").glob("*/*")
    return made


def test_a_run_without_a_folder_gets_one_by_date_and_time(run: Path) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", run.parent.name)
    assert re.fullmatch(r"\d\d-\d\d-\d\d_pusht_state_diffusion_unet_state", run.name)
    now = datetime(2026, 1, 2, 3, 4, 5)
    assert dated_run(load_task("pusht_state"), "my/recipe.yaml", now) == Path(
        "runs/2026-01-02/03-04-05_pusht_state_recipe"
    )


def test_the_folder_holds_the_recipe_as_it_was_resolved(run: Path, data: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    assert recipe["network"]["widths"] == [8, 16]
    assert recipe["training"]["seed"] == 7
    record = open_run(run)
    assert record.versions["dp_ros"]
    assert recipe == record.config.model_dump(mode="json")
    given = ["train", "--task", "pusht_state", "--data", str(data), "--config", str(run / "config.yaml")]
    assert main([*given, "--out", str(tmp_path / "again"), "training.eval_episodes=0"]) == 0
    again = open_run(tmp_path / "again").config.training
    assert again == record.config.training.model_copy(update={"eval_episodes": 0})


def test_what_was_measured_has_its_fixed_names(run: Path) -> None:
    training, evaluation = read_metrics(run)
    assert training.keys() == {"step", "epoch", "lr", "train_loss", "gradient_norm"}
    assert evaluation.keys() == {
        "step",
        "epoch",
        "val_loss",
        "train_action_mse_error",
        "test/sim_max_reward_200000",
        "test/sim_max_reward_200001",
        "test/mean_score",
        "test/mean_score_low",
        "test/mean_score_high",
        "test/success_rate",
        "test/final_coverage",
        *(key for key in evaluation if key.startswith("train/sim_max_reward_")),
        "train/mean_score",
        "train/success_rate",
        "train/final_coverage",
    }
    assert sum(key.startswith("train/sim_max_reward_") for key in evaluation) == 1
    assert evaluation["train_action_mse_error"] > 0


def test_the_report_is_a_table_and_one_page_that_needs_no_other_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), "--html", str(tmp_path / "page.html")]) == 0
    shown = capsys.readouterr().out
    for name in ("epoch", "step", "lr", "test/sim_max_reward_200001", "test/mean_score"):
        assert name in shown
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<svg" in page
    assert page.count("data:image/png;base64,") >= 2, "where the episodes ended, and how the failed ones went"
    assert "Failed episodes" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert open_run(run).data_digest[:12] in page
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()


def test_best_checkpoints_are_named_by_step_and_score(run: Path) -> None:
    (kept,) = (run / "checkpoints").iterdir()
    assert re.fullmatch(r"step_0000004_score_\d\.\d{4}\.safetensors", kept.name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training.sead=1"], "did you mean training.seed (a whole number"),
        (["training.seed=abc"], "training.seed takes a whole number"),
        (["training.seed"], "expected NAME=VALUE"),
        (["training.seed=1", "--seed", "2"], "--seed and training.seed: are the same value"),
        (["training.device=cuda:99"], "training.device=cuda:99"),
        (["training.eval_first_seed=0", "training.eval_episodes=3"], "are those of demonstrations in"),
        (
            ["training.eval_first_seed=100010", "training.eval_episodes=3"],
            "results are reported on 100000 to 100049",
        ),
        (["training.accumulate=1000"], "windows cannot be cut into 1000 parts"),
        (["--resume"], "say which run with --out RUN"),
    ],
)
def test_what_a_person_gets_wrong_is_refused_before_anything_is_made(
    arguments: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--task", "pusht_state", "--data", str(data), *SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_report_on_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a training run" in capsys.readouterr().err
