"""What a recording says of its episodes, written: where each ends, its seed, how it went, texts about it.

Each file is replaced in one step. Easy to get wrong: values go first and their number last, because their number makes
them count; where only the last ones go, their values must not vanish before it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.data.durable_store import DurableStore
from dp_ros.data.layout import EPISODE_ENDS, EPISODE_INFO, META_CHUNK_ROWS


def index_metadata(path: Path, name: str) -> dict[str, Any]:
    """The `.zarray` of `meta/<name>` in the recording at `path`."""
    metadata: dict[str, Any] = json.loads((path / "meta" / name / ".zarray").read_bytes())
    return metadata


def write_index(
    store: DurableStore, path: Path, name: str, values: NDArray[np.int64], first: int | None = None
) -> None:
    """Replace `meta/<name>`: values first, then their number, which makes the new one count.

    Args:
        store: of the recording. path: of the recording.
        name: of the array. values: one for each episode.
        first: episode from which on they differ from what is there; by default the last.
    """
    last = max(0, len(values) - 1) // META_CHUNK_ROWS
    # An index that an older version did not write is written from its beginning.
    missing = not (path / "meta" / name / ".zarray").exists()
    metadata = index_metadata(path, EPISODE_ENDS if missing else name)
    shrinks = not missing and len(values) < metadata["shape"][0]
    begin = 0 if missing else last if first is None else first // META_CHUNK_ROWS
    for chunk in () if shrinks and first is None else range(begin, last + 1):
        padded = np.zeros(META_CHUNK_ROWS, dtype="<i8")
        part = values[chunk * META_CHUNK_ROWS : (chunk + 1) * META_CHUNK_ROWS]
        padded[: len(part)] = part
        store.write(f"meta/{name}/{chunk}", padded.tobytes())
    store.sync()
    metadata["shape"] = [len(values)]
    store.write(f"meta/{name}/.zarray", json.dumps(metadata, indent=2).encode())
    store.sync()


def write_info(store: DurableStore, path: Path, infos: list[dict[str, str]]) -> None:
    """Replace what is said of each episode; what is said beyond the last of them does not count."""
    file = path / "meta" / ".zattrs"
    if not any(infos) and not file.exists():
        return
    attributes = json.loads(file.read_bytes()) if file.exists() else {}
    store.write("meta/.zattrs", json.dumps({**attributes, EPISODE_INFO: infos}).encode())
    store.sync()
