"""Compiled code against the policy that it stands for: every shape of network, sampler and prefix."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference import export  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import (  # noqa: E402
    PREFIX_INPUT,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    Manifest,
    NetworkSpec,
    TensorSpec,
    file_spec,
    load_manifest,
    write_manifest,
)
from dp_ros.inference.native import engine as native  # noqa: E402
from dp_ros.inference.native import library  # noqa: E402
from dp_ros.inference.native.engine import NativeEngine, why_not  # noqa: E402
from dp_ros.inference.native.library import INTERFACE  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec, sampling_noise  # noqa: E402
from dp_ros.inference.torch import sample_batch  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.runtime.prefix import Prefix  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.policies.small import STATISTICS  # noqa: E402
from test.policies.small_image import small_image_policy  # noqa: E402


def policy_of(horizon: int = 16, sampler: dict[str, Any] | None = None, **network: Any) -> DiffusionPolicy:
    """A policy with random weights, those of the norms and all biases included."""
    task = load_task("pusht_state").model_copy(update={"horizon": horizon, "n_action_steps": 2})
    spec = NetworkSpec(**{"widths": (16, 32), "step_dim": 16, **network})
    torch.manual_seed(0)
    policy = DiffusionPolicy(
        task, STATISTICS, spec, SamplerSpec(**{"num_inference_steps": 3, **(sampler or {})})
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return policy.eval()


def folder_of(policy: DiffusionPolicy, folder: Path) -> Path:
    """A model folder with weights and no graph, which takes no time to write."""
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in policy.state_dict().items()}, folder / WEIGHTS_FILE)
    shape = (1, policy.task.horizon, policy.task.action.dim)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="small",
        task=policy.task.model_dump(mode="json"),
        task_digest=policy.task.digest(),
        inputs={PREFIX_INPUT: TensorSpec(shape=shape, dtype="float32", optional=True)},
        outputs={"action": TensorSpec(shape=shape, dtype="float32")},
        normalization=policy.statistics,  # type: ignore[arg-type]
        network=policy.network,
        sampler=policy.sampler,
        files={WEIGHTS_FILE: file_spec(folder / WEIGHTS_FILE)},
    )
    write_manifest(folder, manifest)
    return folder


def noises(policy: DiffusionPolicy, n: int) -> list[np.ndarray[Any, Any]]:
    return [sampling_noise(0, k, (policy.task.horizon, 2)) for k in range(n)]


def plan(horizon: int, n_known: int) -> Prefix:
    planned = np.linspace([100.0, 400.0], [300.0, 200.0], horizon - 1)
    return Prefix.from_plan(planned, n_known=n_known, horizon=horizon)


def differences(policy: DiffusionPolicy, engine: NativeEngine) -> list[float]:
    """Largest ones of four draws from torch's, in shares of an action's range, with and without prefixes."""
    horizon, found = policy.task.horizon, []
    observations = export.made_up_observations(policy, 4)
    for k, (observation, noise) in enumerate(zip(observations, noises(policy, 4), strict=True)):
        prefix = plan(horizon, min(k, horizon - 1)) if k else None
        many = None if prefix is None else Prefix(prefix.actions[None], prefix.weights[None])
        one = {key: value[None] for key, value in observation.items()}
        expected = sample_batch(policy, one, noise[None], many)[0]
        found.append(float(np.abs(engine.sample(observation, noise, prefix) - expected).max()) / 500)
    return found


def largest_difference(policy: DiffusionPolicy, engine: NativeEngine) -> float:
    return max(differences(policy, engine))


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"prefix_steps": 3},
        {"widths": (32, 64, 128), "prefix_steps": 7},  # groups of 4, 8 and 16 channels
        {"widths": (256,)},  # one level; a group is two blocks of outputs
        {"widths": (24, 48)},  # groups of 3 and 6, blocks that are not full
        {"widths": (8, 16, 24, 32)},
        {"kernel_size": 3},
        {"kernel_size": 7},
        {"groups": 1},
        {"groups": 16, "widths": (16, 16)},
    ],
    ids=str,
)
def test_any_network_draws_what_torch_draws(network: dict[str, Any], tmp_path: Path) -> None:
    policy = policy_of(**network)
    engine = load_engine(folder_of(policy, tmp_path / "m"), "native")
    assert isinstance(engine, NativeEngine)
    assert largest_difference(policy, engine) < 1e-5


@pytest.mark.parametrize("horizon", [4, 6, 8, 12, 20, 32])
def test_any_horizon(horizon: int, tmp_path: Path) -> None:
    policy = policy_of(horizon)
    assert largest_difference(policy, load_engine(folder_of(policy, tmp_path / "m"), "native")) < 1e-5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sampler",
    [
        {"method": "ddpm", "num_inference_steps": 20},
        {"method": "dpmsolver++", "num_inference_steps": 6},
        {"method": "dpmsolver++", "num_inference_steps": 20, "clip_sample": False, "prediction": "sample"},
        {"prediction": "sample"},
        {"prediction": "v_prediction"},
        {"clip_sample": False},
        {"temperature": 0.5},
        {"num_inference_steps": 1},
        {"num_inference_steps": 100, "method": "ddpm", "temperature": 0.5},
    ],
    ids=str,
)
def test_any_sampler(sampler: dict[str, Any], tmp_path: Path) -> None:
    policy = policy_of(sampler=sampler, prefix_steps=4)
    assert largest_difference(policy, load_engine(folder_of(policy, tmp_path / "m"), "native")) < 2e-5  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_nothing_but_the_time(threads: int, tmp_path: Path) -> None:
    policy = policy_of(widths=(32, 64, 128))
    folder = folder_of(policy, tmp_path / "m")
    alone, together = load_engine(folder, "native"), load_engine(folder, "native", threads=threads)
    for observation, noise in zip(export.made_up_observations(policy, 5), noises(policy, 5), strict=True):
        assert np.array_equal(alone.sample(observation, noise), together.sample(observation, noise))


def test_a_draw_in_a_batch_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    policy = policy_of(prefix_steps=3, widths=(16, 24))
    engine = load_engine(folder_of(policy, tmp_path / "m"), "native")
    observations, noise = export.made_up_observations(policy, 5), noises(policy, 5)
    prefixes = [plan(16, k) for k in range(5)]
    alone = [engine.sample(*each) for each in zip(observations, noise, prefixes, strict=True)]
    together = engine.sample_batch(
        {key: np.stack([each[key] for each in observations]) for key in observations[0]},
        np.stack(noise),
        Prefix(np.stack([p.actions for p in prefixes]), np.stack([p.weights for p in prefixes])),
    )
    assert np.array_equal(together, np.stack(alone))
    assert np.array_equal(engine.sample(observations[0], noise[0], prefixes[0]), alone[0]), "and alone again"


def round_to_bytes(values: Any, outputs: tuple[int, ...]) -> Any:
    scale = values.abs().amax(outputs, keepdim=True).clamp(min=1e-20) / 127
    return (values / scale).round() * scale


def round_weights(policy: DiffusionPolicy, kind: str) -> None:
    """As the engine does, in place: not those of the first and last convolution, which have few channels."""
    for name, weight in policy.unet.named_parameters():
        if weight.dim() != 3 or min(weight.shape[:2]) < 16:
            continue
        if kind == "native_bf16":
            weight.copy_(weight.bfloat16().float())
        elif "up" in name and "resample" in name:  # two convolutions with two taps each
            for taps in ([3, 1], [2, 0]):
                weight[..., taps] = round_to_bytes(weight[..., taps], (0, 2))
        else:
            weight.copy_(round_to_bytes(weight, (1, 2)))


def round_inputs(policy: DiffusionPolicy, kind: str) -> None:
    """Of the same convolutions, sample by sample, when they come."""
    for module in policy.unet.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() == 3 and min(weight.shape[:2]) >= 16:

            def narrow(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
                (x,) = inputs
                return (x.bfloat16().float() if kind == "native_bf16" else round_to_bytes(x, (1, 2)),)

            module.register_forward_pre_hook(narrow)


@pytest.mark.parametrize("network", [{"prefix_steps": 3}, {"widths": (24, 48)}, {"kernel_size": 7}], ids=str)
@pytest.mark.parametrize("kind", ["native_int8", "native_w8a8", "native_bf16"])
def test_narrow_weights_draw_what_torch_draws_with_numbers_that_are_rounded_so(
    kind: str, network: dict[str, Any], tmp_path: Path
) -> None:
    if not native.library().dp_unet1d_has(native.KINDS[kind]):
        pytest.skip(f"this processor does not compute with {kind}")
    one_pass = {"num_inference_steps": 1, "prediction": "sample", "clip_sample": False}
    policy = policy_of(sampler=one_pass, **network)
    engine = load_engine(folder_of(policy, tmp_path / "m"), kind)
    assert engine.name == kind
    plain = np.median(differences(policy, engine))  # type: ignore[arg-type]
    with torch.no_grad():
        round_weights(policy, kind)
    if kind != "native_int8":
        round_inputs(policy, kind)
    # Not the largest: a number between two steps may be rounded otherwise where sums are added in another order.
    rounded = np.median(differences(policy, engine))  # type: ignore[arg-type]
    assert rounded < (1e-4 if kind == "native_int8" else 1e-6)
    assert plain > 10 * rounded, "it does round"


def test_eight_bits_are_the_same_with_and_without_wide_instructions(tmp_path: Path) -> None:
    policy = policy_of(widths=(32, 64, 128), kernel_size=7)
    engine = load_engine(folder_of(policy, tmp_path / "m"), "native_int8")
    seen, noise = export.made_up_observations(policy, 3), noises(policy, 3)
    as_usual = [engine.sample(*each) for each in zip(seen, noise, strict=True)]
    library.library().dp_unet1d_use_wide(0)
    try:
        narrow = [engine.sample(*each) for each in zip(seen, noise, strict=True)]
    finally:
        library.library().dp_unet1d_use_wide(1)
    assert np.array_equal(narrow, as_usual)


_NO_ROOM = """
import pathlib, resource, sys
from dp_ros.errors import UserError
from dp_ros.inference.load import load_engine

def load(threads):
    return load_engine(sys.argv[1], "native", threads=threads)

load(1)
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 300 * 2**20,) * 2)
try:
    load(500)
except UserError as error:
    print(error)
load(2)
"""


def test_threads_that_the_system_does_not_give_are_refused_and_the_process_lives(tmp_path: Path) -> None:
    folder = folder_of(policy_of(), tmp_path / "m")
    done = subprocess.run([sys.executable, "-c", _NO_ROOM, str(folder)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "engine native: no memory or no thread for the model (500 threads)\n"


def test_a_kind_that_the_processor_does_not_compute_with_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        @staticmethod
        def dp_unet1d_has(kind: int) -> int:
            return int(kind == native.KINDS["native"])

    folder = folder_of(policy_of(), tmp_path / "m")
    monkeypatch.setattr(native, "library", lambda: Old())
    with pytest.raises(
        UserError, match="native_bf16: this processor has no AVX-512 BF16, .*; use engine auto"
    ):
        load_engine(folder, "native_bf16")


@pytest.mark.parametrize("shape", [(40, 1792), (22, 100), (1, 30000), (132, 7168)])
def test_products_in_slices_are_the_same_bit_for_bit_and_small(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    row, matrix = (draw.standard_normal(n).astype(np.float32) for n in (shape[:1], shape))
    slices = native.in_slices(matrix)
    assert all(part.size <= max(native.MOST_PRODUCTS, 16 * len(row)) for part in slices)
    np.testing.assert_array_equal(np.concatenate([row @ part for part in slices]), row @ matrix)


def test_calls_from_several_threads_wait_for_one_another(tmp_path: Path) -> None:
    policy = policy_of()
    engine = load_engine(folder_of(policy, tmp_path / "m"), "native", threads=2)
    (observation, *_), noise = export.made_up_observations(policy, 1), noises(policy, 8)
    expected = [engine.sample(observation, each) for each in noise]
    found: list[Any] = [None] * len(noise)

    def draw(k: int) -> None:
        found[k] = [engine.sample(observation, noise[k]) for _ in range(20)]

    threads = [threading.Thread(target=draw, args=(k,)) for k in range(len(noise))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, draws in enumerate(found):
        assert all(np.array_equal(draw, expected[k]) for draw in draws)


def test_engines_that_are_gone_leave_no_thread(tmp_path: Path) -> None:
    folder = folder_of(policy_of(), tmp_path / "m")

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    load_engine(folder, "native", threads=4)
    before = threads()
    for _ in range(5):
        load_engine(folder, "native", threads=4)
    assert threads() == before


def test_pictures_are_encoded_once_each(tmp_path: Path, pieces_exported_once: None) -> None:
    policy = small_image_policy(num_inference_steps=3)
    export.export_policy(policy, tmp_path / "m")
    engine = load_engine(tmp_path / "m", "native")
    assert isinstance(engine, NativeEngine)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    encoded = engine.pictures_encoded
    for first in range(3):
        observation = {
            "image": pictures[first : first + 2],
            "agent_pos": rng.uniform(0, 512, (2, 2)).astype("f4"),
        }
        noise = sampling_noise(0, first, (16, 2))
        one = {key: value[None] for key, value in observation.items()}
        expected = sample_batch(policy, one, noise[None])[0]
        assert np.abs(engine.sample(observation, noise) - expected).max() / 500 < 1e-5
        assert engine.pictures_encoded - encoded == first + 2, "two at first, then one more each time"


def test_a_picture_that_was_changed_in_place_is_another_one(
    tmp_path: Path, pieces_exported_once: None
) -> None:
    policy = small_image_policy(num_inference_steps=3)
    export.export_policy(policy, tmp_path / "m")
    engine = load_engine(tmp_path / "m", "native")
    observation = export.made_up_observations(policy, 1)[0]
    before = engine.sample(observation, sampling_noise(0, 0, (16, 2)))
    observation["image"][:] = 255 - observation["image"]
    assert not np.array_equal(engine.sample(observation, sampling_noise(0, 0, (16, 2))), before)


def test_what_it_is_not_made_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(policy_of(), tmp_path / "m")
    manifest = load_manifest(folder)
    assert why_not(manifest) == ""

    def other(**network: Any) -> Manifest:
        return manifest.model_copy(update={"network": manifest.network.model_copy(update=network)})

    assert "kernel_size is 9, it is made for 3, 5, 7" in why_not(other(kernel_size=9))
    assert "conditioning global, the model's is local" in why_not(other(conditioning="local"))
    monkeypatch.setattr(library, "LIBRARY", "libnot_there.so")
    library.library.cache_clear()
    library.why_no_library.cache_clear()
    try:
        assert "libnot_there.so cannot be used; build the package" in why_not(manifest)
        with pytest.raises(UserError, match="libnot_there.so cannot be used"):
            load_engine(folder, "native")
        monkeypatch.undo()
        monkeypatch.setattr(library, "INTERFACE", 99)
        library.library.cache_clear()
        library.why_no_library.cache_clear()
        assert f"has interface {INTERFACE}, this code needs 99" in why_not(manifest), (
            "a library of another version is not called"
        )
        monkeypatch.setattr(library.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(library, "cpu_flags", lambda: {"sse2", "avx2"})
        library.why_no_library.cache_clear()
        assert why_not(manifest) == "the processor has no fma"
    finally:
        library.library.cache_clear()
        library.why_no_library.cache_clear()
