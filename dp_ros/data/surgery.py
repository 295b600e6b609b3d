"""Episodes copied from recordings into new ones: merged, split, some left out; and labelled afterwards.

The steps of a recording that is there are never changed. What takes its place is written beside it, complete, and the
two change names; the old one stays as NAME.before_N. Only what a person says of an episode is written where it lies,
each file in one step, and nothing of it while a recorder has the recording open. Easy to get wrong: recordings of
different tasks have arrays of the same names and shapes that mean different things, so only those of one task are put
together.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dp_ros.data.durable_store import DurableStore, complete_or_absent, sync_folder
from dp_ros.data.episode_index import write_index, write_info
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.layout import EPISODE_SUCCESS, FORMAT, TAKEOVER, UNMARKED, recorded_arrays
from dp_ros.data.lock import locked
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.stored_pictures import LOSSLESS, Stored
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec


def recorded_task(buffer: ReplayBuffer) -> TaskSpec:
    """The task of a recording that can be taken apart.

    Raises:
        UserError: if it names none, or lacks an array of it.
    """
    task = buffer.task
    if task is None:
        raise UserError(f"{buffer.path}: does not say of which task it is, so its episodes cannot be copied")
    missing = [key for key in recorded_arrays(task) if key not in buffer]
    if missing:
        raise UserError(f"{buffer.path}: lacks {', '.join(missing)} of its task {task.name}; it is damaged")
    return task


def copy_episodes(
    sources: Iterable[tuple[ReplayBuffer, Sequence[int]]],
    out: Path,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Write episodes to a new recording.

    Args:
        sources: recordings and the episodes to take from each, in their order.
        out: where; must not be there.
        progress: called after each episode.

    Returns:
        How many there are.

    Raises:
        UserError: if `out` is there, nothing would be in it, the recordings are not of one task, or the disk refuses;
            nothing is written then.
    """
    chosen = [(buffer, list(indices)) for buffer, indices in sources]
    if out.exists():
        raise UserError(f"{out}: is there already; give another --out")
    if not any(indices for _, indices in chosen):
        raise UserError(f"{out}: no episode would be in it; nothing was written")
    tasks = [recorded_task(buffer) for buffer, _ in chosen]
    for (buffer, _), task in zip(chosen, tasks, strict=True):
        if task.digest() != tasks[0].digest():
            raise UserError(
                f"{buffer.path}: is of task {task.name} ({task.digest()}), {chosen[0][0].path} of {tasks[0].name} "
                f"({tasks[0].digest()}); only recordings of one task can be put together"
            )
        if (TAKEOVER in buffer) != (TAKEOVER in chosen[0][0]):
            raise UserError(
                f"{buffer.path} and {chosen[0][0].path}: one holds demonstrations, the other runs in which an operator "
                "may take over; keep them apart"
            )
    storages = [buffer.storage for buffer, _ in chosen]
    # Encoded pictures are copied as they are; those of a lossless recording stay lossless, and so must the others then.
    storage = storages[0] if len({each.kind for each in storages}) == 1 else LOSSLESS
    takeover = TAKEOVER in chosen[0][0]
    with (
        complete_or_absent(out) as draft,
        EpisodeWriter(draft, tasks[0], takeover=takeover, storage=storage) as writer,
    ):
        for buffer, indices in chosen:
            seeds, successes, infos = buffer.episode_seeds, buffer.episode_success, buffer.episode_info
            for index in indices:
                as_stored = buffer.storage.kind == storage.kind
                arrays: Mapping[str, Stored] = (
                    buffer.stored_episode(index) if as_stored else buffer.episode(index)
                )
                for row in range(len(next(iter(arrays.values())))):
                    writer.add({key: values[row] for key, values in arrays.items()})
                marked = None if successes[index] == UNMARKED else bool(successes[index])
                writer.save(int(seeds[index]), success=marked, info=infos[index])
                progress()
    return writer.n_episodes


def replace_with(path: Path, episodes: Sequence[int]) -> Path:
    """Have the recording at `path` hold these of its episodes; returns where the whole one is kept.

    Raises:
        UserError: if it is a zip, another process is recording to it, or the disk refuses; nothing is changed then.
    """
    if path.is_file():
        raise UserError(f"{path}: a zip cannot be changed in its place; give --out for a new recording")
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with locked(path):
        copy_episodes([(ReplayBuffer.open(path), episodes)], draft)
        number = 1
        while (kept := path.with_name(f"{path.name}.before_{number}")).exists():
            number += 1
        os.rename(path, kept)
        try:
            os.rename(draft, path)
        except OSError as error:  # a recorder that was started in this very moment has made one of its own
            raise UserError(
                f"{path}: a recorder made it anew meanwhile; all episodes are in {kept}, the chosen ones in {draft}"
            ) from error
        sync_folder(path.parent)
    return kept


@dataclass(frozen=True)
class Label:
    """What a person says of an episode after it was recorded; None leaves what is there.

    Attributes:
        success: 1, 0 or UNMARKED.
        texts: such as operator and instruction; an empty one is taken out.
    """

    success: int | None
    texts: Mapping[str, str]

    def replaces(self, buffer: ReplayBuffer, index: int) -> list[str]:
        """What is said of the episode now that would be lost, for a person."""
        lost = []
        there = int(buffer.episode_success[index])
        if self.success is not None and there not in (UNMARKED, self.success):
            lost.append("success" if there else "failure")
        info = buffer.episode_info[index]
        return lost + [
            f"{key} {info[key]!r}" for key, text in self.texts.items() if info.get(key, text) != text
        ]


def label_episode(path: Path, index: int, label: Label, *, replace: bool = False) -> None:
    """Write what a person says of a committed episode; its steps are not touched.

    Args:
        path: of the recording.
        index: of the episode.
        label: what is said.
        replace: also in place of something else that was said before.

    Raises:
        UserError: if there is no such episode, another process is recording, something would be replaced, or the disk
            refuses. Each of success and texts is then as before or as given.
    """
    if path.is_file():
        raise UserError(
            f"{path}: a zip cannot be changed; take it out with `dp-ros data split {path} : --out NEW.zarr`"
        )
    ReplayBuffer.open(path).require_episode(index)
    with locked(path):
        buffer = ReplayBuffer.open(path)
        buffer.require_episode(index)
        if buffer.attrs.get("format") != FORMAT:
            raise UserError(f"{path}: is not a recording of this program, which writes into no others")
        lost = label.replaces(buffer, index)
        if lost and not replace:
            raise UserError(
                f"{path}: episode {index} is said to have {', '.join(lost)}; that would be lost. Say --yes to "
                "replace it"
            )
        successes, infos = buffer.episode_success, buffer.episode_info
        store = DurableStore(path)
        try:
            if label.texts:
                kept = {key: text for key, text in {**infos[index], **label.texts}.items() if text}
                write_info(store, path, [*infos[:index], kept, *infos[index + 1 :]])
            if label.success is not None:
                successes[index] = label.success
                write_index(store, path, EPISODE_SUCCESS, successes, first=index)
        except OSError as error:
            raise UserError(f"{path}: cannot be written to: {error}") from error


def parse_episodes(text: str, n_episodes: int) -> list[int]:
    """Episodes by "3,5,10:20", in their order, each once.

    Raises:
        UserError: saying what was given and what there is.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        first, colon, last = part.strip().partition(":")
        try:
            begin = int(first or "0" if colon else first)
            end = int(last or n_episodes) if colon else begin + 1
        except ValueError:
            raise UserError(
                f"episodes: got {part.strip()!r}, expected numbers and ranges such as 3,5,10:20"
            ) from None
        if not 0 <= begin < end <= n_episodes:
            raise UserError(f"episodes: got {part.strip()!r}, the recording has 0 to {n_episodes - 1}")
        chosen.update(range(begin, end))
    return sorted(chosen)
