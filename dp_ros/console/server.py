"""The console's web server: one page, its data, and a WebSocket for each person who has it open.

Runs in a thread of its own with an event loop of its own; the robot is behind `Robot`, whose methods may be called
from that thread. Easy to get wrong: a browser on a slow network must not hold up the others or fill the memory, so each
gets the newest state and picture when it has taken the last one, and nothing is queued.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from dp_ros.console.access import COOKIE, Access
from dp_ros.console.desk import Desk
from dp_ros.console.episodes import Episodes
from dp_ros.console.messages import (
    FOR_ALL,
    MOST_BYTES,
    Deadman,
    Do,
    Drive,
    LetGo,
    Message,
    Place,
    Replay,
    parse,
)
from dp_ros.errors import UserError
from dp_ros.runtime.replay import Floats
from dp_ros.task import TaskSpec

PAGE = Path(__file__).parent / "page"
#: How often a browser gets the state and new pictures, seconds.
PERIOD_S = 0.1
#: A browser that answers no ping for so long is gone.
HEARTBEAT_S = 2.0
#: How long something that was asked for may take.
ANSWER_S = 30.0
#: Malformed messages after which a connection is closed.
MOST_MALFORMED = 20
#: People at a time.
MOST_PEOPLE = 32
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

log = logging.getLogger(__name__)
Answer = tuple[bool, str]


class Robot(Protocol):
    """What the console shows and moves; every method may be called from the server's thread and returns at once."""

    def facts(self) -> dict[str, Any]:
        """What does not change: task, cameras, names of values, keys."""

    def state(self) -> dict[str, Any]:
        """What does: streams, policy, recorder, chunk."""

    def picture(self, camera: int, after_ns: int) -> tuple[int, bytes] | None:
        """Newest picture of a camera as JPEG, with its stamp; None if there is none newer than that. May take time."""

    def do(self, request: Do) -> Future[Answer]:
        """Do something; whether it was done, and what there is to say."""

    def place(self, values: Sequence[float]) -> str:
        """The device points there; returns why that is not possible now. ValueError: it never is."""

    def drive(self, values: Sequence[float]) -> str:
        """The device asks for speeds; returns why that is not possible now. ValueError: it never is."""

    def let_go(self) -> None:
        """The device was let go."""

    def deadman(self, held: bool) -> None:
        """The policy's deadman."""

    def replay(self, episode: int, task: TaskSpec, commands: Floats, speed: float) -> Future[Answer]:
        """Replay an episode on the robot, for as long as `replay_watched` is called; whether it began."""

    def replay_watched(self) -> None:
        """Somebody watches the episode that is replayed."""


class ConsoleServer:
    """Serves the console until it is closed.

    Args:
        robot: that is shown and moved.
        episodes: of the recording.
        access: who may.
        port: to listen on; 0 takes a free one.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """

    def __init__(self, robot: Robot, episodes: Episodes, access: Access, port: int) -> None:
        self._robot, self._episodes, self._access = robot, episodes, access
        self._desk = Desk(self._let_go)
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._sockets: set[web.WebSocketResponse] = set()
        started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(port, started), name="console", daemon=True)
        self._thread.start()
        try:
            self.port = started.result(10.0)
        except OSError as error:
            self._thread.join()
            raise UserError(
                f"the console cannot listen on {access.host} port {port}: {error.strerror or error}; "
                "give another port or host"
            ) from None

    def close(self) -> None:
        """End every connection and the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    # --- server -----------------------------------------------------------------------------------------

    def _run(self, port: int, started: Future[int]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            started.set_result(self._loop.run_until_complete(self._start(port)))
        except BaseException as error:
            started.set_exception(error)
            return
        self._loop.run_forever()

    async def _start(self, port: int) -> int:
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BYTES)
        app.router.add_get("/", self._page)
        app.router.add_get("/ws", self._connection)
        app.router.add_get("/api/episodes", self._list)
        app.router.add_get("/api/episodes/{index:\\d{1,9}}/values", self._values)
        app.router.add_get("/api/episodes/{index:\\d{1,9}}/{camera}/{row:\\d{1,9}}.jpg", self._frame)
        for name in ("console.js", "console.css", "icon.svg"):
            app.router.add_get(f"/{name}", self._file)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._access.host, port)
        await site.start()
        address: Sequence[Any] = self._runner.addresses[0]
        return int(address[1])

    async def _stop(self) -> None:
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the console ends")
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse who may not; a token in the address becomes a cookie, so that it does not stay in the address."""
        given = request.query.get("token")
        refusal = self._access.refusal(
            host=request.host,
            origin=request.headers.get("Origin"),
            token=request.cookies.get(COOKIE) if given is None else given,
        )
        if refusal:
            log.warning("console: %s refused: %s", request.remote, refusal)
            return web.Response(status=403, text=refusal + "\n", headers=_HEADERS)
        if given is not None and request.path == "/":
            moved = web.Response(status=303, headers={**_HEADERS, "Location": "/"})
            moved.set_cookie(COOKIE, given, httponly=True, samesite="Strict")
            return moved
        response: web.StreamResponse = await handler(request)
        if not isinstance(response, web.WebSocketResponse):
            response.headers.update(_HEADERS)
        return response

    # --- pages ------------------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / "index.html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / request.path.removeprefix("/"))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await asyncio.to_thread(self._episodes.overview))

    async def _values(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await _found(self._episodes.values, int(request.match_info["index"])))

    async def _frame(self, request: web.Request) -> web.StreamResponse:
        asked = request.match_info
        body = await _found(
            self._episodes.frame,
            int(asked["index"]),
            asked["camera"],
            int(asked["row"]),
            small="small" in request.query,
        )
        return web.Response(body=body, content_type="image/jpeg")

    # --- people -----------------------------------------------------------------------------------------

    async def _connection(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Origin") is None:
            return web.Response(status=403, text="a WebSocket needs an Origin\n", headers=_HEADERS)
        if self._desk.n_people >= MOST_PEOPLE:
            return web.Response(status=503, text=f"{MOST_PEOPLE} people are watching\n", headers=_HEADERS)
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MOST_BYTES)
        await socket.prepare(request)
        person = self._desk.arrive()
        self._sockets.add(socket)
        shower = asyncio.create_task(self._show(socket, person))
        tasks = {shower}
        try:
            await self._listen(socket, person, tasks)
        finally:
            self._sockets.discard(socket)
            self._desk.leave(person)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return socket

    async def _listen(self, socket: web.WebSocketResponse, person: int, tasks: set[Any]) -> None:
        malformed = 0
        async for received in socket:
            if received.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                continue
            try:
                message = parse(received.data)
            except ValueError as error:
                malformed += 1
                await _send(socket, {"error": str(error)})
                if malformed >= MOST_MALFORMED:
                    await socket.close(
                        code=WSCloseCode.POLICY_VIOLATION, message=b"too many malformed messages"
                    )
                continue
            if isinstance(message, Do):
                task = asyncio.create_task(self._answer(socket, person, message))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            elif problem := self._steer(person, message):
                await _send(socket, {"error": problem})

    def _steer(self, person: int, message: Message) -> str:
        """Pass on what a hand on a device says; returns why that is refused."""
        if not self._desk.has(person):
            return "" if isinstance(message, LetGo | Replay) else "take control first"
        try:
            if isinstance(message, Place):
                return self._robot.place(message.place)
            if isinstance(message, Drive):
                return self._robot.drive(message.drive)
        except ValueError as error:
            return str(error)
        if isinstance(message, Deadman):
            self._robot.deadman(message.deadman)
        elif isinstance(message, LetGo):
            self._robot.let_go()
        elif isinstance(message, Replay):
            self._robot.replay_watched()
        return ""

    async def _answer(self, socket: web.WebSocketResponse, person: int, request: Do) -> None:
        done, text = await self._do(person, request)
        await _send(socket, {"id": request.id, "ok": done, "message": text})

    async def _do(self, person: int, request: Do) -> Answer:
        if request.do not in FOR_ALL and not self._desk.has(person):
            return False, "take control first"
        if request.do == "control.take":
            refusal = self._desk.take(person)
            return not refusal, refusal or "you have control"
        if request.do == "control.release":
            self._desk.give_up(person)
            return True, "released"
        log.info("console: %s: %s", self._desk.name(person), request.do)
        if request.do == "robot.replay":
            return await self._replay(person, request)
        if request.do == "episode.mark":
            return await self._mark(request)
        return await _answered(self._robot.do(request))

    async def _replay(self, person: int, request: Do) -> Answer:
        if request.episode is None:
            return False, "say which episode"
        try:
            task, commands = await asyncio.to_thread(self._episodes.commands, request.episode)
        except LookupError as error:
            return False, str(error.args[0])
        if not self._desk.has(person):  # any more
            return False, "take control first"
        speed = 1.0 if request.speed is None else request.speed
        return await _answered(self._robot.replay(request.episode, task, commands, speed))

    async def _mark(self, request: Do) -> Answer:
        if request.episode is None:
            return False, "say which episode"
        try:
            return True, await asyncio.to_thread(self._episodes.mark, request.episode, request.success)
        except LookupError as error:
            return False, str(error.args[0])

    async def _show(self, socket: web.WebSocketResponse, person: int) -> None:
        """Send the facts once, then the newest state and pictures for as long as somebody looks."""
        facts = self._robot.facts()
        await _send(socket, {"facts": {**facts, "you": self._desk.name(person)}})
        shown = [0] * len(facts["cameras"])
        while not socket.closed:
            begin_s = self._loop.time()
            holder = self._desk.holder
            control = {
                "yours": self._desk.has(person),
                "holder": None if holder is None else self._desk.name(holder),
                "people": self._desk.n_people,
            }
            await _send(socket, {"state": {**self._robot.state(), "control": control}})
            for camera, after_ns in enumerate(shown):
                picture = await asyncio.to_thread(self._robot.picture, camera, after_ns)
                if picture is not None:
                    shown[camera], data = picture
                    with contextlib.suppress(ConnectionError):
                        await socket.send_bytes(struct.pack("<Bq", camera, picture[0]) + data)
            await asyncio.sleep(max(PERIOD_S - (self._loop.time() - begin_s), 0.01))

    def _let_go(self) -> None:
        self._robot.let_go()
        self._robot.deadman(False)


async def _answered(answer: Future[Answer]) -> Answer:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), ANSWER_S)
    except TimeoutError:
        return False, f"no answer within {ANSWER_S:g} s"


async def _found(look_up: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """What a function that may take time gives; 404 where it finds nothing."""
    try:
        return await asyncio.to_thread(look_up, *args, **more)
    except LookupError as error:
        raise web.HTTPNotFound(text=f"{error.args[0]}\n") from None


async def _send(socket: web.WebSocketResponse, content: dict[str, Any]) -> None:
    """Send an object; nothing if the browser has just gone."""
    if not socket.closed:
        with contextlib.suppress(ConnectionError):
            await socket.send_str(json.dumps(content, allow_nan=False))
