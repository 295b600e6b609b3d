"""Errors that a person can cause, and therefore must be able to read.

Everything that goes wrong because of a file, an argument or a message from outside is raised as
`UserError`; the command line prints it without a traceback. The message says what was given,
what was expected and what to do. A bug in this package is any other exception.
"""

from __future__ import annotations


class UserError(ValueError):
    """Something the person at the keyboard gave, or forgot, and can put right."""
