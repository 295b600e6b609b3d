"""Keys that came later than the first files: not written while they have their default.

So older tasks, recordings and models keep their digests, and older versions read what does not need what they lack.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class WithLaterKeys(BaseModel):
    """A part of a file some keys of which came later."""

    _later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        for key in self._later:
            if key in dumped and getattr(self, key) == type(self).model_fields[key].get_default(
                call_default_factory=True
            ):
                del dumped[key]
        return dumped
