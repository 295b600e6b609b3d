"""What becomes of a recording on a disk that is full or read-only; run by `test_full_disk` on a disk of its own.

    unshare --user --map-root-user --mount python -m test.data.disk_session SCENARIO FOLDER

The disk is a tmpfs of a few megabytes that no other process sees.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from dp_ros.data import episode_writer
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.lock import RecordingError
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.surgery import copy_episodes, replace_with
from dp_ros.errors import UserError
from test.data.recorded import random_episode, small_task

TASK = small_task()
LENGTH = 9


def mount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)], check=True)


def remount(folder: Path, access: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{access}", str(folder)], check=True)


def add(writer: EpisodeWriter, seed: int) -> None:
    for step in random_episode(TASK, LENGTH, seed):
        writer.add(step)


def refused(does: Callable[[], object], *words: str) -> None:
    try:
        does()
    except UserError as error:
        assert all(word in str(error) for word in words), f"{error} does not say {words}"
        return
    raise AssertionError("was not refused")


def check(path: Path, episodes: int) -> None:
    """What is committed is what was given, as stock zarr reads it."""
    root = zarr.open(str(path), mode="r")
    assert isinstance(root, zarr.Group)
    assert root["meta/episode_ends"][:].tolist() == [LENGTH * (k + 1) for k in range(episodes)]
    for seed in range(episodes):
        rows = slice(LENGTH * seed, LENGTH * (seed + 1))
        given = random_episode(TASK, LENGTH, seed)
        for key in ("camera", "pose", "action", "timestamp"):
            kept = root[f"data/{key}"][rows]
            np.testing.assert_array_equal(
                kept, np.stack([step[key] for step in given]).astype(kept.dtype), key
            )


def fill(writer: EpisodeWriter) -> int:
    """Save episodes until the disk is full; returns how many were saved. One more is in progress then."""
    while True:
        try:
            add(writer, writer.n_episodes)
            writer.save()
        except RecordingError as error:
            assert "No space left on device" in str(error), error
            return writer.n_episodes


def full_while_saving(folder: Path) -> None:
    mount(folder, "size=4m")
    ballast, path = folder / "ballast", folder / "x.zarr"
    ballast.write_bytes(b"x" * 1_000_000)
    with EpisodeWriter(path, TASK) as writer:
        saved = fill(writer)
        assert saved >= 3
        refused(writer.save, "No space left", "save again")
        check(path, saved)
        ballast.unlink()
        assert writer.save() == saved
        check(path, saved + 1)


def full_while_recording(folder: Path) -> None:
    """The episode outgrows memory, so that it is written before it is saved, and the recorder then gives up."""
    episode_writer._FLUSH_BYTES = 100_000
    mount(folder, "size=4m")
    path = folder / "x.zarr"
    writer = EpisodeWriter(path, TASK)
    saved = fill(writer)
    writer.close()
    check(path, saved)


def full_while_copying(folder: Path) -> None:
    mount(folder, "size=4m")
    path = folder / "x.zarr"
    with EpisodeWriter(path, TASK) as writer:
        for seed in range(10):
            add(writer, seed)
            writer.save()
    before = sorted(folder.iterdir())
    buffer = ReplayBuffer.open(path)
    refused(lambda: copy_episodes([(buffer, range(10))], folder / "y.zarr"), "y.zarr", "No space left")
    refused(lambda: replace_with(path, range(9)), "No space left")
    assert sorted(folder.iterdir()) == before
    check(path, 10)


def full_when_starting(folder: Path) -> None:
    """A recorder was killed with an episode in progress, and now there is no room to put that aside."""
    episode_writer._FLUSH_BYTES = 100_000
    mount(folder, "size=4m")
    path = folder / "x.zarr"
    killed = EpisodeWriter(path, TASK)
    add(killed, 0)
    killed.save()
    add(killed, 1)
    assert killed._lock is not None
    os.close(killed._lock)
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    refused(lambda: EpisodeWriter(path, TASK), "x.zarr", "No space left", "make room")
    check(path, 1)
    ballast.unlink()
    with EpisodeWriter(path, TASK) as writer:
        assert writer.set_aside_steps > 0
        add(writer, 1)
        writer.save()
    check(path, 2)


def read_only(folder: Path) -> None:
    mount(folder, "size=8m")
    path = folder / "x.zarr"
    with EpisodeWriter(path, TASK) as writer:
        add(writer, 0)
        writer.save()
    remount(folder, "ro")
    refused(lambda: EpisodeWriter(path, TASK), "x.zarr", "Read-only file system")
    refused(lambda: EpisodeWriter(folder / "y.zarr", TASK), "y.zarr", "Read-only file system")
    refused(lambda: replace_with(path, [0]), "Read-only file system")
    check(path, 1)
    assert ReplayBuffer.open(path).n_episodes == 1
    remount(folder, "rw")
    with EpisodeWriter(path, TASK) as writer:
        add(writer, 1)
        writer.save()
    check(path, 2)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
