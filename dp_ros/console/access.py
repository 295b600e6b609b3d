"""Who may talk to the console: a token where it is reachable from elsewhere, and no page of another site anywhere.

On loopback everybody who is logged in on this machine may use it without a token. Easy to get wrong: a page of another
site that the operator has open can connect to loopback, too, and its name may be made to resolve to 127.0.0.1 (DNS
rebinding); so `Host` must be a name that this console was given, and `Origin` that same one.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from dp_ros.errors import UserError

COOKIE = "dp_ros_console"
MIN_TOKEN = 12
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether a host to bind to is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """What a request must bring along.

    Attributes:
        host: that the server is bound to.
        token: secret; empty: none is needed, only possible on loopback.
        names: under which the console may be addressed beside `host` and, on loopback, localhost.

    Raises:
        UserError: no token, or a short one, where the console is reachable from elsewhere.
    """

    host: str
    token: str = ""
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            raise UserError(
                f"parameter host: {self.host} can be reached from other machines; give a token, too "
                "(token:=$(openssl rand -hex 16)), or host:=127.0.0.1"
            )
        if self.token and len(self.token) < MIN_TOKEN:
            raise UserError(
                f"parameter token: {len(self.token)} characters can be guessed, expected {MIN_TOKEN} or more"
            )

    def refusal(self, *, host: str, origin: str | None, token: str | None) -> str:
        """Why a request is refused, for a person; empty if it is not.

        Args:
            host: header `Host`.
            origin: header `Origin`; None where there is none.
            token: that it brought along.
        """
        asked = _name(f"//{host}")
        allowed = {name.lower() for name in self.names}
        if is_loopback(self.host):
            allowed |= set(_LOOPBACK_NAMES)
        if self.host not in ("0.0.0.0", "::"):
            allowed.add(self.host.lower())
        elif asked and _is_address(asked):
            allowed.add(asked)  # a bare address cannot be made to point elsewhere
        if asked not in allowed:
            return f"this console is not called {host!r}; start it with names:=[{asked}] if it is"
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return f"requests from {origin} are refused"
        if self.token and not hmac.compare_digest((token or "").encode(), self.token.encode()):
            return "a token is needed: open the address with ?token=... that the node's log names"
        return ""


def _name(url: str) -> str:
    """Host name of a URL without its port, lower case; empty if there is none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
