"""An empty recording: its arrays, their chunks and codecs, and what is said of it.

Easy to get wrong: a recording that somebody sees is complete, so it is made elsewhere and moved into place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from numcodecs.abc import Codec

from dp_ros.data.durable_store import sync_folder, sync_tree
from dp_ros.data.jpeg_codec import JpegCodec, can_be_jpeg
from dp_ros.data.layout import (
    EPISODE_ENDS,
    EPISODE_SEED,
    EPISODE_SUCCESS,
    FORMAT,
    FORMAT_VERSION,
    META_CHUNK_ROWS,
    chunk_rows,
)
from dp_ros.data.stored_pictures import PictureStorage
from dp_ros.data.video_codec import VideoCodec, chunk_rows_of_video
from dp_ros.task import TaskSpec

#: Five times as fast as level 5, and a camera's picture takes 6 % more: three cameras leave no time for more.
_PICTURE_LEVEL = 1


def create_recording(
    path: Path,
    task: TaskSpec,
    spec: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    storage: PictureStorage,
) -> None:
    """Make an empty recording elsewhere and move it into place when it is complete.

    Args:
        path: of the recording; nothing may be there but an empty folder.
        task: written into it.
        spec: shape of a row and type of each array.
        storage: of pictures.

    Raises:
        OSError: if the disk refuses; nothing is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        root = zarr.open_group(str(draft), mode="w", zarr_format=2)
        data, meta = root.create_group("data"), root.create_group("meta")
        for key, (shape, dtype) in spec.items():
            rows, codec = _chunks(shape, dtype, storage)
            data.create_array(
                key,
                shape=(0, *shape),
                chunks=(rows, *shape),
                dtype=dtype,
                compressors=codec,
                filters=None,
                fill_value=0,
            )
        for name in (EPISODE_ENDS, EPISODE_SEED, EPISODE_SUCCESS):
            meta.create_array(
                name,
                shape=(0,),
                chunks=(META_CHUNK_ROWS,),
                dtype="<i8",
                compressors=None,
                filters=None,
                fill_value=0,
            )
        root.attrs.update(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "task": task.model_dump(mode="json"),
                "task_digest": task.digest(),
            }
        )
        draft.chmod(0o755)
        sync_tree(draft)
        os.rename(draft, path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _chunks(shape: tuple[int, ...], dtype: np.dtype[Any], storage: PictureStorage) -> tuple[int, Codec]:
    """Rows of a chunk and the codec of an array."""
    if storage.jpeg_quality is not None and can_be_jpeg(shape, dtype):
        return 1, JpegCodec(storage.jpeg_quality)
    if storage.video_crf is not None and can_be_jpeg(shape, dtype):
        rows = chunk_rows_of_video(shape)
        return rows, VideoCodec(storage.video_crf, rows)
    shuffle = numcodecs.Blosc.BITSHUFFLE if dtype.itemsize == 1 else numcodecs.Blosc.SHUFFLE
    level = _PICTURE_LEVEL if len(shape) == 3 else 5
    return chunk_rows(shape, dtype), numcodecs.Blosc("zstd", level, shuffle)
