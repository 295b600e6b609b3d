"""Where everything lies in a recording: array names, types, chunking and the format's version.

A recording is a folder in zarr v2 format with the layout of Diffusion Policy's replay buffer (Chi et al.,
2023): `data/<key>` holds all episodes one after the other on axis 0, `meta/episode_ends` the row after each
episode's last. Easy to get wrong: rows beyond the last of `episode_ends` belong to no episode; a recorder
that was killed leaves some.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.errors import UserError
from dp_ros.task import ObservationSpec, TaskSpec

Array = NDArray[Any]

FORMAT = "dp_ros recording"
FORMAT_VERSION = 1
ACTION = "action"
TIMESTAMP = "timestamp"
#: In recordings of runs: 1 where an operator commanded, 0 where the policy did.
TAKEOVER = "takeover"
EPISODE_ENDS = "episode_ends"
EPISODE_SEED = "episode_seed"
#: What the operator said of each episode: 1 success, 0 failure, UNMARKED.
EPISODE_SUCCESS = "episode_success"
UNMARKED = -1
#: Attribute of `meta`: for each episode texts such as operator and instruction. It may be longer than `episode_ends`.
EPISODE_INFO = "episode_info"
#: Seed of an episode whose start was not drawn from one, as on a real robot.
NO_SEED = -1
#: Rows of a chunk of `meta/*`.
META_CHUNK_ROWS = 1024
_CHUNK_BYTES = 2**18
_MAX_CHUNK_ROWS = 4096
_IMAGE_DTYPES = {"mono16": "<u2", "16UC1": "<u2", "32FC1": "<f4"}


def observation_dtype(spec: ObservationSpec) -> np.dtype[Any]:
    """Type in which a stream is recorded: float32 for vectors, for images that of their encoding."""
    return np.dtype(_IMAGE_DTYPES.get(str(spec.encoding), "|u1") if spec.is_image else "<f4")


def recorded_arrays(
    task: TaskSpec, takeover: bool = False
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape of one row and type of every array under `data/` that a recording of `task` has.

    With `takeover`, a recording of a policy's runs, in which an operator may have taken over.
    """
    arrays = {key: (tuple(spec.shape), observation_dtype(spec)) for key, spec in task.observations.items()}
    for name in (TIMESTAMP, TAKEOVER):
        if name in arrays:
            raise UserError(f"task {task.name}: a stream cannot be called {name}")
    arrays[ACTION] = (tuple(task.action.shape), np.dtype("<f4"))
    arrays[TIMESTAMP] = ((), np.dtype("<f8"))
    if takeover:
        arrays[TAKEOVER] = ((), np.dtype("|u1"))
    return arrays


def chunk_rows(row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Rows of one chunk: thousands of vectors, a few pictures; about 256 KiB before compression."""
    return max(1, min(_MAX_CHUNK_ROWS, _CHUNK_BYTES // max(1, math.prod(row_shape) * dtype.itemsize)))
