"""Two processes that train together, started as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from dp_ros.cli.main import main  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.training.metrics import read_metrics  # noqa: E402
from dp_ros.training.run_folder import open_run  # noqa: E402
from dp_ros.training.workers import Workers, join_workers  # noqa: E402
from test.training.recordings import record_circles  # noqa: E402

ROOT = Path(__file__).parents[2]
SMALL = "network.widths=[8,16] network.step_dim=16 training.eval_episodes=0 training.steps=30 training.logger=none"


def train_arguments(run: Path, data: Path, batch_size: int) -> list[str]:
    where = ["--task", "pusht_state", "--data", str(data), "--out", str(run)]
    return ["train", *where, *SMALL.split(), f"training.batch_size={batch_size}"]


def train_in_two_processes(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "-m", "dp_ros.cli.main", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=140)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.timeout(300)
def test_two_processes_train_as_one_does_on_twice_the_batch(tmp_path: Path) -> None:
    data = record_circles(tmp_path / "circles.zarr")
    two, one = tmp_path / "two", tmp_path / "one"
    train_in_two_processes(train_arguments(two, data, 8))
    assert main(train_arguments(one, data, 16)) == 0
    assert open_run(two).samples_per_step == open_run(one).samples_per_step == 16
    first, second = read_metrics(two), read_metrics(one)
    assert [line["step"] for line in first] == [line["step"] for line in second]
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours.get("train_loss", 0) == pytest.approx(theirs.get("train_loss", 0), rel=1e-4)
        assert ours.get("val_loss", 0) == pytest.approx(theirs.get("val_loss", 0), rel=1e-3)


def test_one_process_alone_needs_no_others() -> None:
    with join_workers("cpu") as workers:
        assert (workers.rank, workers.count, workers.is_main) == (0, 1, True)
        assert workers.device == torch.device("cpu")
        assert workers.any(True)
        assert not workers.any(False)
        assert workers.on_main(lambda: 3) == 3
        gradient = torch.ones(2)
        workers.average([gradient])
        assert gradient.tolist() == [1, 1]
        assert str(workers) == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(UserError, match="training.device=cuda:0: this PyTorch .* finds no CUDA device here"),
        join_workers("cuda:0"),
    ):
        pass


def test_a_gpu_beyond_those_that_are_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="there are 2 CUDA devices, cuda:0 to cuda:1"), join_workers("cuda:2"):
        pass


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU here")
def test_an_apple_gpu_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(UserError, match="training.device=mps: PyTorch finds no Apple GPU"),
        join_workers("mps"),
    ):
        pass


def test_several_processes_cannot_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(UserError, match="training.device=cuda:1: several processes cannot share it"),
        join_workers("cuda:1"),
    ):
        pass


def test_what_main_refuses_is_refused_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the second of two processes, which gets main's outcome."""

    def broadcast(outcome: list[object], src: int) -> None:
        outcome[:] = [None, "runs/x: there is a run already"]

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    second = Workers(torch.device("cpu"), rank=1, count=2)
    with pytest.raises(UserError, match="there is a run already"):
        second.on_main(lambda: pytest.fail("only main does it"))
