"""What torch exports for a graph, kept for the next graph of the same network: exporting it takes seconds.

Only torch's export of the two pieces is kept; each graph is put together anew, with its own steps, temperature and
prefix. Easy to get wrong: a piece that is kept for a policy it does not fit; `export_policy` holds every graph
against torch, so it would refuse it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

#: What the steps of a graph differ in comes as constants or is put around them, not into what torch exports.
AROUND_THE_PIECES = {"num_inference_steps", "temperature", "prediction", "warm_start"}


@pytest.fixture(scope="session")
def pieces_exported_once() -> Iterator[None]:
    """From here on, pieces of equal networks with equal weights are exported once."""
    pytest.importorskip("torch")
    from dp_ros.inference import graph

    kept: dict[str, Any] = {}
    export = graph.exported_graph

    def exported_once(module: Any, *arguments: Any) -> Any:
        policy = module.policy
        weights = hashlib.sha256()
        for name, value in policy.state_dict().items():
            weights.update(name.encode() + value.numpy().tobytes())
        sampler = policy.sampler.model_dump(exclude=AROUND_THE_PIECES)
        if isinstance(module, graph.ObservationHalf):
            sampler = {}
        of = (type(module), getattr(module, "camera", None))
        parts = (*of, policy.task.digest(), policy.network, sampler, arguments, weights.hexdigest())
        if repr(parts) not in kept:
            kept[repr(parts)] = export(module, *arguments)
        return kept[repr(parts)]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(graph, "exported_graph", exported_once)
        yield
