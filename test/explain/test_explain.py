"""The symmetric start is symmetric, sides are told apart, and the numbers are those of the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from dp_ros.cli.main import main  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.explain import figures  # noqa: E402
from dp_ros.explain.cost import Cost, measure_costs, task_of_size  # noqa: E402
from dp_ros.explain.denoising import denoising_of  # noqa: E402
from dp_ros.explain.futures import Futures, sample_futures, sample_switching  # noqa: E402
from dp_ros.explain.losses import CURVES, RunCurves, read_curves  # noqa: E402
from dp_ros.explain.models import Explained  # noqa: E402
from dp_ros.explain.symmetric_start import ALONG, lateral_px, mirrored, side, symmetric_start  # noqa: E402
from dp_ros.runtime.execution import InferenceRequest  # noqa: E402
from dp_ros.sim.pusht import GOAL_POSE, PushT  # noqa: E402
from dp_ros.sim.pusht_push_model import T_OUTLINE, to_world  # noqa: E402
from test.policies.small import small_policy  # noqa: E402
from test.training.recordings import quick_config, record_circles  # noqa: E402

HORIZON = 16


class Follower(Explained):
    """A policy that goes round on the side that the sign of `choose(request)` says, in an arc."""

    def __init__(self, choose) -> None:  # type: ignore[no-untyped-def]
        super().__init__("follower", small_policy(num_inference_steps=1))
        object.__setattr__(self, "choose", choose)

    @property
    def sample_requests(self):  # type: ignore[no-untyped-def]
        def answer(requests: Sequence[InferenceRequest]) -> np.ndarray:
            return np.stack([arc(self.choose(request), request.step) for request in requests])

        return answer


def arc(sign: float, step: int) -> np.ndarray:
    """A chunk (16, 2) from `step` on of a half circle round the T, on one side or, mirrored, on the other."""
    centre = np.array(GOAL_POSE[:2]) + 100.0 * ALONG
    angle = np.deg2rad(6.0) * (np.arange(HORIZON) + step)
    across = np.array([-ALONG[1], ALONG[0]])
    path = centre + 130.0 * (-np.cos(angle)[:, None] * ALONG + sign * np.sin(angle)[:, None] * across)
    return path.astype(np.float32)


def test_start_goal_and_agent_are_mirror_images_of_themselves() -> None:
    state = symmetric_start()
    outline = to_world(T_OUTLINE, state[2:])
    images = mirrored(outline)
    assert all(np.abs(outline - image).sum(axis=1).min() < 1e-9 for image in images)
    assert lateral_px(state[:2]) == pytest.approx(0.0)
    assert state[4] == GOAL_POSE[2]
    world = PushT()
    world.reset(state=state, legacy=False)
    assert world.state == pytest.approx(state, abs=1e-6), "nothing touches, so nothing moves"
    assert world.coverage() < 0.5


def test_a_path_and_its_mirror_image_go_opposite_ways() -> None:
    path = arc(1.0, 0)
    assert (side(path), side(mirrored(path))) == ("above", "below")
    assert side(np.linspace([0.0, 512.0], [512.0, 0.0], 9)) == "neither"


def test_both_ways_round_are_counted_and_their_mean_goes_neither() -> None:
    model = Follower(lambda request: 1.0 if request.seed % 2 else -1.0)
    found = sample_futures(model, 6, 20)
    assert found.counts == {"above": 3, "below": 3, "neither": 0}
    numbers = found.as_json()
    assert numbers["mean_path_goes"] == "neither"
    assert np.shape(numbers["paths_px"]) == (6, 21, 2)
    assert np.shape(numbers["chunks_px"]) == (6, HORIZON, 2)
    again = sample_futures(model, 6, 20)
    assert np.array_equal(again.paths, found.paths)


def test_a_policy_that_knows_its_mind_does_not_switch() -> None:
    found = sample_switching(Follower(lambda request: 1.0), 2, 12)
    assert found.switches.tolist() == [0, 0]
    assert found.inconsistency_px == pytest.approx(0.0, abs=1e-3)


def test_every_change_of_mind_is_counted_until_it_has_gone_round() -> None:
    found = sample_switching(Follower(lambda request: 1.0 if request.step % 2 else -1.0), 2, 6)
    assert found.undecided.all(), "going to and fro it gets nowhere"
    assert found.switches.tolist() == [5, 5]
    assert found.inconsistency_px.min() > 50.0
    decided = sample_switching(Follower(lambda request: 1.0 if request.step < 12 else -1.0), 1, 16)
    assert not decided.undecided[0, 12]
    assert decided.switches.tolist() == [0], "what it plans after it has gone round is another matter"


def test_costs_are_measured_at_every_size() -> None:
    model = Explained("small", small_policy(num_inference_steps=1))
    costs = measure_costs(model, repeats=1)
    sizes = {(cost.action_dim, cost.horizon) for cost in costs}
    assert sizes == {(2, 16), (7, 16), (14, 16), (28, 16), (2, 32), (2, 64)}
    assert all((cost.parameters or 0) > 0 and (cost.sample_ms or 0) > 0 for cost in costs)
    by_dim = [cost.parameters for cost in costs if cost.horizon == 16]
    assert by_dim == sorted(by_dim)
    assert by_dim[0] == sum(p.numel() for p in model.policy.parameters())


def test_a_task_of_another_size_differs_in_that_alone() -> None:
    task = small_policy().task
    other = task_of_size(task, 7, 32)
    assert (other.action.dim, other.horizon, other.n_action_steps) == (7, 32, 8)
    assert other.observations == task.observations


def test_denoising_begins_with_noise_and_ends_with_the_chunk() -> None:
    policy = small_policy(num_inference_steps=3)
    found = denoising_of(Explained("small", policy), 2)
    assert found is not None
    assert found.shape == (4, 2, HORIZON, 2)
    first = sample_futures(Explained("small", policy), 2, 1).chunks
    assert found[-1] == pytest.approx(first, abs=1e-2)


def test_pictures_are_drawn_for_any_number_of_policies(tmp_path: Path) -> None:
    path = np.stack([arc(1.0, 0), arc(-1.0, 0)])
    few = {f"policy {i}": Futures(path, path, ["above", "below"]) for i in range(5)}
    figures.draw_futures(few, tmp_path / "futures.png")
    costs = [Cost(2, 16, 10, 1.0), Cost(7, 16, None, None, "no"), Cost(2, 32, 12, 1.5)]
    figures.draw_costs({"one": costs}, {"one": (2, 16)}, tmp_path / "cost.png")
    points = {name: [(0, 1.0), (5, 0.5)] for name in CURVES}
    runs = [RunCurves("a", "unet", 0, points), RunCurves("b", "ibc", 1, {name: [] for name in CURVES})]
    figures.draw_losses(runs, tmp_path / "losses.png")
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "{tmp}/none", "--out", "{tmp}/o"], "none: is not a training run"),
        (
            ["--models", "{tmp}/none", "--out", "{tmp}/o", "--futures", "1"],
            "--futures: got 1, expected at least 2",
        ),
        (
            ["--models", "{tmp}/none", "--out", "{tmp}/o", "--steps", "2"],
            "--steps: got 2, expected at least 3",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *(part.format(tmp=tmp_path) for part in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("pieces_exported_once")
def test_the_command_writes_pictures_and_their_numbers(tmp_path: Path) -> None:
    from rich.console import Console

    from dp_ros.inference.export import export_policy
    from dp_ros.task import load_task
    from dp_ros.training.trainer import train

    data, runs = record_circles(tmp_path / "circles.zarr"), [tmp_path / "seed_3", tmp_path / "seed_4"]
    for seed, run in zip((3, 4), runs, strict=True):
        config = quick_config(seed=seed, steps=4, eval_every=2)
        train(load_task("pusht_state"), data, run, config, console=Console(quiet=True))

    export_policy(small_policy(num_inference_steps=1), tmp_path / "small")
    out = tmp_path / "out"
    arguments = ["--models", str(tmp_path / "small"), "--out", str(out), "--futures", "2", "--steps", "3"]
    arguments += ["--runs", *map(str, runs)]
    assert main(["explain", *arguments]) == 0
    assert {path.name for path in out.iterdir()} >= {
        "futures.png",
        "switching.png",
        "cost.png",
        "denoising.png",
        "losses.png",
        "explain.json",
    }
    numbers = json.loads((out / "explain.json").read_text())
    assert sum(numbers["models"]["small"]["futures"]["sides"].values()) == 2
    assert numbers["start_state"] == pytest.approx(symmetric_start().tolist())
    shape = np.array(numbers["models"]["small"]["denoising_px"]).shape
    assert shape == (2, 12, HORIZON, 2), "noise and what one step made of it, draws, steps, dimensions"
    assert [(run["run"], run["kind"], run["seed"]) for run in numbers["runs"]] == [
        (f"seed_{seed}", "unet1d_state", seed) for seed in (3, 4)
    ]
    assert [step for step, _ in numbers["runs"][0]["val_loss"]] == [2, 4]
    assert numbers["runs"][0]["val_loss"] != numbers["runs"][1]["val_loss"]


def test_what_is_no_run_has_no_curves(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a training run"):
        read_curves([tmp_path])
