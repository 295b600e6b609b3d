"""Writes a model folder: the whole sampler as one ONNX graph, the weights, the manifest.

Nothing is put in place before graph and torch were seen to draw the same actions from the same noise. Easy to
get wrong: the graph holds its own arithmetic, so the reference must be the policy's own `sample` (for diffusion the
loop of diffusers), on observations that occur, with and without a prefix.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from dp_ros.errors import UserError
from dp_ros.inference.direct_graph import direct_inputs, write_direct_graph
from dp_ros.inference.graph import write_encoder, write_graph
from dp_ros.inference.manifest import (
    MANIFEST_FILE,
    ONNX_FILE,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    ExecutionSpec,
    Manifest,
    Provenance,
    ScoreSummary,
    TensorSpec,
    encoder_file,
    file_spec,
    write_manifest,
)
from dp_ros.inference.onnx import OnnxEngine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.inference.torch import sample_batch
from dp_ros.policies.baselines.state_policy import StatePolicy
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.policies.policy import Policy
from dp_ros.runtime.prefix import Prefix
from dp_ros.task import ObservationSpec

#: Largest allowed difference between graph and torch, as a share of the range of each action dimension.
TOLERANCE = 1e-4


def export_policy(
    policy: Policy,
    folder: str | Path,
    *,
    provenance: Provenance | None = None,
    scores: Sequence[ScoreSummary] = (),
    execution: ExecutionSpec | None = None,
    examples: Sequence[Mapping[str, NDArray[Any]]] = (),
    force: bool = False,
) -> Manifest:
    """Write `policy` as the model folder `folder`, whose name becomes the model's.

    Args:
        policy: the policy, in robot units on both sides. folder: where; written beside it first and renamed,
        so it is whole or absent. provenance: where the weights come from. scores, execution: what an
        earlier export of the same policy and sampler was found to do. examples: observations {stream:
        (n_obs_steps, *shape)} on which graph and torch are compared; made up from
            the normalisation where none are given.
        force: replace a model that is there.

    Raises:
        UserError: if the folder is there and `force` is not set, or graph and torch disagree.
    """
    folder = Path(folder)
    check_target(folder, force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    policy = policy.eval()
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        inputs = _write_graph(policy, draft / ONNX_FILE)
        weights = {key: value.contiguous() for key, value in policy.state_dict().items()}
        save_file(weights, draft / WEIGHTS_FILE)
        (draft / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it private
        encoders = _write_encoders(policy, draft)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=folder.name,
            task=policy.task.model_dump(mode="json"),
            task_digest=policy.task.digest(),
            inputs=inputs,
            outputs={"action": TensorSpec(shape=_action_shape(policy), dtype="float32")},
            normalization=policy.statistics,  # type: ignore[arg-type]
            network=policy.network,
            sampler=policy.sampler,
            files={
                name: file_spec(draft / name)
                for name in (ONNX_FILE, WEIGHTS_FILE, *encoders)
                if (draft / name).exists()
            },
            provenance=provenance,
            scores=list(scores),
            execution=execution,
        )
        write_manifest(draft, manifest)
        if ONNX_FILE in manifest.files:
            graph = OnnxEngine(draft, manifest)
            _check_agreement(policy, graph, examples or made_up_observations(policy, 8))
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def check_target(folder: Path, force: bool) -> None:
    """Raise UserError unless a model may be written to `folder`."""
    if not folder.exists():
        return
    if not force:
        raise UserError(f"{folder} is already there; give another name, or --force to replace it")
    if not (folder / MANIFEST_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not a model folder (no {MANIFEST_FILE}); it is left alone")


def made_up_observations(policy: Policy, n: int) -> list[dict[str, NDArray[Any]]]:
    """Observations drawn evenly from the range of the training data; pictures of noise."""
    rng = np.random.default_rng(0)
    steps = policy.task.n_obs_steps

    def made_up(key: str, spec: ObservationSpec) -> NDArray[Any]:
        if spec.is_image:
            return rng.integers(0, 256, (steps, *spec.shape), dtype=np.uint8)
        low, high = policy.statistics[key]["min"], policy.statistics[key]["max"]
        return rng.uniform(low, high, (steps, spec.dim)).reshape(steps, *spec.shape).astype(np.float32)

    return [{key: made_up(key, spec) for key, spec in policy.task.observations.items()} for _ in range(n)]


def _check_agreement(
    policy: Policy, graph: OnnxEngine, observations: Sequence[Mapping[str, NDArray[Any]]]
) -> None:
    shape = (policy.task.horizon, policy.task.action.dim)
    stats = policy.statistics["action"]
    low, high = np.asarray(stats["min"], np.float32), np.asarray(stats["max"], np.float32)
    size = np.maximum(high - low, 1e-6)
    worst = 0.0
    for k, observation in enumerate(observations):
        noise = sampling_noise(0, k, shape)
        batch = {key: np.asarray(value)[None] for key, value in observation.items()}
        prefix = given = None
        if k % 2 and graph.prefix != "none":
            planned = low + size * np.random.default_rng(k).random(shape, np.float32)
            prefix = Prefix.from_plan(planned, n_known=k % shape[0], horizon=shape[0])
            given = prefix[None]
        reference = sample_batch(policy, batch, noise[None], given)[0]
        worst = max(worst, float(np.max(np.abs(graph.sample(observation, noise, prefix) - reference) / size)))
    logging.getLogger(__name__).info("graph and torch differ by %.1e of the action range at most", worst)
    if not worst <= TOLERANCE:
        raise UserError(
            f"the exported graph differs from torch by {worst:.1e} of the action range, allowed is "
            f"{TOLERANCE:.0e}; nothing was written. The weights may be broken: look at the training log"
        )


def _write_graph(policy: Policy, path: Path) -> dict[str, TensorSpec]:
    """Write the graph of `policy`, if it has one; its inputs."""
    if not isinstance(policy, StatePolicy):
        return write_graph(policy, path)  # type: ignore[arg-type]
    return write_direct_graph(policy, path) if policy.has_graph else direct_inputs(policy)


def _write_encoders(policy: Policy, folder: Path) -> list[str]:
    """Write a graph for each camera of a diffusion policy; the names of their files."""
    if not isinstance(policy, DiffusionPolicy) or policy.vision is None:
        return []
    names = {camera: encoder_file(camera) for camera in policy.vision.cameras}
    for camera, name in names.items():
        write_encoder(policy, camera, folder / name)
    return list(names.values())


def _action_shape(policy: Policy) -> tuple[int, ...]:
    return (1, policy.task.horizon, policy.task.action.dim)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename `draft` to `folder`; what was there is moved aside first and removed last."""
    draft.chmod(0o755)
    old = draft.with_name(draft.name + ".old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(draft, folder)
    shutil.rmtree(old, ignore_errors=True)
