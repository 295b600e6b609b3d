"""A policy with each way of conditioning from training to evaluation, as a person makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from dp_ros.cli.main import main  # noqa: E402
from dp_ros.inference.manifest import load_manifest  # noqa: E402
from test.training.recordings import record_circles  # noqa: E402

SMALL = ["--widths", "8,16", "--batch-size", "16", "--eval-episodes", "0"]


@pytest.mark.parametrize("conditioning", ["local", "inpainting"])
def test_it_is_trained_resumed_exported_and_evaluated(
    conditioning: str, tmp_path: Path, pieces_exported_once: None
) -> None:
    data = record_circles(tmp_path / "circles.zarr")
    chosen = f"network.conditioning={conditioning}"
    start = ["train", "--task", "pusht_state", "--data", str(data), *SMALL, "--steps", "6", chosen]
    assert main([*start, "--out", str(tmp_path / "run"), "training.eval_every=3"]) == 0
    assert main(["train", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "m"), "--num-inference-steps", "2"]) == 0
    assert load_manifest(tmp_path / "m").network.conditioning == conditioning  # type: ignore[union-attr]
    assert main(["eval", "--model", str(tmp_path / "m"), "--seeds", "0:1", "--processes", "1"]) == 0


def test_pictures_are_inpainted_too(tmp_path: Path, pieces_exported_once: None) -> None:
    data, run, model = (str(tmp_path / name) for name in ("x.zarr", "run", "m"))
    assert main(["collect", "--fast", "--task", "pusht_image", "--episodes", "3", "--out", data]) == 0
    start = ["train", "--config", "diffusion_unet_image", "--task", "pusht_image", "--data", data, *SMALL]
    chosen = [
        "network.conditioning=inpainting",
        "network.vision.features=4",
        "training.validation_share=0.34",
    ]
    assert main([*start, "--steps", "2", "--out", run, *chosen]) == 0
    assert main(["export", run, model, "--num-inference-steps", "2"]) == 0
    assert main(["eval", "--model", model, "--seeds", "0:1", "--processes", "1"]) == 0


def test_a_way_that_does_not_exist_is_refused_with_those_that_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = record_circles(tmp_path / "circles.zarr")
    arguments = ["train", "--task", "pusht_state", "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*arguments, "network.conditioning=locale"]) != 0
    error = capsys.readouterr().err
    assert "network.conditioning" in error
    assert "'local'" in error
    assert not (tmp_path / "run").exists()
