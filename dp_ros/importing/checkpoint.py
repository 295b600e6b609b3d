"""Reads checkpoint files of the Diffusion Policy reference without running code that they bring.

They are torch archives whose pickle holds an OmegaConf configuration beside the weights. torch's own reader for
weights (`weights_only`) refuses every class it does not know; it is told a list of harmless names, for each of which
it makes an empty object of ours that only keeps its values. Easy to get wrong: `pickles` in these files are bytes
with a pickle of their own, and are never opened.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from dp_ros.errors import UserError


class Kept:
    """Stands for an object of a class that is not loaded; holds what the file says of it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _named_type(name: str) -> None:
    """Stands for what dill calls to find a type by its name."""


_OMEGACONF = {
    "base": ("ContainerMetadata", "Metadata"),
    "dictconfig": ("DictConfig",),
    "listconfig": ("ListConfig",),
    "nodes": ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "PathNode"),
}
_TYPES = ("dict", "list", "str", "int", "float", "bool", "tuple", "set")
#: What may be named in a file, and what it becomes.
_ALLOWED: list[Any] = [
    *((Kept, f"omegaconf.{module}.{name}") for module, names in _OMEGACONF.items() for name in names),
    *((Kept, f"typing.{name}") for name in ("Any", "Union", "Optional", "Dict", "List")),
    *((Kept, f"{module}.{name}") for module in ("builtins", "__builtin__") for name in _TYPES),
    (_named_type, "dill._dill._load_type"),
    (_named_type, "dill.dill._load_type"),
    (defaultdict, "collections.defaultdict"),
]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The payload of a checkpoint: `cfg` as plain dicts, lists and values, `state_dicts` of tensors.

    Raises:
        UserError: if the file cannot be read, or asks for anything else than data.
    """
    if not path.is_file():
        raise UserError(f"{path}: is not a file; expected a .ckpt of real-stanford/diffusion_policy")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = (
            str(error).split("GLOBAL ")[-1].split(" was not")[0] if "GLOBAL " in str(error) else str(error)
        )
        raise UserError(
            f"{path}: refused, because reading it would run code or make objects beyond data ({reason[:200]}). "
            "Where you trust the file, open it with the project that wrote it and save "
            "{'cfg': OmegaConf.to_container(cfg), 'state_dicts': {'ema_model': state_dict}} "
            "with torch.save; then import that"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is not readable as a torch checkpoint ({str(error)[:200]}); copy it again"
        ) from None
    if not isinstance(payload, dict) or not {"cfg", "state_dicts"} <= set(payload):
        raise UserError(
            f"{path}: expected the keys cfg and state_dicts, as save_checkpoint of the reference writes them"
        )
    payload["cfg"] = _plain(payload["cfg"])
    if not isinstance(payload["cfg"], dict) or not isinstance(payload["state_dicts"], dict):
        raise UserError(f"{path}: cfg and state_dicts: expected mappings")
    return payload


def _plain(value: Any) -> Any:
    """A configuration as dicts, lists and values; interpolations stay the text they are."""
    if isinstance(value, Kept):
        state = getattr(value, "state", None)
        if not isinstance(state, dict):
            return None
        return _plain(state["_content"] if "_content" in state else state.get("_val"))
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
