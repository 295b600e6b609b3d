"""Inference beside the eager way."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from dp_ros.benchmark.inference import _measure_encoder, measure_inference  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.export import export_policy, made_up_observations  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.onnx import OnnxEngine  # noqa: E402
from test.policies.small import small_policy  # noqa: E402
from test.policies.small_image import small_image_policy  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, pieces_exported_once: None) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    export_policy(small_policy(num_inference_steps=3), folder)
    return folder


def test_both_ways_draw_the_same_and_are_timed(model: Path) -> None:
    speed = measure_inference(model, "onnx", threads=1, seconds=0.01)
    assert (speed.engine, speed.threads, speed.turns) == ("onnx", 1, 10)
    assert speed.max_abs_diff < 1e-5
    assert 0.0 < speed.total_ms.p50 <= speed.total_ms.p99 <= speed.total_ms.max
    assert speed.p99_over_p50 == speed.total_ms.p99 / speed.total_ms.p50
    assert speed.eager_ms.p50 > 0.0
    assert 0.0 < speed.even_work_ms.p50 <= speed.even_work_ms.p99
    assert 0.0 < speed.startup_s < 300.0
    assert 20.0 < speed.rss_mb < 1000.0
    assert speed.roofline_fraction == pytest.approx(
        1e3 * speed.limits.seconds(speed.work) / speed.total_ms.p50, rel=1e-6
    )


def test_a_difference_between_the_two_shows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = OnnxEngine._compute

    def shifted(self, observation, noise, prefix):  # type: ignore[no-untyped-def]
        return compute(self, observation, noise, prefix) + 50.0  # px, a fifth of half the range

    monkeypatch.setattr(OnnxEngine, "_compute", shifted)
    speed = measure_inference(model, "onnx", threads=1, seconds=0.01)
    assert speed.max_abs_diff == pytest.approx(50.0 * 2 / 460.0, rel=1e-3)


def test_a_folder_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not be loaded.*manifest.json"):
        measure_inference(tmp_path, "onnx", threads=1, seconds=0.01)


def test_a_draw_after_the_encoding_encodes_nothing_again(tmp_path: Path) -> None:
    policy = small_image_policy(num_inference_steps=2)
    export_policy(policy, tmp_path / "m")
    engine = load_engine(tmp_path / "m", "onnx", threads=1)
    before = engine.pictures_encoded
    times = _measure_encoder(engine, policy, made_up_observations(policy, 8), 0.0)
    assert times is not None
    assert len(times.ours) == len(times.sampler) == len(times.eager) == 10
    assert engine.pictures_encoded - before == 2 * (1 + 3 + 10), "a first look, warming up, and the turns"
