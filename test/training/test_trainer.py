from __future__ import annotations

import argparse
import io
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rich.console import Console  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

from dp_ros.cli import export  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from dp_ros.training import trainer  # noqa: E402
from dp_ros.training.batches import Batches, Part  # noqa: E402
from dp_ros.training.checkpoint import Progress, kept_checkpoints, load_weights  # noqa: E402
from dp_ros.training.config import OptimizationSpec, TrainingConfig, with_overrides  # noqa: E402
from dp_ros.training.metrics import read_metrics  # noqa: E402
from dp_ros.training.run_folder import open_run  # noqa: E402
from dp_ros.training.trainer import learning_rate  # noqa: E402
from test.training.recordings import QUICK, quick_config, record_circles  # noqa: E402

TASK = load_task("pusht_state")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_circles(tmp_path_factory.mktemp("data") / "circles.zarr")


def train(
    data: Path, run: Path, config: TrainingConfig | None = None, **options: Any
) -> tuple[Progress, str]:
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    progress = trainer.train(TASK, data, run, config or quick_config(), console=console, **options)
    return progress, shown.getvalue()


def tensors(path: Path) -> dict[str, Any]:
    return load_file(path)


def same(first: Path, second: Path) -> bool:
    one, other = tensors(first), tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def scalars(run: Path, name: str) -> list[tuple[int, float]]:
    """The value of each step; the one written last where a resumed run came by a step again."""
    events = EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=False)
    events.Reload()
    found = sorted(events.Scalars(name), key=lambda event: (event.step, event.wall_time))
    return list({event.step: event.value for event in found}.items())


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let training die, as by SIGKILL, in the middle of `step`; returns how to undo that."""
    loss = DiffusionPolicy.loss
    calls = 0

    def dying_loss(self: DiffusionPolicy, *args: Any) -> Any:
        nonlocal calls
        if self.training:
            calls += 1
            if calls == step:
                raise MemoryError("killed")
        return loss(self, *args)

    monkeypatch.setattr(DiffusionPolicy, "loss", dying_loss)
    return lambda: monkeypatch.setattr(DiffusionPolicy, "loss", loss)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(data, run)
    return run


@pytest.mark.parametrize("step", [3, 11, 16, 31, 40])
def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(
    step: int, data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revive = killed_at(step, monkeypatch)
    with pytest.raises(MemoryError):
        train(data, tmp_path / "run")
    revive()
    torch.randn(7)  # what the process drew before must not matter
    progress, _ = train(data, tmp_path / "run", resume=True)
    assert progress.step == 40
    assert same(tmp_path / "run" / "last.safetensors", uninterrupted / "last.safetensors")
    assert same(tmp_path / "run" / "best.safetensors", uninterrupted / "best.safetensors")
    assert scalars(tmp_path / "run", "val_loss") == scalars(uninterrupted, "val_loss")


#: `dp-ros train`, which gets a real SIGKILL in the middle of its 24th step.
KILLED = """
import os, signal, sys
from dp_ros.cli.main import main
from dp_ros.policies.diffusion import DiffusionPolicy

loss, calls = DiffusionPolicy.loss, []

def last_loss(self, *args):
    calls.append(self.training)
    if sum(calls) == 24:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(self, *args)

DiffusionPolicy.loss = last_loss
sys.exit(main(["train", *sys.argv[1:]]))
"""


def test_a_process_that_gets_sigkill_goes_on_where_it_was(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run, values = tmp_path / "run", [f"{key}={json.dumps(value)}" for key, value in QUICK.items()]
    given = ["--task", "pusht_state", "--data", str(data), "--out", str(run), *values]
    killed = subprocess.run([sys.executable, "-c", KILLED, *given], stdout=subprocess.DEVNULL, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not same(run / "last.safetensors", uninterrupted / "last.safetensors")
    progress, _ = train(data, run, resume=True)
    assert progress.step == 40
    assert same(run / "last.safetensors", uninterrupted / "last.safetensors")
    assert same(run / "best.safetensors", uninterrupted / "best.safetensors")


def test_another_seed_trains_another_policy(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", quick_config(seed=1))
    assert not same(tmp_path / "run" / "last.safetensors", uninterrupted / "last.safetensors")


def test_evaluating_more_often_does_not_change_what_is_learnt(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    train(data, tmp_path / "run", quick_config(eval_every=2))
    assert same(tmp_path / "run" / "last.safetensors", uninterrupted / "last.safetensors")


def test_training_lowers_the_loss_on_episodes_that_were_held_out(data: Path, tmp_path: Path) -> None:
    _, shown = train(data, tmp_path / "run", quick_config(steps=200, learning_rate=1e-2, eval_every=20))
    losses = [value for _, value in scalars(tmp_path / "run", "val_loss")]
    assert losses[-1] < 0.7 * losses[0]
    assert "step 200: val_loss" in shown


def test_what_is_logged_can_be_seen_in_tensorboard(uninterrupted: Path) -> None:
    assert [step for step, _ in scalars(uninterrupted, "val_loss")] == [15, 30, 40]
    assert [step for step, _ in scalars(uninterrupted, "train_loss")] == [40]
    assert scalars(uninterrupted, "lr")[-1][1] < 1e-5


def test_the_run_folder_says_what_was_trained_on_what(uninterrupted: Path) -> None:
    record = json.loads((uninterrupted / "run.json").read_text())
    assert record["task"]["name"] == "pusht_state"
    assert record["n_episodes"] == 6
    assert record["n_steps"] == 150
    assert record["config"]["training"]["steps"] == 40
    assert record["statistics"]["action"]["min"][0] >= 106 - 1e-3
    assert record["versions"]["torch"]


def test_nothing_in_a_run_is_a_pickle(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()}
    assert names == {
        "run.json",
        "config.yaml",
        "last.safetensors",
        "best.safetensors",
        "checkpoints",
        "metrics.jsonl",
        "train.log",
        "tensorboard",
    }


def test_a_finished_run_is_left_alone_by_resuming(data: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "best.safetensors").read_bytes()
    progress, _ = train(data, uninterrupted, resume=True)
    assert progress.step == 40
    assert (uninterrupted / "best.safetensors").read_bytes() == before


def test_a_run_that_is_there_is_not_overwritten(data: Path, uninterrupted: Path) -> None:
    with pytest.raises(UserError, match="there is a run already; give another --out, or --resume"):
        train(data, uninterrupted)


def test_a_folder_that_is_no_run_is_not_written_to(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is there and is not a run"):
        train(data, tmp_path)


def test_a_run_that_is_not_there_cannot_be_resumed(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a training run \(no run.json\)"):
        train(data, tmp_path / "run", resume=True)


def test_a_run_is_resumed_as_it_was_started(data: Path, uninterrupted: Path) -> None:
    with pytest.raises(UserError, match=r"was started with training.steps 40 \(given 50\)"):
        train(data, uninterrupted, quick_config(steps=50), resume=True)


def test_a_run_is_resumed_on_the_data_it_was_started_on(uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was started on other data"):
        train(record_circles(tmp_path / "more.zarr", 7), uninterrupted, resume=True)


def test_a_damaged_checkpoint_is_named(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text((uninterrupted / "run.json").read_text())
    (run / "last.safetensors").write_bytes((uninterrupted / "last.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"last.safetensors: is not a checkpoint or is damaged"):
        train(data, run, resume=True)


def test_a_checkpoint_of_another_network_is_named(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    from test.policies.small import small_policy

    policy = small_policy()
    policy.unet.film = torch.nn.Linear(3, 3)
    with pytest.raises(UserError, match=r"best.safetensors: is not a checkpoint of this network"):
        load_weights(uninterrupted / "best.safetensors", policy)


def test_a_loss_that_is_not_finite_stops_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = DiffusionPolicy.loss
    monkeypatch.setattr(DiffusionPolicy, "loss", lambda self, *args: loss(self, *args) * math.nan)
    with pytest.raises(UserError, match="step 0: the loss is nan.*Start again with a lower --lr"):
        train(data, tmp_path / "run")


def test_bad_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.zarr"):
        train(tmp_path / "nowhere.zarr", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_is_refused_before_a_folder_is_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="training.logger: wandb needs wandb, which is not installed"):
        train(data, tmp_path / "run", quick_config(logger="wandb"))
    assert not (tmp_path / "run").exists(), "the corrected command finds nothing in its way"


def test_a_task_with_images_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="observation image is an image"):
        trainer.train(load_task("pusht_image"), data, tmp_path / "run", quick_config())


def test_more_samples_a_step_than_there_are_is_no_problem(data: Path, tmp_path: Path) -> None:
    progress, _ = train(data, tmp_path / "run", quick_config(batch_size=4096, steps=2))
    assert progress.step == 2


def test_the_best_policy_is_the_one_that_scores_best_in_simulation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp_ros.sim.pusht_rollout import EpisodeResult

    scores = iter([0.2, 0.6, 0.6, 0.4])
    seeds: list[list[int]] = []

    def episodes(task: Any, sample: Any, given: Any, **options: Any) -> list[EpisodeResult]:
        seeds.append(list(given))
        score = next(scores)
        return [EpisodeResult(s, 0, score, False, score, 300) for s in given]

    monkeypatch.setattr(trainer, "run_batched", episodes)
    config = quick_config(eval_every=10, eval_episodes=3, eval_first_seed=777, eval_train_episodes=0)
    progress, shown = train(data, tmp_path / "run", config)
    assert progress.best_merit == 0.6
    assert progress.best_step == 30, "the later of equals"
    assert seeds == [[777, 778, 779]] * 4
    assert "step 40: val_loss" in shown
    assert shown.count("(best so far)") == 3


def test_an_evaluation_runs_the_policy_in_the_simulated_robot(data: Path, tmp_path: Path) -> None:
    config = quick_config(steps=1, eval_episodes=1, eval_first_seed=12)
    train(data, tmp_path / "run", config)
    ((step, score),) = scalars(tmp_path / "run", "test/mean_score")
    assert step == 1
    assert 0 <= score <= 1


def test_the_learning_rate_rises_falls_and_ends_at_zero() -> None:
    spec = quick_config(steps=100, warmup_steps=10, learning_rate=1e-3).training
    rates = [learning_rate(spec, step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[10] == max(rates) == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(5e-4)
    assert rates[99] < 1e-6
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(quick_config(steps=5, warmup_steps=0).training, 0) > 0


def test_an_epoch_shows_every_window_once() -> None:
    spec = quick_config(batch_size=4).training
    batches = Batches(12, spec)
    first = torch.cat([batches.at(step) for step in range(3)])
    second = torch.cat([batches.at(step) for step in range(3, 6)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()
    assert torch.equal(Batches(12, spec).at(4), batches.at(4)), "wherever one starts from"


def known_actions(spec: OptimizationSpec, step: int, prefix_steps: int, first: int = 0, n: int = 64) -> Any:
    config = with_overrides(quick_config(), {"network.prefix_steps": prefix_steps})
    return trainer._known_actions(spec, step, Part(torch.arange(n), first, 64), TASK, config)


def test_a_part_of_a_batch_has_the_prefixes_that_it_has_in_the_whole() -> None:
    spec = quick_config().training
    parts = [known_actions(spec, 3, 7, first, 16) for first in range(0, 64, 16)]
    assert torch.equal(torch.cat(parts), known_actions(spec, 3, 7))


def test_a_share_of_the_samples_has_a_prefix_of_one_to_the_longest_number_of_executed_actions() -> None:
    spec = quick_config(prefix_share=0.5).training
    known = torch.cat([known_actions(spec, step, 7) for step in range(50)])
    lengths = known.sum(dim=1)
    assert torch.equal(known, torch.arange(16) < lengths[:, None]), "a prefix is the first rows"
    assert set(lengths.tolist()) == {0, *range(2, 9)}, "row 0 belongs to the older observation"
    assert 0.45 < (lengths == 0).float().mean() < 0.55
    counts = torch.bincount(lengths)[2:]
    assert counts.min() > 0.7 * counts.max()
    assert torch.equal(known[:64], known_actions(spec, 0, 7))
    assert known_actions(spec, 0, 0) is None
    assert not known_actions(quick_config(prefix_share=0).training, 0, 7).any()


def test_a_policy_is_trained_with_prefixes_and_resumed_to_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(**training: Any) -> TrainingConfig:
        quick = quick_config(steps=12, checkpoint_every=5, eval_every=5, **training)
        return with_overrides(quick, {"network.prefix_steps": 7})

    train(data, tmp_path / "whole", config())
    revive = killed_at(7, monkeypatch)
    with pytest.raises(MemoryError):
        train(data, tmp_path / "cut", config())
    revive()
    train(data, tmp_path / "cut", config(), resume=True)
    assert same(tmp_path / "cut" / "last.safetensors", tmp_path / "whole" / "last.safetensors")
    train(data, tmp_path / "other", config(prefix_noise=0.2))
    assert not same(tmp_path / "other" / "last.safetensors", tmp_path / "whole" / "last.safetensors")


def test_a_run_can_begin_with_the_weights_of_another(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Also one with prefixes from one without: at first they draw the same."""
    config = with_overrides(quick_config(steps=1, warmup_steps=1000), {"network.prefix_steps": 7})
    train(data, tmp_path / "run", config, start_from=uninterrupted)
    old, new = tensors(uninterrupted / "best.safetensors"), tensors(tmp_path / "run" / "best.safetensors")
    first = "average/unet.down.0.first.first.0.weight"
    assert new[first].shape[1] == old[first].shape[1] + 1
    for key, value in old.items():
        kept = new[key][:, :2] if new[key].shape != value.shape else new[key]
        torch.testing.assert_close(kept, value, rtol=0, atol=1e-4)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["started_from"].startswith("whole, 40 steps, 640 samples, data ")
    first_record = json.loads((uninterrupted / "run.json").read_text())
    assert first_record["started_from"] is None and first_record["ancestors"] == []
    assert record["episode_seeds"] == [0, 5]

    train(data, tmp_path / "third", config, start_from=tmp_path / "run")
    asked = dict.fromkeys(("checkpoint", "sampler", "num_inference_steps", "temperature", "warm_start"))
    _, known = export._from_run(argparse.Namespace(source=tmp_path / "third", **asked))
    chain = known["provenance"].ancestors
    assert [(run.run, run.steps, run.samples, run.seed) for run in chain] == [
        ("whole", 40, 640, 0),
        ("run", 1, 16, 0),
    ]
    assert {run.data_digest for run in chain} == {record["data_digest"]}
    times_s = [run.wall_time_s for run in chain]
    assert min(times_s) > 0.0
    assert known["provenance"].total_wall_time_s == pytest.approx(
        sum(times_s) + known["provenance"].wall_time_s, abs=0.11
    )


def test_a_run_cannot_begin_with_weights_that_mean_other_actions(uninterrupted: Path, tmp_path: Path) -> None:
    other = record_circles(tmp_path / "other.zarr", shift_px=100)
    with pytest.raises(UserError, match=r"whole: was trained on data of another range: .*\[0\] went from"):
        train(other, tmp_path / "run", start_from=uninterrupted)


def test_a_run_cannot_begin_with_weights_for_another_task(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "other"
    run.mkdir()
    record = json.loads((uninterrupted / "run.json").read_text())
    record["task"]["name"], record["task"]["rate_hz"] = "push_slowly", 5.0
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError, match="was trained for task push_slowly, which differs from task pusht_state"
    ):
        train(data, tmp_path / "run", start_from=run)
    assert not (tmp_path / "run").exists()


def test_data_a_little_beyond_the_range_of_the_weights_keep_the_meaning_of_the_weights(
    uninterrupted: Path, tmp_path: Path
) -> None:
    """As episodes that are added to a recording do; the normalisation is that of the weights, also when resumed."""
    wider = record_circles(tmp_path / "wider.zarr", shift_px=5)
    train(wider, tmp_path / "run", quick_config(steps=1, warmup_steps=1000), start_from=uninterrupted)
    old = json.loads((uninterrupted / "run.json").read_text())
    new = json.loads((tmp_path / "run" / "run.json").read_text())
    assert new["statistics"] == old["statistics"]
    train(wider, tmp_path / "run", quick_config(steps=1, warmup_steps=1000), resume=True)


def test_a_batch_in_parts_teaches_what_the_whole_batch_does(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    train(data, tmp_path / "run", quick_config(batch_size=8, accumulate=2))
    ours, theirs = scalars(tmp_path / "run", "train_loss"), scalars(uninterrupted, "train_loss")
    assert ours[0][1] == pytest.approx(theirs[0][1], rel=1e-5)
    ours, theirs = scalars(tmp_path / "run", "val_loss"), scalars(uninterrupted, "val_loss")
    assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], rel=1e-4)
    record = open_run(tmp_path / "run")
    assert record.samples_per_step == open_run(uninterrupted).samples_per_step == 16


def test_a_run_in_parts_that_was_killed_between_them_resumes_to_the_same_bits(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick_config(steps=12, checkpoint_every=5, eval_every=5, batch_size=6, accumulate=3)
    train(data, tmp_path / "whole", config)
    revive = killed_at(3 * 7 + 2, monkeypatch)
    with pytest.raises(MemoryError):
        train(data, tmp_path / "cut", config)
    revive()
    train(data, tmp_path / "cut", config, resume=True)
    assert same(tmp_path / "cut" / "last.safetensors", tmp_path / "whole" / "last.safetensors")
    assert read_metrics(tmp_path / "cut") == read_metrics(tmp_path / "whole")
    assert names_in(tmp_path / "cut" / "checkpoints") == names_in(tmp_path / "whole" / "checkpoints")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_best_few_are_kept_with_step_and_score_in_the_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.5, 0.4])
    monkeypatch.setattr(trainer, "score_metrics", lambda evaluation, group: {"test/mean_score": next(scores)})
    monkeypatch.setattr(trainer, "run_batched", lambda task, sample, seeds, **_: [episode(s) for s in seeds])
    config = quick_config(eval_every=10, eval_episodes=1, eval_train_episodes=0, keep_best=2)
    train(data, tmp_path / "run", config)
    assert names_in(tmp_path / "run" / "checkpoints") == [
        "step_0000020_score_0.6000.safetensors",
        "step_0000030_score_0.5000.safetensors",
    ]
    assert same(kept_checkpoints(tmp_path / "run")[0], tmp_path / "run" / "best.safetensors")


def episode(seed: int) -> Any:
    from dp_ros.sim.pusht_rollout import EpisodeResult

    return EpisodeResult(seed, 0, 0.5, False, 0.5, 300)


def test_no_checkpoints_are_kept_beside_where_none_are_wanted(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", quick_config(steps=2, keep_best=0))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_bfloat16_computes_the_same_loss_but_for_rounding(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    train(data, tmp_path / "run", quick_config(precision="bfloat16"))
    ((_, ours),), ((_, theirs),) = (
        scalars(tmp_path / "run", "train_loss"),
        scalars(uninterrupted, "train_loss"),
    )
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)
    weights = tensors(tmp_path / "run" / "last.safetensors")
    assert {value.dtype for key, value in weights.items() if key.startswith("policy/")} == {torch.float32}


def test_a_checkpoint_of_another_task_is_named(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = json.loads((uninterrupted / "run.json").read_text())
    record["task"]["rate_hz"] = 5.0
    (run / "run.json").write_text(json.dumps(record))
    (run / "best.safetensors").write_bytes((uninterrupted / "best.safetensors").read_bytes())
    opened = open_run(run)
    config = opened.config
    policy = DiffusionPolicy(opened.task_spec(run), opened.statistics, config.network, config.sampler)
    with pytest.raises(UserError, match=r"best.safetensors: is a checkpoint for another task \(pusht_state"):
        load_weights(run / "best.safetensors", policy)


def test_a_run_of_an_older_version_is_opened_and_resumed(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Its record has none of the values that came later, its checkpoints do not say their task."""
    run = tmp_path / "old"
    train(data, run, quick_config(keep_best=0, eval_train_episodes=0))
    record = json.loads((run / "run.json").read_text())
    for name in ("eval_train_episodes", "accumulate", "device", "precision", "keep_best", "logger"):
        del record["config"]["training"][name]
    del record["processes"]
    (run / "run.json").write_text(json.dumps(record))
    for name in ("metrics.jsonl", "config.yaml", "train.log"):
        (run / name).unlink()
    with safe_open(run / "last.safetensors", framework="pt") as file:
        metadata = {"progress": file.metadata()["progress"]}
    save_file(tensors(run / "last.safetensors"), run / "last.safetensors", metadata)
    opened = open_run(run)
    progress, _ = train(data, run, opened.config, resume=True)
    assert progress.step == 40
    assert opened.samples_per_step == 16


def test_a_run_may_go_on_on_another_device_and_with_another_logger(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", quick_config(steps=2))
    train(data, tmp_path / "run", quick_config(steps=2, logger="none"), resume=True)
    record = open_run(tmp_path / "run")
    changed = with_overrides(record.config, {"training.device": "cuda"})
    record.require_same(record.model_copy(update={"config": changed}), tmp_path / "run")
    with pytest.raises(UserError, match=r"was started with processes 1 \(given 2\)"):
        record.require_same(record.model_copy(update={"processes": 2}), tmp_path / "run")


def test_what_was_printed_is_in_the_log(uninterrupted: Path) -> None:
    (line,) = [line for line in (uninterrupted / "train.log").read_text().splitlines() if "step 40" in line]
    assert "val_loss" in line
