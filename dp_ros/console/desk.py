"""Who holds control: one of the people who have the console open, or nobody.

Watching and stopping are everybody's. Control is given up, or lost with the connection, and never taken from somebody
who still has it. Easy to get wrong: the robot must be let go the moment nobody holds it.
"""

from __future__ import annotations

from collections.abc import Callable


class Desk:
    """The place from which the robot is controlled.

    Args:
        let_go: called when whoever had control has it no more.
    """

    def __init__(self, let_go: Callable[[], None]) -> None:
        self._let_go = let_go
        self._people: dict[int, str] = {}
        self._next = 1
        self.holder: int | None = None
        """Who has control."""

    def arrive(self) -> int:
        """Somebody opens the console; returns their number."""
        person, self._next = self._next, self._next + 1
        self._people[person] = f"operator {person}"
        return person

    def leave(self, person: int) -> None:
        """Somebody's connection is gone."""
        self._people.pop(person, None)
        self.give_up(person)

    def take(self, person: int) -> str:
        """Somebody wants control; returns why they do not get it, or an empty text."""
        if self.holder not in (None, person):
            return f"{self._people[self.holder]} has control; ask them to release it"  # type: ignore[index]
        self.holder = person
        return ""

    def give_up(self, person: int) -> None:
        """Somebody does not want control any more; nothing if they had none."""
        if self.holder == person:
            self.holder = None
            self._let_go()

    def has(self, person: int) -> bool:
        """Whether somebody has control."""
        return self.holder == person

    def name(self, person: int) -> str:
        """What somebody is called."""
        return self._people[person]

    @property
    def n_people(self) -> int:
        """How many have the console open."""
        return len(self._people)
