"""Training speed: what is compared is the same training; the figures reach the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dp_ros.benchmark import train  # noqa: E402
from dp_ros.cli.main import main  # noqa: E402
from dp_ros.data.episode_writer import EpisodeWriter  # noqa: E402
from dp_ros.data.windows import cut_windows  # noqa: E402
from dp_ros.policies.build import build_policy  # noqa: E402
from dp_ros.policies.normalizer import min_max  # noqa: E402
from dp_ros.policies.policy import Policy  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from dp_ros.training.batches import Part  # noqa: E402
from test.data.recorded import random_episode, small_task  # noqa: E402
from test.training.recordings import quick_config  # noqa: E402

TASK = load_task("pusht_state")


def test_the_straightforward_step_learns_the_same_as_ours() -> None:
    """Same batch, same noise: the same weights after three steps, to rounding."""
    torch.set_num_threads(1)
    data, config = train.made_up_demonstrations(TASK, 1, 16), quick_config(batch_size=16)
    windows = cut_windows(data, TASK, [0])
    ranges = {key: min_max(windows.values(key)) for key in data.arrays}

    def policy() -> Policy:
        torch.manual_seed(0)
        return build_policy(TASK, ranges, config.network, config.sampler)

    ours, plain = policy(), policy()
    batches = train._one_by_one(windows, 16)

    def fetch(step: int) -> list:
        return [(Part(torch.arange(16), 0, 16), *next(batches))]

    for make in (
        lambda: train._ours(ours, config.training, fetch),
        lambda: train._straightforward(plain, config.training, windows),
    ):
        torch.manual_seed(1)  # which the DataLoader shuffles by
        batches = train._one_by_one(windows, 16)
        take = make()
        for step in range(3):
            take(step)
    # All together: Adam turns the smallest gradients, which are rounding, into steps as large as others.
    mine, theirs, start = (
        torch.cat([p.detach().flatten() for p in each.parameters()]) for each in (ours, plain, policy())
    )
    assert (mine - theirs).norm() < 0.02 * (theirs - start).norm()


def test_made_up_episodes_have_the_shape_of_the_task() -> None:
    data = train.made_up_demonstrations(small_task(), 2, 5)
    assert data.arrays["camera"].shape == (10, 96, 101, 3) and data.arrays["camera"].dtype == np.uint8
    assert data.arrays["pose"].shape == (10, 3) and data.n_episodes == 2


def test_the_figures_are_printed_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "train.json"
    given = ["--seconds", "0.1", "--widths", "8,16", "--batch", "4", "--threads", "1", "--json", str(out)]
    assert main(["bench", "train", *given]) == 0
    assert "with data in memory" in capsys.readouterr().out
    found = json.loads(out.read_text())
    wanted = ("samples_per_s", "straightforward_samples_per_s", "in_memory_samples_per_s", "loader_ratio")
    assert all(found[key] > 0 for key in (*wanted, "speedup"))
    assert (found["widths"], found["batch"], found["threads"]) == ([8, 16], 4, 1)


def test_an_encoder_that_learns_from_labels_is_measured_too(tmp_path: Path) -> None:
    out = tmp_path / "train.json"
    given = ["--task", "pusht_image", "--config", "diffusion_unet_image_labelled", "--seconds", "0.1"]
    assert main(["bench", "train", *given, "--widths", "8,16", "--batch", "2", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["samples_per_s"] > 0


def test_pictures_can_be_read_from_the_mapped_file(tmp_path: Path) -> None:
    task, out = load_task("pusht_image"), tmp_path / "train.json"
    with EpisodeWriter(tmp_path / "x.zarr", task) as writer:
        for step in random_episode(task, 20, 0):
            writer.add(step)
        writer.save()
    given = ["--task", "pusht_image", "--config", "diffusion_unet_image", "--data", str(tmp_path / "x.zarr")]
    given += ["--seconds", "0.1", "--widths", "8,16", "--batch", "2", "--json", str(out)]
    for memory, mapped in (["--image-memory", "0"], ["image"]), ([], []):
        assert main(["bench", "train", *given, *memory]) == 0
        found = json.loads(out.read_text())
        assert found["mapped"] == mapped
        assert found["loader_ratio"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--widths", "8,x"], "--widths"),
        (["--seconds", "0"], "--seconds"),
        (["--batch", "0"], "batch_size"),
        (["--image-memory", "0"], "--image-memory: got 0; expected 0 or more, with --data"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", *arguments]) == 2
    assert said in capsys.readouterr().err
