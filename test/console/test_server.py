"""The web server with a stand-in for the robot, and clients that behave well and badly, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_ros.console.access import Access
from dp_ros.console.episodes import Episodes
from dp_ros.console.messages import MOST_BYTES, Do, parse
from dp_ros.console.server import MOST_MALFORMED, Answer, ConsoleServer
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec
from test.data.recorded import random_episode, small_task


class StandIn:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.slow: Future[Answer] | None = None

    def facts(self) -> dict[str, Any]:
        return {"task": "stand-in", "cameras": ["camera"]}

    def state(self) -> dict[str, Any]:
        return {"told": len(self.told)}

    def picture(self, camera: int, after_ns: int) -> tuple[int, bytes] | None:
        return None if after_ns else (7, b"jpeg")

    def do(self, request: Do) -> Future[Answer]:
        self.told.append(request.do)
        if self.slow is not None:
            return self.slow
        answer: Future[Answer] = Future()
        answer.set_result((True, f"did {request.do}"))
        return answer

    def place(self, values: Sequence[float]) -> str:
        self.told.append(("place", list(values)))
        return "" if len(values) == 2 else "expected 2 values"

    def drive(self, values: Sequence[float]) -> str:
        self.told.append(("drive", list(values)))
        return ""

    def let_go(self) -> None:
        self.told.append("let go")

    def deadman(self, held: bool) -> None:
        self.told.append(("deadman", held))

    def replay(self, episode: int, task: TaskSpec, commands: Any, speed: float) -> Future[Answer]:
        self.told.append(("replay", episode, task.name, commands.shape, speed))
        answer: Future[Answer] = Future()
        answer.set_result((True, "replayed"))
        return answer

    def replay_watched(self) -> None:
        self.told.append("watched")


class Person:
    """One connection."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._id = 0

    async def until(self, kind: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                message = await self.socket.receive()
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
                if message.type == aiohttp.WSMsgType.TEXT and kind(content := json.loads(message.data)):
                    return content

    async def ask(self, do: str, **more: Any) -> tuple[bool, str]:
        self._id += 1
        await self.socket.send_json({"id": self._id, "do": do, **more})
        answer = await self.until(lambda message: message.get("id") == self._id)
        return answer["ok"], answer["message"]

    async def error(self) -> str:
        return str((await self.until(lambda message: "error" in message))["error"])


@pytest.fixture
def robot() -> StandIn:
    return StandIn()


@pytest.fixture
def server(robot: StandIn, tmp_path: Path) -> Iterator[ConsoleServer]:
    with EpisodeWriter(tmp_path / "x.zarr", small_task()) as writer:
        for seed in (3, 4):
            for step in random_episode(small_task(), 6, seed):
                writer.add(step)
            writer.save(seed, success=True if seed == 3 else None, info={"operator": "anna"})
    made = ConsoleServer(robot, Episodes(tmp_path / "x.zarr"), Access("127.0.0.1"), 0)
    yield made
    made.close()


def with_session(work: Callable[[aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            await work(session)

    asyncio.run(run())


async def join(session: aiohttp.ClientSession, server: ConsoleServer) -> Person:
    url = f"http://127.0.0.1:{server.port}"
    return Person(await session.ws_connect(f"{url}/ws", origin=url))


async def told(robot: StandIn, what: Any) -> None:
    async with asyncio.timeout(10):
        while what not in robot.told:
            await asyncio.sleep(0.01)


def test_one_has_control_and_others_watch(server: ConsoleServer, robot: StandIn) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        anna, ben = await join(session, server), await join(session, server)
        await anna.socket.send_json({"place": [1.0, 2.0]})
        assert await anna.error() == "take control first"
        assert await anna.ask("record.start") == (False, "take control first")
        assert await anna.ask("control.take") == (True, "you have control")
        done, message = await ben.ask("control.take")
        assert not done and message == "operator 1 has control; ask them to release it"
        state = await ben.until(lambda m: m.get("state", {}).get("control", {}).get("holder"))
        assert state["state"]["control"] == {"yours": False, "holder": "operator 1", "people": 2}
        await anna.socket.send_json({"place": [1.0, 2.0]})
        await told(robot, ("place", [1.0, 2.0]))
        assert await anna.ask("record.start") == (True, "did record.start")
        await ben.socket.send_json({"drive": [1.0, 2.0]})
        assert await ben.error() == "take control first"
        assert await ben.ask("policy.emergency_stop") == (True, "did policy.emergency_stop")  # is everybody's
        assert await ben.ask("policy.cancel") == (True, "did policy.cancel")
        assert await anna.ask("control.release") == (True, "released")
        assert await ben.ask("control.take") == (True, "you have control")

    with_session(work)
    assert ("drive", [1.0, 2.0]) not in robot.told


@pytest.mark.parametrize("way", ["closed", "cut"])
def test_a_lost_connection_lets_go_and_gives_control_back(
    server: ConsoleServer, robot: StandIn, way: str
) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        anna, ben = await join(session, server), await join(session, server)
        await anna.ask("control.take")
        await anna.socket.send_json({"place": [1.0, 2.0]})
        await told(robot, ("place", [1.0, 2.0]))
        assert "let go" not in robot.told
        if way == "closed":
            await anna.socket.close()
        else:
            transport = anna.socket._conn.transport  # type: ignore[union-attr]
            transport.abort()
        await told(robot, "let go")
        assert ("deadman", False) in robot.told
        assert (await ben.ask("control.take"))[0]

    with_session(work)


def test_who_has_control_may_replay_an_episode_and_everybody_may_stop_it(
    server: ConsoleServer, robot: StandIn
) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        anna, ben = await join(session, server), await join(session, server)
        await anna.ask("control.take")
        assert await ben.ask("robot.replay", episode=0) == (False, "take control first")
        await ben.socket.send_json({"replay": True})  # counts for nothing, and is no mistake
        assert (await ben.ask("robot.stop_replay"))[0]
        assert await anna.ask("robot.replay") == (False, "say which episode")
        assert await anna.ask("robot.replay", episode=7) == (False, "there is no episode 7, but 2")
        assert "watched" not in robot.told
        assert await anna.ask("robot.replay", episode=1, speed=0.5) == (True, "replayed")
        await anna.socket.send_json({"replay": True})
        await told(robot, "watched")

    with_session(work)
    assert ("replay", 1, small_task().name, (6, 2), 0.5) in robot.told


def test_control_lost_while_the_episode_is_read_replays_nothing(
    server: ConsoleServer, robot: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, read = threading.Event(), threading.Event()
    commands = Episodes.commands

    def slowly(episodes: Episodes, index: int) -> Any:
        reading.set()
        assert read.wait(10.0)
        return commands(episodes, index)

    monkeypatch.setattr(Episodes, "commands", slowly)

    async def work(session: aiohttp.ClientSession) -> None:
        anna = await join(session, server)
        await anna.ask("control.take")
        await anna.socket.send_json({"id": 70, "do": "robot.replay", "episode": 0})
        assert await asyncio.to_thread(reading.wait, 10.0)
        await anna.ask("control.release")
        read.set()
        answer = await anna.until(lambda message: message.get("id") == 70)
        assert (answer["ok"], answer["message"]) == (False, "take control first")

    with_session(work)
    assert not [what for what in robot.told if what[0] == "replay"]


def test_a_page_of_another_site_gets_no_connection(server: ConsoleServer, robot: StandIn) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        url = f"http://127.0.0.1:{server.port}"
        for headers in (
            {"Origin": "http://evil.example"},
            {},
            {"Origin": url, "Host": "evil.example"},
            {"Origin": "http://evil.example", "Host": "evil.example"},
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{url}/ws", headers=headers)
            assert refused.value.status == 403
        for path in ("/", "/api/episodes", "/console.js"):
            async with session.get(url + path, headers={"Host": "evil.example"}) as answer:
                assert answer.status == 403

    with_session(work)


def test_a_token_in_the_address_becomes_a_cookie(robot: StandIn, tmp_path: Path) -> None:
    nothing = Episodes(tmp_path / "none.zarr")
    server = ConsoleServer(robot, nothing, Access("0.0.0.0", "correct horse battery"), 0)

    async def work(session: aiohttp.ClientSession) -> None:
        url = f"http://127.0.0.1:{server.port}"
        jar = aiohttp.CookieJar(unsafe=True)  # of an address, not of a name
        async with aiohttp.ClientSession(cookie_jar=jar) as own:
            for path in ("/", "/?token=wrong", "/api/episodes"):
                async with own.get(url + path) as answer:
                    assert answer.status == 403 and "a token is needed" in await answer.text()
            async with own.get(f"{url}/?token=correct+horse+battery") as answer:
                assert answer.status == 200 and "token" not in str(answer.url)
            async with own.get(f"{url}/api/episodes") as answer:
                assert await answer.json() == {"episodes": [], "cameras": []}
            assert (await Person(await own.ws_connect(f"{url}/ws", origin=url)).ask("control.take"))[0]
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{url}/ws", origin=url)

    try:
        with_session(work)
    finally:
        server.close()


def test_episodes_can_be_looked_at(server: ConsoleServer) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        url = f"http://127.0.0.1:{server.port}"
        async with session.get(f"{url}/api/episodes") as answer:
            listed = await answer.json()
        assert listed["cameras"] == ["camera"]
        assert [(e["index"], e["steps"], e["seconds"], e["success"]) for e in listed["episodes"]] == [
            (0, 6, 0.6, True),
            (1, 6, 0.6, None),
        ]
        async with session.get(f"{url}/api/episodes/1/values") as answer:
            values = await answer.json()
        want = [step["action"] for step in random_episode(small_task(), 6, 4)]
        np.testing.assert_allclose(values["streams"]["action"], want, atol=1e-5)
        assert "camera" not in values["streams"]
        async with session.get(f"{url}/api/episodes/1/camera/5.jpg") as answer:
            assert answer.content_type == "image/jpeg" and (await answer.read())[:2] == b"\xff\xd8"
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]

    with_session(work)


def test_an_episode_is_marked_afterwards_unless_somebody_records(
    server: ConsoleServer, robot: StandIn, tmp_path: Path
) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        anna, ben = await join(session, server), await join(session, server)
        await anna.ask("control.take")
        assert await ben.ask("episode.mark", episode=0, success=False) == (False, "take control first")
        assert await anna.ask("episode.mark", episode=0, success=False) == (True, "episode 0 is a failure")
        assert await anna.ask("episode.mark", episode=1, success=True) == (True, "episode 1 is a success")
        done, message = await anna.ask("episode.mark", episode=2, success=True)
        assert not done and "episode" in message
        assert await anna.ask("episode.mark", success=True) == (False, "say which episode")
        with EpisodeWriter(tmp_path / "x.zarr", small_task()):
            done, message = await anna.ask("episode.mark", episode=0, success=True)
        assert not done and "another process is recording to it" in message

    with_session(work)
    assert ReplayBuffer.open(tmp_path / "x.zarr").episode_success.tolist() == [0, 1]


@pytest.mark.parametrize(
    "path",
    [
        "/api/episodes/2/values",
        "/api/episodes/-1/values",
        "/api/episodes/99999999999999999999/values",
        "/api/episodes/0/camera/6.jpg",
        "/api/episodes/0/pose/0.jpg",
        "/api/episodes/0/nothing/0.jpg",
        "/api/episodes/0/..%2F..%2F..%2Fetc%2Fpasswd/0.jpg",
        "/api/episodes/0/%00/0.jpg",
        "/..%2f..%2fetc/passwd",
        "/../server.py",
        "/page/index.html",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/console.js/../../server.py",
    ],
)
def test_what_is_not_there_is_not_found_and_nothing_else_is(server: ConsoleServer, path: str) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.split()[1] == b"404", answer[:200]
        writer.close()

    with_session(work)


def test_malformed_messages_are_answered_and_many_of_them_end_the_connection(
    server: ConsoleServer, robot: StandIn
) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        anna = await join(session, server)
        await anna.ask("control.take")
        await anna.socket.send_str("{")
        assert "not a message that this console knows" in await anna.error()
        await anna.socket.send_json({"place": [1.0]})
        assert await anna.error() == "expected 2 values"
        for _ in range(MOST_MALFORMED):
            await anna.socket.send_str('{"do": "rm -rf"}')
        closed = None
        async with asyncio.timeout(10):
            while closed is None:
                message = await anna.socket.receive()
                closed = message if message.type is aiohttp.WSMsgType.CLOSE else None
        assert closed.data == aiohttp.WSCloseCode.POLICY_VIOLATION
        await told(robot, "let go")
        ben = await join(session, server)
        await ben.socket.send_str(" " * (MOST_BYTES + 1))
        async with asyncio.timeout(10):
            while (await ben.socket.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                pass
        assert (await (await join(session, server)).ask("control.take"))[0]

    with_session(work)


def test_somebody_who_leaves_before_the_answer_harms_nobody(server: ConsoleServer, robot: StandIn) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        anna = await join(session, server)
        await anna.ask("control.take")
        robot.slow = Future()
        await anna.socket.send_json({"id": 9, "do": "record.save"})
        await told(robot, "record.save")
        await anna.socket.close()
        await told(robot, "let go")
        robot.slow = None
        assert (await (await join(session, server)).ask("control.take"))[0]

    with_session(work)


def test_a_taken_port_is_said(server: ConsoleServer, robot: StandIn, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {server.port}.*another port"):
        ConsoleServer(robot, Episodes(tmp_path / "x.zarr"), Access("127.0.0.1"), server.port)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=5)
                | st.dictionaries(
                    st.sampled_from(
                        ["place", "drive", "let_go", "deadman", "replay", "id", "do", "episode", "x"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(json.dumps),
    )
)
def test_whatever_a_browser_says_is_a_known_message_or_a_value_error(text: str | bytes) -> None:
    try:
        message = parse(text)
    except ValueError as error:
        assert len(str(error)) < 500
    else:
        values = getattr(message, "place", None) or getattr(message, "drive", None) or []
        assert np.isfinite(values).all()
