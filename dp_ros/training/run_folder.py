"""The folder of a training run: what was started, its checkpoints, its logs.

    run.json            task, recipe, data and its hash, normalisation, versions of the code and of libraries
    config.yaml         the recipe alone, with all that was overridden; `--config` takes it
    last.safetensors    everything needed to go on
    best.safetensors    averaged weights of the best evaluation
    checkpoints/        averaged weights of the best few, with step and score in the name
    evaluations/        what the simulated episodes of each evaluation looked like
    metrics.jsonl       everything measured, a line at a time; train.log is what was printed
    tensorboard/        `tensorboard --logdir RUN`, or wandb/
    report.html         `dp-ros report RUN`

Easy to get wrong: a resumed run takes task and recipe from `run.json`, not from the files they came from, nor from
`config.yaml`.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dp_ros import __version__
from dp_ros.data.layout import NO_SEED
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.windows import Demonstrations
from dp_ros.errors import UserError
from dp_ros.inference.manifest import MANIFEST_FILE, Ancestor, explain
from dp_ros.paths import share_dir
from dp_ros.task import TaskSpec
from dp_ros.training.checkpoint import write_atomically
from dp_ros.training.config import TrainingConfig

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
LAST = "last.safetensors"
BEST = "best.safetensors"
REPORT = "report.html"
LOG = "train.log"
#: What may differ between a run and its resumption, because it changes nothing that is learnt.
_MAY_CHANGE = ("training.device", "training.logger")
_VERSION = 1
_LIBRARIES = ("torch", "accelerate", "diffusers", "numpy", "zarr", "pymunk", "shapely")


class RunRecord(BaseModel):
    """Contents of `run.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    task: dict[str, Any]
    data: str
    data_digest: str
    n_episodes: int
    n_steps: int
    statistics: dict[str, dict[str, list[float]]]
    config: TrainingConfig
    versions: dict[str, str]
    git_commit: str | None
    started_from: str | None = None
    """Which run's weights it began with; None: random ones."""
    ancestors: list[Ancestor] = Field(default_factory=list)
    """The runs that it goes back to, the first one first; of runs by older versions the last one alone is known."""
    episode_seeds: tuple[int, int] | None = None
    """Lowest and highest start state of the recording's episodes; None where none was drawn from a seed."""
    distilled_from: str | None = None
    """Model folder that it learns to draw like; None: it learns from the data."""
    processes: int = 1
    """How many processes made it, each with its own part of a batch."""

    @property
    def samples_per_step(self) -> int:
        """Samples that an optimiser step sees."""
        spec = self.config.training
        return spec.batch_size * spec.accumulate * self.processes

    @classmethod
    def of(
        cls,
        task: TaskSpec,
        data: str | Path,
        demonstrations: Demonstrations,
        statistics: dict[str, dict[str, list[float]]],
        config: TrainingConfig,
        started_from: str | None = None,
        processes: int = 1,
        distilled_from: str | None = None,
        ancestors: Sequence[Ancestor] = (),
    ) -> RunRecord:
        """Record of a run that starts now, with this software."""
        seeds = ReplayBuffer.open(data).episode_seeds
        seeds = seeds[seeds != NO_SEED]
        return cls(
            schema_version=_VERSION,
            task=task.model_dump(mode="json"),
            data=str(data),
            data_digest=demonstrations.digest,
            n_episodes=demonstrations.n_episodes,
            n_steps=demonstrations.n_steps,
            statistics=statistics,
            config=config,
            versions=_versions(),
            git_commit=_git_commit(),
            started_from=started_from,
            ancestors=list(ancestors),
            episode_seeds=(int(seeds.min()), int(seeds.max())) if len(seeds) else None,
            processes=processes,
            distilled_from=distilled_from,
        )

    def task_spec(self, run: str | Path) -> TaskSpec:
        """The task of the run."""
        return TaskSpec.from_dict(self.task, source=f"{Path(run) / RUN_FILE}: task")

    def require_same(self, given: RunRecord, run: Path) -> None:
        """Raise UserError if `given` would not continue this run."""
        if self.data_digest != given.data_digest:
            raise UserError(
                f"{run}: was started on other data than {given.data} (hash {self.data_digest[:12]}..., now "
                f"{given.data_digest[:12]}...); give the recording it was started with, or start a new run"
            )
        old, new = _flat(self.config.model_dump(mode="json")), _flat(given.config.model_dump(mode="json"))
        old["processes"], new["processes"] = self.processes, given.processes
        changed = [
            f"{key} {old[key]} (given {new[key]})"
            for key in old
            if old[key] != new[key] and key not in _MAY_CHANGE
        ]
        if changed:
            raise UserError(
                f"{run}: was started with {', '.join(changed)}; a run is resumed as it was started. "
                "Leave these options out, or start a new run"
            )


def create_run(run: Path, record: RunRecord) -> None:
    """Make the folder of a new run.

    Raises:
        UserError: if there is a run already, or the folder holds something else.
    """
    if (run / RUN_FILE).exists():
        raise UserError(f"{run}: there is a run already; give another --out, or --resume to go on with it")
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run}: is there and is not a run; give another --out")
    run.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_dump(record.config.model_dump(mode="json"), sort_keys=False, default_flow_style=None)
    write_atomically(run / CONFIG_FILE, recipe)
    write_atomically(run / RUN_FILE, json.dumps(record.model_dump(mode="json"), indent=2) + "\n")


def dated_run(task: TaskSpec, recipe: str, now: datetime) -> Path:
    """Folder of a run that was given none: runs/DATE/TIME_TASK_RECIPE."""
    return Path("runs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}_{task.name}_{Path(recipe).stem}"


def open_run(run: Path) -> RunRecord:
    """Read `run.json`.

    Raises:
        UserError: if it is not a run, or was made by a newer version.
    """
    path = run / RUN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        begins = "`dp-ros train` makes one"
        if (run / MANIFEST_FILE).is_file():
            begins = f"it is a model, with which `dp-ros train --start-from {run}` can begin one"
        raise UserError(f"{run}: is not a training run (no {RUN_FILE}); {begins}") from None
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); start the run again") from None
    written_by = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(written_by, int) and written_by > _VERSION:
        raise UserError(f"{path}: schema_version {written_by} is newer than {_VERSION}; update dp_ros")
    try:
        return RunRecord.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: " + "\n  ".join(explain(error))) from None


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _versions() -> dict[str, str]:
    found = {"dp_ros": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """Commit of the source that runs, if it runs from a git checkout; with `+` where files were changed."""
    root = share_dir()
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for arguments in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "dp_ros"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")
