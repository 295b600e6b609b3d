"""`manifest.json` of a model folder: everything about a model that is not a weight.

A model is a folder and never a pickle: loading one runs no code from it. The manifest holds the task, the
shapes, the normalisation, the sampler, where the model came from and what it scored, and a hash of every
other file. Easy to get wrong: scores are added after the files were hashed, so the manifest itself is in no
hash and the model's id does not change when it is evaluated.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from dp_ros.errors import UserError
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.baselines.specs import BetSpec, IbcSpec, LstmGmmSpec, RegressionSpec
from dp_ros.policies.specs import Conditioning, TransformerSpec, UnetSpec
from dp_ros.task import TaskError, TaskSpec
from dp_ros.task.later import WithLaterKeys

#: 3: a graph takes features of pictures, which graphs of their own encode; before, it took the pictures.
SCHEMA_VERSION = 3
MANIFEST_FILE = "manifest.json"
ONNX_FILE = "policy.onnx"
WEIGHTS_FILE = "weights.safetensors"
#: Optional inputs of the graph: planned actions (1, horizon, action_dim) and their weights (1, horizon).
PREFIX_INPUT, PREFIX_WEIGHTS_INPUT = "prefix", "prefix_weights"
#: Input of a DDPM graph beside `noise`: what each step adds (num_inference_steps, horizon, action_dim).
STEP_NOISE_INPUT = "step_noise"
#: Optional input of the graph of a sampler with a warm start, (1,): above 0, the draw begins with the planned actions.
WARM_START_INPUT = "warm_start"

PrefixKind = Literal["none", "guided", "trained"]


def encoder_file(camera: str) -> str:
    """Graph that encodes one picture (1, height, width, channels) of a camera, `picture`, as `features` (1, F)."""
    return f"encoder_{camera}.onnx"


class ManifestError(UserError):
    """A model folder that cannot be used; the message names the folder, the key and what to do."""


class _Strict(WithLaterKeys):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkSpec(_Strict):
    """Shape of the network."""

    denoises: ClassVar[bool] = True
    """Whether actions are drawn by a `SamplerSpec`."""
    kind: Literal["unet1d_state"] = "unet1d_state"
    widths: tuple[int, ...] = Field(default=(32, 64, 128), min_length=1)
    """Channels of each level of the U-Net."""
    step_dim: int = Field(default=128, ge=4)
    """Width of the embedding of the noise level."""
    kernel_size: int = Field(default=5, ge=1)
    groups: int = Field(default=8, ge=1)
    """Groups of the group norms."""
    prefix_steps: int = Field(default=0, ge=0)
    """Executed actions that the network was trained to take as given, at most; 0 for none, and no mask channel."""
    conditioning: Conditioning = "global"


#: Every network there is, told apart by `kind`.
AnyNetwork = Annotated[
    NetworkSpec | UnetSpec | TransformerSpec | RegressionSpec | LstmGmmSpec | BetSpec | IbcSpec,
    Field(discriminator="kind"),
]


class TensorSpec(_Strict):
    """Shape and type of an input or output of the ONNX graph."""

    shape: tuple[int, ...]
    dtype: Literal["float32", "uint8"]
    optional: bool = False
    """Whether the graph does without it."""


class FileSpec(_Strict):
    """Hash and size of a file of the folder."""

    sha256: str
    bytes: int


class Ancestor(_Strict):
    """A training run whose weights another one began with."""

    run: str
    """Name of its folder."""
    steps: int
    """Optimiser steps of the weights."""
    samples: int
    seed: int
    wall_time_s: float
    data_digest: str


class Provenance(_Strict):
    """Where a model came from."""

    _later: ClassVar[frozenset[str]] = frozenset({"ancestors", "total_wall_time_s", "episode_seeds"})

    data_digest: str
    """`ReplayBuffer.digest()` of the recording."""
    n_episodes: int
    n_steps: int
    """Rows of the recording."""
    seed: int
    steps: int
    """Optimiser steps of the exported weights."""
    samples: int
    """Training samples seen until then."""
    wall_time_s: float
    checkpoint: Literal["best", "last", "kept"]
    """Which weights of the run: of its best evaluation, of its end, or another one that it kept, of step `steps`."""
    created: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    git_commit: str | None = None
    started_from: str | None = None
    """Training run whose weights it began with; `steps`, `samples` and `wall_time_s` do not count those of that run."""
    ancestors: list[Ancestor] = Field(default_factory=list)
    """The runs that it goes back to, the first one with random weights first; empty in older manifests, too."""
    total_wall_time_s: float | None = None
    """Time spent training, that of the ancestors included."""
    episode_seeds: tuple[int, int] | None = None
    """Lowest and highest start state of the recording's episodes; None where none was drawn from a seed."""


class ScoreSummary(_Strict):
    """Result of `dp-ros eval --record`."""

    seeds: str
    repeats: int
    engine: str
    transport: Literal["in process", "ros"]
    n_episodes: int
    mean_score: float
    interval_95: tuple[float, float] | None
    success_rate: float
    inference_p50_ms: float
    created: str

    @property
    def kind(self) -> tuple[str, int, str, str]:
        """What was evaluated; a newer score of the same kind replaces an older one."""
        return (self.seeds, self.repeats, self.engine, self.transport)


class ExecutionSpec(_Strict):
    """How the model's chunks are best executed, as `dp-ros bench runtime --record` found."""

    mode: Literal["replace", "ensemble", "rtc"]
    infer_every: int = Field(ge=0)
    """Steps between two inferences; 0: back to back."""


class Manifest(_Strict):
    """Contents of `manifest.json`; `load_manifest` reads and checks it."""

    _later: ClassVar[frozenset[str]] = frozenset({"action_errors"})

    schema_version: int
    name: str
    task: dict[str, Any]
    task_digest: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    normalization: dict[str, dict[str, list[float]]]
    """`{stream or "action": {"min", "max"}}` mapped to [-1, 1]; baked into the graph."""
    network: AnyNetwork
    sampler: SamplerSpec
    """Means nothing to a network that does not denoise."""
    files: dict[str, FileSpec]
    execution: ExecutionSpec | None = None
    """None: chunks replace each other every n_action_steps."""
    provenance: Provenance | None = None
    scores: list[ScoreSummary] = Field(default_factory=list)
    action_errors: dict[str, float] = Field(default_factory=dict)
    """By engine: how much its actions differ from eager torch's at most, in their range of 2 (`bench --record`)."""

    @field_validator("files")
    @classmethod
    def _inside_the_folder(cls, files: dict[str, FileSpec]) -> dict[str, FileSpec]:
        for name in files:
            if Path(name).name != name or name in (".", "..", ""):
                raise ValueError(f"{name!r} is not a plain file name")
        return files

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.execution is not None and self.execution.mode == "rtc" and self.prefix == "none":
            raise ValueError("execution.mode rtc needs a model that takes a prefix; export it again")
        if self.sampler.warm_start and self.prefix == "none":
            raise ValueError("sampler.warm_start needs a model that takes a prefix; export it again")
        return self

    @property
    def prefix(self) -> PrefixKind:
        """How the model takes a `Prefix`: not at all, led towards it (guided), or as it learnt to (trained)."""
        if PREFIX_INPUT not in self.inputs:
            return "none"
        return "trained" if self.network.prefix_steps else "guided"

    @functools.cached_property
    def model_id(self) -> str:
        """Name and a short hash of the files; what messages and reports call the model."""
        hashes = "".join(f"{name}:{spec.sha256}\n" for name, spec in sorted(self.files.items()))
        return f"{self.name}-{hashlib.sha256(hashes.encode()).hexdigest()[:8]}"

    def task_spec(self, source: str = "manifest") -> TaskSpec:
        """The task that the model was made for, checked."""
        return TaskSpec.from_dict(self.task, source=f"{source}: task")


def load_manifest(folder: str | Path, *, verify: bool = True) -> Manifest:
    """Read the manifest of a model folder.

    Args:
        folder: the model folder.
        verify: compare the hash of every listed file.

    Raises:
        ManifestError: naming what is missing, damaged, or newer than this version.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        reason = (
            "is a file, expected a folder" if folder.exists() else "is not there, expected a model folder"
        )
        raise ManifestError(f"model {folder}: {reason} with {MANIFEST_FILE}, as `dp-ros export` writes it")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"model {folder}: has no {MANIFEST_FILE}; give a folder that `dp-ros export` wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: is not readable as JSON ({error}); export the model again") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ManifestError(f"{path}: schema_version: got {version!r}, expected 1 to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise ManifestError(
            f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this "
            "version of dp_ros reads; update dp_ros, or export the model with this version"
        )
    try:
        manifest = Manifest.model_validate(data)
        manifest.task_spec(str(path))
    except ValidationError as error:
        raise ManifestError(f"{path}: " + "\n  ".join(explain(error))) from None
    except TaskError as error:
        raise ManifestError(str(error)) from None
    if verify:
        for name in manifest.files:
            verify_file(folder, manifest, name)
    return manifest


def verify_file(folder: Path, manifest: Manifest, name: str) -> Path:
    """Path of a file of the model, after comparing its hash with the manifest's.

    Raises:
        ManifestError: if the file is missing or differs.
    """
    path = Path(folder) / name
    try:
        found = file_spec(path)
    except OSError as error:
        raise ManifestError(
            f"model {folder}: {name} is listed in {MANIFEST_FILE} but cannot be read ({error.strerror}); "
            "copy the whole folder, or export the model again"
        ) from None
    wanted = manifest.files[name]
    if found != wanted:
        raise ManifestError(
            f"model {folder}: {name} is not the file that was exported ({found.bytes} bytes, sha256 "
            f"{found.sha256[:12]}...; the manifest says {wanted.bytes} bytes, {wanted.sha256[:12]}...); "
            "copy the folder again (with Git LFS, fetch its files) or export the model again"
        )
    return path


def file_spec(path: Path) -> FileSpec:
    """Hash and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileSpec(sha256=digest, bytes=path.stat().st_size)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write or replace the manifest; a reader sees the old one or the new one, never half of one."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
    part = folder / f".{MANIFEST_FILE}.part"
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / MANIFEST_FILE)


def utc_now() -> str:
    """Now, as manifests write it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def explain(error: ValidationError) -> list[str]:
    """One line for each problem that pydantic found: key, what was given, what is expected."""
    lines = []
    for problem in error.errors():
        key = ".".join(_key_as_written(problem["loc"])) or "the whole"
        if problem["type"] == "missing":
            lines.append(f"{key}: is missing")
        elif problem["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
        else:
            given = repr(problem["input"])
            message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
            lines.append(f"{key}: got {given if len(given) < 80 else given[:77] + '...'}, {message}")
    return lines


def _key_as_written(location: tuple[int | str, ...]) -> list[str]:
    """Names that lead to a value; pydantic puts the kind of a network between, which no file has."""
    names = [str(part) for part in location]
    kinds = {get_args(spec.model_fields["kind"].annotation)[0] for spec in get_args(get_args(AnyNetwork)[0])}
    return names[:1] + names[2:] if names[:1] == ["network"] and names[1:2] and names[1] in kinds else names
