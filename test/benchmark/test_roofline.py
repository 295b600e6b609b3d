"""Counting what a network computes, and what a machine can."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.benchmark.roofline import Limits, Work, limits_of_machine, work_of  # noqa: E402
from dp_ros.policies.unet1d import ConditionalUnet1d  # noqa: E402
from test.inference.test_native import policy_of  # noqa: E402
from test.policies.small import small_policy  # noqa: E402


def test_the_work_of_a_call_is_what_its_layers_add_up_to() -> None:
    policy = small_policy()
    unet, n_steps = policy.unet, policy.sampler.num_inference_steps
    assert isinstance(unet, ConditionalUnet1d)
    flops, parameters = 0, 0
    shapes: list[tuple[torch.nn.Module, int]] = []
    convolutions = [m for m in unet.modules() if isinstance(m, torch.nn.Conv1d | torch.nn.ConvTranspose1d)]
    for module in convolutions:
        module.register_forward_hook(
            lambda m, given, made: shapes.append((m, max(given[0].shape[2], made.shape[2])))
        )
    with torch.inference_mode():
        actions, film = torch.zeros(1, 16, 2), torch.zeros(1, sum(unet.film_sizes))
        unet.denoise(actions, film)
    for module, length in shapes:
        places = (
            length // module.stride[0]
        )  # a transposed convolution has a product for each place that goes in
        flops += 2 * module.weight.numel() * places
    parameters = sum(
        p.numel() for name, p in unet.named_parameters() if not name.startswith(("film", "step_"))
    )
    work = work_of(policy)
    assert (work.steps, work.step_flops, work.step_bytes) == (n_steps, flops, 4 * parameters)
    observed = 2 * (18 + 2)
    assert work.once_flops == 2 * observed * sum(unet.film_sizes)
    assert work.flops == n_steps * flops + work.once_flops


def test_an_engine_reads_the_weights_that_it_keeps() -> None:
    policy = policy_of()
    rounded = [p for p in policy.unet.parameters() if p.dim() == 3 and min(p.shape[:2]) >= 16]
    assert rounded
    n, outputs = sum(p.numel() for p in rounded), sum(p.shape[0] for p in rounded)
    plain = work_of(policy)
    assert work_of(policy, "native") == plain
    assert work_of(policy, "native_int8").step_bytes == plain.step_bytes - 3 * n + 4 * outputs
    assert work_of(policy, "native_bf16").step_bytes == plain.step_bytes - 2 * n
    assert work_of(policy, "native_int8").once_bytes == plain.once_bytes, (
        "what runs once a call stays float32"
    )


def test_the_limit_is_the_slower_of_computing_and_reading() -> None:
    work = Work(step_flops=8e6, step_bytes=1e6, once_flops=0.0, once_bytes=4e6, steps=10)
    computing = Limits(flops_per_s=1e9, bytes_per_s=1e12)
    reading = Limits(flops_per_s=1e15, bytes_per_s=1e9)
    assert computing.seconds(work) == pytest.approx(10 * 8e-3 + 4e-6)
    assert reading.seconds(work) == pytest.approx(10 * 1e-3 + 4e-3)


def test_the_machine_is_measured_and_the_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    limits = limits_of_machine(1e5, threads=1)
    assert 1e8 < limits.flops_per_s < 1e14
    assert 1e8 < limits.bytes_per_s < 1e14
    assert torch.get_num_threads() == before
