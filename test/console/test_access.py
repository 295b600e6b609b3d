"""Who may talk to the console."""

from __future__ import annotations

from typing import Any

import pytest

from dp_ros.console.access import Access, is_loopback
from dp_ros.errors import UserError

TOKEN = "correct horse battery"


def asked(access: Access, host: str, **more: Any) -> str:
    return access.refusal(host=host, origin=more.get("origin"), token=more.get("token"))


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert asked(Access("127.0.0.1"), host) == ""
    assert asked(Access("127.0.0.1"), host, origin=f"http://{host}") == ""


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "", "[::1", "10.0.0.5"]
)
def test_a_name_that_is_made_to_point_here_is_refused(host: str) -> None:
    assert "this console is not called" in asked(Access("127.0.0.1"), host)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1:9090", "null", "", "http://127.0.0.1:8080.evil.example"],
)
def test_a_page_of_another_site_is_refused(origin: str) -> None:
    assert "are refused" in asked(Access("127.0.0.1"), "127.0.0.1:8080", origin=origin)


def test_where_others_can_reach_it_a_token_is_needed() -> None:
    with pytest.raises(UserError, match="can be reached from other machines; give a token"):
        Access("0.0.0.0")
    with pytest.raises(UserError, match="5 characters can be guessed, expected 12"):
        Access("0.0.0.0", "short")
    access = Access("0.0.0.0", TOKEN, ["lab3"])
    assert asked(access, "10.0.0.5:8080", token=TOKEN) == ""
    assert asked(access, "lab3:8080", token=TOKEN) == ""
    assert "a token is needed" in asked(access, "10.0.0.5:8080")
    assert "a token is needed" in asked(access, "10.0.0.5:8080", token="wrong")
    assert "a token is needed" in asked(access, "10.0.0.5:8080", token="ä")
    assert "this console is not called" in asked(access, "evil.example", token=TOKEN)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
    + [("lab3", False), ("10.0.0.5", False)],
)
def test_which_addresses_stay_on_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
