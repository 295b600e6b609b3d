"""Pictures to features with ONNX Runtime, a graph a camera."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dp_ros.inference.encoder import Encode, Floats, PictureEncoders
from dp_ros.inference.manifest import Manifest, ManifestError, encoder_file, verify_file
from dp_ros.task import TaskSpec


def session_options(threads: int, spin: bool = False) -> onnxruntime.SessionOptions:
    """So many threads, which sleep where they have nothing to do, or spin: between calls, too."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.log_severity_level = 3
    return options


def encoders_of(
    folder: Path,
    manifest: Manifest,
    task: TaskSpec,
    threads: int,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
) -> PictureEncoders | None:
    """Graphs of a model's cameras in ONNX Runtime, None if it has no cameras.

    Args:
        folder: the model folder.
        manifest: its manifest.
        task: what it observes.
        threads: CPU threads of an encoder.
        providers: execution providers of ONNX Runtime, with their options.

    Raises:
        ManifestError: if a graph is missing or damaged.
    """
    cameras = [key for key, spec in task.observations.items() if spec.is_image]
    if not cameras:
        return None
    encoders: dict[str, Encode] = {}
    for key in cameras:
        path = verify_file(folder, manifest, encoder_file(key))
        try:
            session = onnxruntime.InferenceSession(
                str(path), session_options(threads), providers=list(providers)
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise ManifestError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        encoders[key] = functools.partial(_run_graph, session)
    return PictureEncoders(encoders, task.n_obs_steps)


def _run_graph(session: Any, pictures: NDArray[Any]) -> Floats:
    """One by one, as the graph takes them."""
    found = [session.run(None, {"picture": np.ascontiguousarray(each)[None]})[0] for each in pictures]
    return np.stack([np.asarray(each, np.float32).reshape(-1) for each in found])
