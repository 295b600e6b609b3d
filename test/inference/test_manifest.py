from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dp_ros.inference.manifest import (
    SCHEMA_VERSION,
    ExecutionSpec,
    ManifestError,
    ScoreSummary,
    load_manifest,
    write_manifest,
)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return folder


def test_a_manifest_says_what_the_model_is(exported: Path) -> None:
    manifest = load_manifest(exported)
    assert manifest.name == "small"
    assert manifest.task_spec().name == "pusht_state"
    assert manifest.task_digest == manifest.task_spec().digest()
    assert manifest.inputs["keypoint"].shape == (1, 2, 18)
    assert manifest.inputs["noise"].shape == manifest.outputs["action"].shape == (1, 16, 2)
    assert set(manifest.files) == {"policy.onnx", "weights.safetensors"}
    assert manifest.model_id.startswith("small-")
    assert manifest.prefix == "guided"
    assert [key for key, spec in manifest.inputs.items() if spec.optional] == ["prefix", "prefix_weights"]
    assert manifest.execution is None


def test_there_is_no_pickle_in_a_model_folder(exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir()) == [
        "manifest.json",
        "policy.onnx",
        "weights.safetensors",
    ]
    for path in exported.iterdir():
        content = path.read_bytes()
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04"))


def test_writing_and_loading_give_the_same_manifest(model: Path) -> None:
    manifest = load_manifest(model)
    write_manifest(model, manifest)
    assert load_manifest(model) == manifest


def test_a_score_does_not_change_the_models_id(model: Path) -> None:
    manifest = load_manifest(model)
    score = ScoreSummary(
        seeds="1:3",
        repeats=1,
        engine="onnx",
        transport="in process",
        n_episodes=2,
        mean_score=0.5,
        interval_95=(0.4, 0.6),
        success_rate=0.0,
        inference_p50_ms=1.0,
        created="2026-01-01T00:00:00+00:00",
    )
    write_manifest(model, manifest.model_copy(update={"scores": [score]}))
    again = load_manifest(model)
    assert again.scores == [score]
    assert again.model_id == manifest.model_id


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nowhere: is not there, expected a model folder"):
        load_manifest(tmp_path / "nowhere")


def test_a_file_is_not_a_model(exported: Path) -> None:
    with pytest.raises(ManifestError, match="is a file, expected a folder"):
        load_manifest(exported / "policy.onnx")


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"has no manifest.json; give a folder that `dp-ros export` wrote"
    ):
        load_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_manifest_that_is_not_json_is_refused(model: Path, content: bytes) -> None:
    (model / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"manifest.json: is not readable as JSON"):
        load_manifest(model)


def test_a_newer_schema_is_refused_with_what_to_do(model: Path) -> None:
    edit(model, lambda data: data.update(schema_version=SCHEMA_VERSION + 1, something_new=True))
    with pytest.raises(ManifestError, match=rf"is newer than {SCHEMA_VERSION}.*update dp_ros"):
        load_manifest(model)


@pytest.mark.parametrize("version", [None, "1", 0, True])
def test_a_schema_version_that_is_none_is_refused(model: Path, version: object) -> None:
    edit(model, lambda data: data.update(schema_version=version))
    with pytest.raises(ManifestError, match=f"schema_version: got .*, expected 1 to {SCHEMA_VERSION}"):
        load_manifest(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("sampler"), "sampler: is missing"),
        (lambda d: d.update(colour="red"), "colour: unknown key"),
        (lambda d: d["sampler"].update(prediction="noise"), "sampler.prediction: got 'noise', should be"),
        (lambda d: d["execution"].update(mode="fast"), "execution.mode: got 'fast', should be"),
        (lambda d: d["execution"].update(infer_every=-1), "execution.infer_every: got -1"),
        (lambda d: d["execution"].update(delay=1), "execution.delay: unknown key"),
        (lambda d: d["inputs"].pop("prefix"), "execution.mode rtc needs a model that takes a prefix"),
        (lambda d: d["network"].update(widths=[]), r"network.widths: got \[\]"),
        (lambda d: d["task"].update(rate_hz=-1), "task: rate_hz: got -1"),
        (
            lambda d: d["files"].update({"../x": {"sha256": "", "bytes": 0}}),
            "'../x' is not a plain file name",
        ),
    ],
)
def test_a_wrong_entry_is_named(model: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit(model, lambda data: data.update(execution={"mode": "rtc", "infer_every": 0}))
    assert load_manifest(model).execution == ExecutionSpec(mode="rtc", infer_every=0)
    edit(model, change)
    with pytest.raises(ManifestError, match=message):
        load_manifest(model)


def test_a_missing_file_is_named(model: Path) -> None:
    (model / "policy.onnx").unlink()
    with pytest.raises(ManifestError, match=r"policy.onnx is listed in manifest.json but cannot be read"):
        load_manifest(model)


def test_a_changed_file_is_named(model: Path) -> None:
    path = model / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ManifestError, match=r"weights.safetensors is not the file that was exported"):
        load_manifest(model)
