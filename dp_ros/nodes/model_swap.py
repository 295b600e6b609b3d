"""The service `~/load_model`: another model without a restart, loaded in a thread while the old one still runs.

Easy to get wrong: loading takes seconds, in which the node may be cleaned up; a model that is ready too late is
dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.task import Future

from dp_ros.errors import UserError
from dp_ros.inference.engine import Engine
from dp_ros.inference.load import load_engine
from dp_ros.srv import LoadModel


def load_model(node: Any, folder: str) -> Engine:
    """Load a model as the node's parameters say; takes seconds and may be called from any thread.

    Raises:
        UserError: if it cannot be loaded.
    """
    if not folder:
        raise UserError("parameter model is empty; give a model folder, e.g. model:=models/pusht_state")

    def value(name: str) -> Any:
        return node.get_parameter(name).value

    steps = value("num_inference_steps") or None
    return load_engine(
        folder,
        engine=value("engine"),
        threads=value("threads"),
        num_inference_steps=steps,
        affinity=value("affinity"),
        spin=value("spin"),
    )


class ModelSwap:
    """The service of one node, in whichever state it is.

    Args:
        node: an rclpy node.
        use: puts an engine into use and returns its model's id, on the executor's thread; raises UserError.
    """

    def __init__(self, node: Any, use: Callable[[Engine], str]) -> None:
        self._node, self._use = node, use
        self._loading: tuple[Future, list[Engine | Exception]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load model")
        self._loaded = node.create_guard_condition(self._deliver)
        # A group of its own: a callback that waits holds its group, and all else of the node is in the default one.
        self._service = node.create_service(
            LoadModel, "~/load_model", self._serve, callback_group=MutuallyExclusiveCallbackGroup()
        )

    def destroy(self) -> None:
        """Remove the service; a model under way is dropped."""
        if self._loading is not None:
            future, self._loading = self._loading[0], None
            future.set_result(UserError("the node was cleaned up while the model was loaded"))
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._node.destroy_service(self._service)
        self._node.destroy_guard_condition(self._loaded)

    async def _serve(self, request: Any, response: Any) -> Any:
        if self._loading is not None:
            response.message = "another model is being loaded"
            return response
        future, found = Future(), list[Engine | Exception]()
        self._loading = future, found

        def load() -> None:
            try:
                found.append(load_model(self._node, request.model))
            except Exception as error:  # whatever it is, the caller waits for an answer
                found.append(error)
            if self._loading is not None:
                self._loaded.trigger()

        self._thread.submit(load)
        outcome = await future
        if isinstance(outcome, Exception):
            response.message = str(outcome)
        else:
            response.success, response.model_id, response.message = True, outcome, f"model {outcome}"
        return response

    def _deliver(self) -> None:
        if self._loading is None or not self._loading[1]:
            return
        (future, (found,)), self._loading = self._loading, None
        try:
            future.set_result(found if isinstance(found, Exception) else self._use(found))
        except UserError as error:
            future.set_result(error)
