"""Rounds of DAgger: what is added to what, what is never touched, and that they can be gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("torch")

from dp_ros.data.episode_writer import EpisodeWriter  # noqa: E402
from dp_ros.data.replay_buffer import ReplayBuffer  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec  # noqa: E402
from dp_ros.policies.baselines.specs import RegressionSpec  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from dp_ros.training import dagger  # noqa: E402
from dp_ros.training.dagger_record import DaggerRecord, DaggerSettings, gains, paired_gain  # noqa: E402
from dp_ros.training.trainer import train  # noqa: E402
from test.training.recordings import quick_config, record_circles  # noqa: E402

TASK = load_task("pusht_state")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Circles, and one episode that goes everywhere, so that no label leaves the range."""
    path = record_circles(tmp_path_factory.mktemp("data") / "circles.zarr")
    with EpisodeWriter(path, TASK) as writer:
        for k, px in enumerate((0.0, 512.0)):
            row = {"keypoint": [px] * 18, "agent_pos": [px] * 2, "action": [px] * 2, "timestamp": k / 10}
            writer.add(row)
        writer.save()
    return path


@pytest.fixture(scope="module")
def first_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    recipe = quick_config(steps=2, validation_share=0.0)
    recipe = recipe.model_copy(update={"sampler": SamplerSpec(num_inference_steps=2)})
    train(TASK, data, run, recipe, console=QUIET)
    return run


def settings(run: Path, data: Path, /, **changes: Any) -> DaggerSettings:
    values: dict[str, Any] = {
        "run": str(run),
        "data": str(data),
        "rounds": 2,
        "episodes": 2,
        "first_seed": 500_000,
        "earliest": 5,
        "latest": 5,
        "patience": 40,
        "eval_seeds": "310000",
        "overrides": {"training.steps": 2},
    }
    return DaggerSettings(**{**values, **changes})


def test_each_round_adds_labels_and_begins_with_the_round_before(
    first_run: Path, data: Path, tmp_path: Path
) -> None:
    given = ReplayBuffer.open(data).digest()
    out = tmp_path / "out"
    record = dagger.run_rounds(out, dagger.begin(out, settings(first_run, data)), QUIET)
    assert ReplayBuffer.open(data).digest() == given, "the recording that was given is as it was"
    added = ReplayBuffer.open(out / "data.zarr").episode_seeds.tolist()[7:]
    assert [sorted(added[:2]), sorted(added[2:])] == [[500_000, 500_001], [500_002, 500_003]]
    assert [one.labels.labelled for one in record.rounds] == [2, 2]
    runs = [json.loads((Path(one.run) / "run.json").read_text()) for one in record.rounds]
    assert [run["n_episodes"] for run in runs] == [9, 11]
    assert runs[0]["started_from"].startswith("run,")
    assert runs[1]["started_from"].startswith("round_1,")
    assert runs[0]["config"]["training"]["seed"] != runs[1]["config"]["training"]["seed"]
    assert record.before is not None
    assert set(record.before.scores) == {310_000}
    written = json.loads((out / "dagger.json").read_text())
    assert len(written["gains"]) == 2
    assert DaggerRecord.open(out) == record
    rows = [one.labels.rows for one in record.rounds]
    assert sum(rows) == ReplayBuffer.open(out / "data.zarr").n_steps - 152


def test_labels_and_scores_are_taken_under_the_latencies_that_are_asked_for(
    first_run: Path, data: Path, tmp_path: Path
) -> None:
    """In two processes, and with the running plan as a prefix."""
    chosen = settings(
        first_run,
        data,
        rounds=1,
        episodes=2,
        mode="rtc",
        infer_every=4,
        latencies_ms=(0.0, 400.0),
        processes=2,
    )
    out = tmp_path / "out"
    record = dagger.run_rounds(out, dagger.begin(out, chosen), QUIET)
    assert ReplayBuffer.open(out / "data.zarr").episode_seeds.tolist()[7:] == [500_000 + k for k in range(2)]
    assert record.rounds[0].labels.labelled == 2
    assert record.before is not None
    assert set(record.before.success_rates) == {0.0, 400.0}
    assert record.before.scores.keys() == {310_000}


def test_a_round_that_was_stopped_is_gone_on_with(
    first_run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between labels and training: no label is added twice, and no score is taken again."""
    out = tmp_path / "out"
    record = dagger.begin(out, settings(first_run, data, rounds=1))

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(dagger, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            dagger.run_rounds(out, record, QUIET)
    after_labels = ReplayBuffer.open(out / "data.zarr").digest()
    found = DaggerRecord.open(out)
    assert found.before is not None
    assert found.rounds == []
    done = dagger.run_rounds(out, found, QUIET)
    assert done.before == found.before
    assert ReplayBuffer.open(out / "data.zarr").digest() == after_labels
    assert done.rounds[0].labels.labelled == 2
    assert dagger.run_rounds(out, done, QUIET) == done, "nothing is left to do"


def test_more_rounds_later_are_as_if_it_had_been_begun_with_them(
    first_run: Path, data: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    at_once = dagger.run_rounds(whole, dagger.begin(whole, settings(first_run, data, rounds=2)), QUIET)
    first = dagger.run_rounds(out, dagger.begin(out, settings(first_run, data, rounds=1)), QUIET)
    both = dagger.run_rounds(out, dagger.with_rounds(first, 2), QUIET)
    assert DaggerRecord.open(out) == both
    assert both.settings == at_once.settings
    assert [one.score for one in both.rounds] == [one.score for one in at_once.rounds]
    assert ReplayBuffer.open(out / "data.zarr").digest() == ReplayBuffer.open(whole / "data.zarr").digest()
    with pytest.raises(UserError, match="--rounds: got 1, but 2 are done"):
        dagger.with_rounds(both, 1)
    with pytest.raises(UserError, match="have 500002 in common"):
        dagger.with_rounds(
            first.model_copy(
                update={"settings": first.settings.model_copy(update={"eval_seeds": "500002:500003"})}
            ),
            2,
        )


def test_an_operators_takeovers_are_labels_too(first_run: Path, data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs.zarr"
    source = ReplayBuffer.open(data).episode(0)
    with EpisodeWriter(runs, TASK, takeover=True) as writer:
        for k in range(12):
            writer.add({**{key: v[k] for key, v in source.items()}, "takeover": np.uint8(k >= 5)})
        writer.save()
    out = tmp_path / "out"
    wanted = settings(first_run, data, takeovers=str(runs), rounds=1)
    record = dagger.run_rounds(out, dagger.begin(out, wanted), QUIET)
    assert (record.rounds[0].labels.labelled, record.rounds[0].labels.rows) == (1, 7)
    assert ReplayBuffer.open(out / "data.zarr").n_episodes == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_seed": 100_000}, "the start states of the labels and the start states of reports"),
        ({"eval_seeds": "500001:500003"}, "the start states of the labels and --eval-seeds have 500001"),
        ({"eval_seeds": "100049"}, "--eval-seeds and the start states of reports have 100049"),
        (
            {"eval_seeds": "200000", "overrides": {"training.eval_episodes": 3}},
            "--eval-seeds and the start states that a training chooses its checkpoint by have 200000",
        ),
        ({"overrides": {"training.stepz": 3}}, "training.stepz"),
        ({"infer_every": 16}, "infer_every: got 16, expected 0 .* to 15"),
        ({"takeovers": "x.zarr"}, "--rounds: got 2 with --takeovers"),
        ({"data": "none.zarr"}, "none.zarr"),
        ({"run": "none"}, "none: is not a training run"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    changes: dict, message: str, first_run: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        dagger.begin(tmp_path / "out", settings(first_run, data, **changes))
    assert not (tmp_path / "out").exists()


def test_a_policy_that_takes_no_prefix_cannot_have_mode_rtc(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = quick_config(steps=1, validation_share=0.0)
    baseline = {"network": RegressionSpec(width=16, blocks=1), "sampler": SamplerSpec()}
    train(TASK, data, run, recipe.model_copy(update=baseline), console=QUIET)
    with pytest.raises(
        UserError, match=r"--mode rtc: .* regression policy.* choose --mode replace or ensemble"
    ):
        dagger.begin(tmp_path / "out", settings(run, data, mode="rtc"))
    assert not (tmp_path / "out").exists()
    dagger.check(settings(run, data, mode="ensemble"))


def test_what_an_earlier_version_wrote_is_read_or_refused_with_what_to_do(
    first_run: Path, data: Path, tmp_path: Path
) -> None:
    record = DaggerRecord(settings=settings(first_run, data))
    record.save(tmp_path)
    path = tmp_path / "dagger.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "schema_version": 1}))
    assert DaggerRecord.open(tmp_path) == record, "nothing in it has changed its meaning"
    old = {key: value for key, value in written["settings"].items() if key != "style"} | {"noise_px": 3.0}
    path.write_text(json.dumps({**written, "schema_version": 1, "settings": old}))
    with pytest.raises(
        UserError, match=r"schema_version 1 is older than 2(.|\n)*--run .*/round_N(.|\n)*noise_px"
    ):
        DaggerRecord.open(tmp_path)
    for version, message in ((3, "3 is newer than 2; update dp_ros"), ("x", "got 'x', expected 1 to 2")):
        path.write_text(json.dumps({**written, "schema_version": version}))
        with pytest.raises(UserError, match=message):
            DaggerRecord.open(tmp_path)


def test_a_folder_that_holds_something_is_left_alone(first_run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already; give another --out"):
        dagger.begin(tmp_path, settings(first_run, data))
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_the_gain_is_that_of_the_same_start_states() -> None:
    before = {seed: 0.1 * (seed % 9) for seed in range(40)}
    mean, interval = paired_gain(before, {seed: score + 0.05 for seed, score in before.items()})
    assert mean == pytest.approx(0.05)
    assert interval == (pytest.approx(0.05), pytest.approx(0.05)), "the spread between seeds does not matter"
    assert paired_gain({1: 0.5}, {1: 0.7, 2: 0.0}) == (pytest.approx(0.2), None)


def test_without_a_simulation_there_is_no_gain(first_run: Path, data: Path) -> None:
    assert gains(DaggerRecord(settings=settings(first_run, data))) == []
