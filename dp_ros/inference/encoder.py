"""Pictures to features with ONNX Runtime, a graph a camera, each picture once.

With n_obs_steps > 1 a picture is in several observations, and a node has those that its next inference will look at
encoded when they arrive, before it is due (`Engine.see`). A picture is known by its stamp where it has one
(`FrameStamp`), and else by its content. Easy to get wrong: a stamp alone is no name, because a bag that begins anew
and the next episode of a simulation have the same ones; a `FrameStamp` also says which recollection it belongs to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dp_ros.inference.manifest import Manifest, ManifestError, encoder_file, verify_file
from dp_ros.runtime.observation import FrameStamp
from dp_ros.task import ObservationSpec, TaskSpec

#: Pictures of a camera that are remembered, beyond those of an observation.
_SPARE = 2

Floats = NDArray[np.float32]


def session_options(threads: int, spin: bool = False) -> onnxruntime.SessionOptions:
    """So many threads, which sleep where they have nothing to do, or spin: between calls, too."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.log_severity_level = 3
    return options


class PictureEncoders:
    """Encoders of the cameras of a model folder.

    Args:
        folder: the model folder.
        manifest: its manifest.
        cameras: image streams.
        n_obs_steps: pictures of an observation.
        threads: CPU threads of an encoder.
        providers: execution providers of ONNX Runtime, with their options.

    Raises:
        ManifestError: if a graph is missing or damaged.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        cameras: Mapping[str, ObservationSpec],
        n_obs_steps: int,
        threads: int,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
    ) -> None:
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._seen: dict[str, deque[tuple[FrameStamp | None, NDArray[Any] | None, Floats]]] = {}
        self.encoded = 0
        """Pictures that had to be encoded."""
        for key in cameras:
            path = verify_file(folder, manifest, encoder_file(key))
            try:
                self._sessions[key] = onnxruntime.InferenceSession(
                    str(path), session_options(threads), providers=list(providers)
                )
            except Exception as error:  # onnxruntime raises a dozen unrelated classes
                raise ManifestError(f"{path}: ONNX Runtime cannot load it: {error}") from error
            self._seen[key] = deque(maxlen=n_obs_steps + _SPARE)

    def see(self, key: str, picture: NDArray[Any], frame: FrameStamp | None = None) -> Floats:
        """Features (F,) of a picture (height, width, channels) uint8 of a camera, from memory where it was seen.

        `frame` is what it is known by; without one, its content is.
        """
        seen = self._seen[key]
        for known, content, features in reversed(seen):
            if (known == frame) and (content is None or np.array_equal(content, picture)):
                return features
        (found,) = self._sessions[key].run(None, {"picture": np.ascontiguousarray(picture)[None]})
        features = np.asarray(found, np.float32).reshape(-1)
        seen.append((frame, picture.copy() if frame is None else None, features))
        self.encoded += 1
        return features

    def encode(self, key: str, pictures: NDArray[Any], frames: Sequence[FrameStamp] | None = None) -> Floats:
        """Features (n, F) of a camera's pictures (n, height, width, channels), known by `frames` if given."""
        known: Sequence[FrameStamp | None] = [None] * len(pictures) if frames is None else frames
        return np.stack(
            [self.see(key, picture, frame) for picture, frame in zip(pictures, known, strict=True)]
        )


def encoders_of(
    folder: Path,
    manifest: Manifest,
    task: TaskSpec,
    threads: int,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
) -> PictureEncoders | None:
    """Those of a model's cameras, None if it has none. Raises ManifestError."""
    cameras = {key: spec for key, spec in task.observations.items() if spec.is_image}
    if not cameras:
        return None
    return PictureEncoders(folder, manifest, cameras, task.n_obs_steps, threads, providers)
