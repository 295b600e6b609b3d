"""An image run that begins with a state run: pictures of discs, labels that say where they are."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rich.console import Console  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from dp_ros.cli.main import main  # noqa: E402
from dp_ros.data.episode_writer import EpisodeWriter  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.manifest import load_manifest, write_manifest  # noqa: E402
from dp_ros.sim.pusht import keypoints_of  # noqa: E402
from dp_ros.sim.pusht_view import render  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from dp_ros.training import dagger, trainer  # noqa: E402
from dp_ros.training.config import TrainingConfig, load_config  # noqa: E402
from dp_ros.training.dagger_record import DaggerSettings  # noqa: E402
from dp_ros.training.metrics import read_metrics  # noqa: E402
from dp_ros.training.run_folder import open_run  # noqa: E402
from test.training.recordings import QUICK  # noqa: E402

SMALL = {**QUICK, "training.steps": 4, "training.eval_every": 4, "training.logger": "none"}
VISION = {"network.vision.channels": [8, 8], "network.vision.keypoints": 8}


def state_config(**changes: Any) -> TrainingConfig:
    return load_config(overrides={**SMALL, **changes})


def image_config(**changes: Any) -> TrainingConfig:
    recipe = "diffusion_unet_image_labelled"
    return load_config(recipe, {**SMALL, **VISION, "network.prefix_steps": 0, **changes})


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The T on its way round the middle, turning."""
    path = tmp_path_factory.mktemp("data") / "labelled.zarr"
    with EpisodeWriter(path, load_task("pusht_image_labelled")) as writer:
        for seed in range(5):
            start = np.random.default_rng(seed).uniform(0, 6)
            for k in range(20):
                angle = start + 0.2 * k
                agent = 256 + 150 * np.array([np.cos(angle), np.sin(angle)])
                block = (*(256 - 0.5 * (agent - 256)), angle)
                step = {"keypoint": keypoints_of(block).reshape(-1), "agent_pos": agent, "action": agent + 5}
                writer.add({**step, "image": render([*agent, *block], 96), "timestamp": k / 10})
            writer.save(seed)
    return path


def train(task: str, data: Path, run: Path, config: TrainingConfig, start_from: Path | None = None) -> Path:
    console = Console(file=io.StringIO())
    trainer.train(load_task(task), data, run, config, start_from=start_from, console=console)
    return run


@pytest.fixture(scope="module")
def state_run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same recordings: what a task does not observe is left out."""
    return train("pusht_state", labelled, tmp_path_factory.mktemp("runs") / "state", state_config())


@pytest.fixture(scope="module")
def encoder_run(labelled: Path, state_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Begins with the state run; its encoder learns."""
    folder = tmp_path_factory.mktemp("runs") / "encoder"
    return train("pusht_image", labelled, folder, image_config(), state_run)


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "best.safetensors")


def test_an_image_run_takes_over_network_and_normalisation_of_a_state_run(
    labelled: Path, state_run: Path, encoder_run: Path, tmp_path: Path
) -> None:
    run = encoder_run
    old, new = weights(state_run), weights(run)
    assert all(torch.equal(new[key], value) for key, value in old.items())
    assert any(key.startswith("average/vision.") for key in new)
    facts, theirs = (json.loads((each / "run.json").read_text()) for each in (run, state_run))
    assert facts["statistics"] == theirs["statistics"]
    assert facts["started_from"].startswith("state, 4 steps")
    assert read_metrics(run)[-1]["val_keypoint_error"] > 0
    both = train(
        "pusht_image", labelled, tmp_path / "all", image_config(**{"training.action_weight": 1.0}), run
    )
    assert not torch.equal(weights(both)["average/unet.film.weight"], new["average/unet.film.weight"])


@pytest.fixture(scope="module")
def state_model(state_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state run, exported."""
    folder = tmp_path_factory.mktemp("models") / "states"
    assert main(["export", str(state_run), str(folder)]) == 0
    return folder


def test_a_run_may_begin_with_a_model_as_with_the_run_it_was_exported_from(
    labelled: Path, state_run: Path, state_model: Path, tmp_path: Path
) -> None:
    of_run, of_model = (
        train("pusht_state", labelled, tmp_path / start.name, state_config(), start)
        for start in (state_run, state_model)
    )
    one, other = weights(of_run), weights(of_model)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(one["average/unet.film.weight"], weights(state_run)["average/unet.film.weight"])
    run, model = (json.loads((each / "run.json").read_text()) for each in (of_run, of_model))
    assert run["statistics"] == model["statistics"]
    (theirs,), (ours,) = run["ancestors"], model["ancestors"]
    assert ours["run"] == load_manifest(state_model).model_id
    assert {**ours, "run": "state"} == theirs


def test_an_image_run_takes_over_the_network_of_a_state_model(
    labelled: Path, state_run: Path, state_model: Path, tmp_path: Path
) -> None:
    new = weights(train("pusht_image", labelled, tmp_path / "run", image_config(), state_model))
    assert all(torch.equal(new[key], value) for key, value in weights(state_run).items())


def test_a_model_in_place_of_a_run_is_refused_with_how_to_begin_one(state_model: Path) -> None:
    with pytest.raises(
        UserError, match=f"it is a model, with which `dp-ros train --start-from {state_model}`"
    ):
        open_run(state_model)


def test_of_a_model_of_unknown_origin_only_its_name_is_known(
    labelled: Path, state_model: Path, tmp_path: Path
) -> None:
    theirs = shutil.copytree(state_model, tmp_path / "theirs")
    write_manifest(theirs, load_manifest(theirs).model_copy(update={"provenance": None, "name": "theirs"}))
    run = train("pusht_state", labelled, tmp_path / "run", state_config(), theirs)
    record = json.loads((run / "run.json").read_text())
    assert record["started_from"] == load_manifest(theirs).model_id and record["ancestors"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network.widths": [8, 8]}, "weights.safetensors: is not of this network"),
        ({"training.seed": 1}, "is neither a training run .no run.json. nor a model .no manifest.json."),
    ],
    ids=["another network", "neither"],
)
def test_what_a_run_cannot_begin_with_is_refused_before_anything_is_written(
    labelled: Path, state_model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    start = state_model if "network.widths" in changes else tmp_path
    with pytest.raises(UserError, match=message):
        train("pusht_state", labelled, tmp_path / "run", state_config(**changes), start)
    assert not (tmp_path / "run").exists()


def test_corrections_of_a_run_with_labels_are_refused(labelled: Path, encoder_run: Path) -> None:
    with pytest.raises(UserError, match="its encoder learns from recorded keypoint"):
        dagger.check(
            DaggerSettings(
                run=str(encoder_run),
                data=str(labelled),
                rounds=1,
                episodes=1,
                first_seed=500_000,
                earliest=1,
                latest=2,
                patience=1,
                eval_seeds="310000:310001",
                overrides={},
            )
        )


def test_the_encoder_learns_where_things_are(labelled: Path, tmp_path: Path) -> None:
    steps = {"training.steps": 160, "training.eval_every": 40, "training.learning_rate": 5e-3}
    lines = read_metrics(train("pusht_image", labelled, tmp_path / "run", image_config(**steps)))
    errors = [line["val_keypoint_error"] for line in lines if "val_keypoint_error" in line]
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network.widths": [8, 8]}, r"network.widths: \(8, 16\) there, \(8, 8\) here"),
        ({"sampler.prediction": "sample"}, "sampler.prediction: epsilon there, sample here"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_what_differs(
    labelled: Path, state_run: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train("pusht_image", labelled, tmp_path / "run", image_config(**changes), state_run)
    assert not (tmp_path / "run").exists()


def test_a_state_run_of_another_layout_is_refused_with_what_differs(
    labelled: Path, state_run: Path, tmp_path: Path
) -> None:
    record = json.loads((state_run / "run.json").read_text())
    streams = record["task"]["observations"]
    record["task"]["observations"] = {key: streams[key] for key in ("agent_pos", "keypoint")}
    record["task"]["rate_hz"] = 5.0
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError) as refused:
        train("pusht_image", labelled, tmp_path / "run", image_config(), other)
    assert "streams: ['agent_pos', 'keypoint'] there, ['keypoint', 'agent_pos'] here" in str(refused.value)
    assert "rate_hz: 5.0 there, 10.0 here" in str(refused.value)


def test_a_run_with_prefixes_needs_a_recipe_with_prefixes(
    labelled: Path, state_run: Path, tmp_path: Path
) -> None:
    record = json.loads((state_run / "run.json").read_text())
    record["config"]["network"]["prefix_steps"] = 7
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="network.prefix_steps: 7 there, 0 here"):
        train("pusht_image", labelled, tmp_path / "run", image_config(), other)


def test_labels_that_were_not_recorded_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    task = load_task("pusht_image")
    with EpisodeWriter(tmp_path / "x.zarr", task) as writer:
        for k in range(20):
            step = {"image": np.zeros((96, 96, 3), np.uint8), "agent_pos": [k, k], "action": [k, k]}
            writer.add({**step, "timestamp": k / 10})
        writer.save(0)
    with pytest.raises(UserError, match="has no data/keypoint, which network.vision.predicts names"):
        train("pusht_image", tmp_path / "x.zarr", tmp_path / "run", image_config())
    assert not (tmp_path / "run").exists()
