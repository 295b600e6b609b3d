"""Recordings as one zip file, which is read where it lies.

Made of files that are compressed already, so the zip stores them as they are. Easy to get wrong: a zip of somebody else
may claim to hold anything, so what expands beyond reason is refused before it is read, and nothing is ever extracted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import zarr
from zarr.storage import ZipStore

from dp_ros.data.durable_store import sync_folder
from dp_ros.errors import UserError

if TYPE_CHECKING:
    from dp_ros.data.replay_buffer import ReplayBuffer

#: Files of a recording are compressed before they are packed; deflate makes no more of anything real.
_MAX_EXPANSION, _SMALL_BYTES = 50, 2**20


def open_archive(path: Path) -> zarr.Group:
    """The recording in a zip file, read-only.

    Raises:
        UserError: if it is no zip, damaged, expands beyond reason, or holds no zarr v2 group.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            for entry in archive.infolist():
                if entry.file_size > _SMALL_BYTES + _MAX_EXPANSION * entry.compress_size:
                    raise UserError(
                        f"{path}: {entry.filename} would expand from {entry.compress_size} to {entry.file_size} bytes; "
                        "no recording does that, it was not opened"
                    )
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path}: expected a recording, a folder or a zip file in zarr format: {error}"
        ) from error
    if ".zgroup" not in names:
        inside = sorted({name.partition("/")[0] for name in names if name.endswith("/.zgroup")})
        hint = f"; it has it in {inside[0]}/, so pack what is in that folder" if inside else ""
        raise UserError(f"{path}: no zarr v2 group (there is no .zgroup in the zip){hint}")
    try:
        return zarr.open_group(ZipStore(path, mode="r"), mode="r", zarr_format=2)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is not readable as zarr: {error}") from error


def export_zip(buffer: ReplayBuffer, episodes: Sequence[int], out: Path, progress: Callable[[], None]) -> str:
    """Write episodes as a zip file; returns what was done, for a person.

    Raises:
        UserError: if the name does not end in .zip, or the disk refuses; nothing is there then.
    """
    from dp_ros.data.surgery import copy_episodes

    if out.suffix != ".zip":
        raise UserError(f"{out}: expected a name that ends in .zip, such as {out.stem}.zarr.zip")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error}") from error
    try:
        copy_episodes([(buffer, episodes)], folder / "zarr", progress)
        draft = folder / "zip"
        with zipfile.ZipFile(draft, "x", zipfile.ZIP_STORED) as archive:
            for file in sorted((folder / "zarr").rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder / "zarr").as_posix())
        with draft.open("rb") as packed:
            os.fsync(packed.fileno())
        os.rename(draft, out)
        sync_folder(out.parent)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"{len(episodes)} episodes, {out.stat().st_size / 1e6:.1f} MB"
