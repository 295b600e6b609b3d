"""Pictures to features with ONNX Runtime, a graph a camera, each picture once.

With n_obs_steps > 1 a picture is in several observations, and a node can have it encoded when it arrives, before the
observation that it completes is due (`Engine.see`). Easy to get wrong: what a picture is known by is its content, so
nothing here can be out of date; a camera that sends the same picture again is noticed elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dp_ros.inference.manifest import Manifest, ManifestError, encoder_file, verify_file
from dp_ros.task import ObservationSpec

#: Pictures of a camera that are remembered, beyond those of an observation.
_SPARE = 2


def quiet_options(threads: int) -> onnxruntime.SessionOptions:
    """Session options: so many threads, which sleep after a call instead of spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
    ) -> None:
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._seen: dict[str, deque[tuple[NDArray[Any], NDArray[np.float32]]]] = {}
        self.encoded = 0
        """Pictures that had to be encoded."""
        for key in cameras:
            path = verify_file(folder, manifest, encoder_file(key))
            try:
                self._sessions[key] = onnxruntime.InferenceSession(
                    str(path), quiet_options(threads), providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime raises a dozen unrelated classes
                raise ManifestError(f"{path}: ONNX Runtime cannot load it: {error}") from error
            self._seen[key] = deque(maxlen=n_obs_steps + _SPARE)

    def see(self, key: str, picture: NDArray[Any]) -> NDArray[np.float32]:
        """Features (F,) of a picture (height, width, channels) uint8 of a camera, from memory where it was seen."""
        seen = self._seen[key]
        for known, features in reversed(seen):
            if np.array_equal(known, picture):
                return features
        (found,) = self._sessions[key].run(None, {"picture": np.ascontiguousarray(picture)[None]})
        features = np.asarray(found, np.float32).reshape(-1)
        seen.append((picture.copy(), features))
        self.encoded += 1
        return features

    def encode(self, key: str, pictures: NDArray[Any]) -> NDArray[np.float32]:
        """Features (B, n, F) of pictures (B, n, height, width, channels)."""
        rows = [self.see(key, picture) for picture in pictures.reshape(-1, *pictures.shape[2:])]
        return np.stack(rows).reshape(*pictures.shape[:2], -1)
