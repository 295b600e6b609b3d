"""Where the episodes of a bag begin and end, said in the bag itself.

A `std_msgs/String` with JSON, so that Foxglove and `ros2 topic echo` show it. Easy to get wrong: a bag comes from
anywhere, so nothing that it says is taken before its type is checked.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from dp_ros.data.layout import NO_SEED

MARK_TOPIC, MARK_TYPE = "/recorder/episode", "std_msgs/msg/String"
_LONGEST = 100_000


@dataclass(frozen=True)
class EpisodeMark:
    """The beginning or end of an episode.

    Attributes:
        event: begin or end.
        index: of the episode. begin_ns: time of its first row, ns. end_ns: of its last; None at the beginning.
        seed: of its start state; NO_SEED where it had none. success: what the operator said; None: nothing.
        info: texts about it.
    """

    event: str
    index: int
    begin_ns: int
    end_ns: int | None = None
    seed: int = NO_SEED
    success: bool | None = None
    info: dict[str, str] = field(default_factory=dict)

    def said(self) -> tuple[int, bool | None, dict[str, str]]:
        """Seed, success and texts, as a recording keeps them."""
        return self.seed, self.success, dict(self.info)

    def to_json(self) -> str:
        """As `from_json` takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EpisodeMark:
        """Read a mark. Raises ValueError, saying what is wrong."""
        if len(text) > _LONGEST:
            raise ValueError(f"a mark has {len(text)} characters")
        try:
            given: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected JSON, got {text[:60]!r}: {error}") from None
        if not isinstance(given, dict) or set(given) - set(cls.__dataclass_fields__):
            raise ValueError(f"expected {', '.join(cls.__dataclass_fields__)}, got {text[:60]!r}")
        info = given.get("info", {})
        numbers = [given.get("index"), given.get("begin_ns"), given.get("seed", NO_SEED)]
        if given.get("end_ns") is not None:
            numbers.append(given["end_ns"])
        ok = (
            given.get("event") in ("begin", "end")
            and all(type(number) is int and abs(number) < 2**63 for number in numbers)
            and given.get("success") in (None, True, False)
            and isinstance(info, dict)
            and all(isinstance(word, str) for item in info.items() for word in item)
        )
        if not ok:
            raise ValueError(f"expected a mark of an episode, got {text[:60]!r}")
        return cls(**given)
