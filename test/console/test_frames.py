"""WebSocket frames that no browser sends, written to the socket as they are: the connection ends, the others go on."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dp_ros.console import server as console_server
from dp_ros.console.messages import MOST_BYTES
from dp_ros.console.server import ConsoleServer
from test.console.test_server import StandIn, join, robot, server, told, with_session  # noqa: F401

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
TEXT, CLOSE, PING = 0x1, 0x8, 0x9


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """A frame; `length` is what it claims."""
    claimed = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    flag = masked << 7
    if claimed < 126:
        head += bytes([flag | claimed])
    elif claimed < 2**16:
        head += bytes([flag | 126]) + struct.pack(">H", claimed)
    else:
        head += bytes([flag | 127]) + struct.pack(">Q", claimed)
    if not masked:
        return head + payload
    mask = b"\x11\x22\x33\x44"
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(b" " * 10_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)[:-4]


async def connect(port: int, extensions: str = "permessage-deflate") -> Streams:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Origin: http://127.0.0.1:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Sec-WebSocket-Extensions: {extensions}",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return reader, writer


async def ends(streams: Streams, limit_s: float = 5.0) -> bool:
    """Whether the server ends the connection."""
    reader, writer = streams
    try:
        async with asyncio.timeout(limit_s):
            while await reader.read(65536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    finally:
        writer.close()
    return True


#: What ends the connection at once.
BAD = {
    "reserved opcode": frame(0x3, b"x"),
    "reserved control opcode": frame(0xB),
    "reserved bits": frame(TEXT, b"{}", rsv=0b011),
    "length of 2^63": frame(TEXT, length=2**63),
    "length of 4 GiB": frame(TEXT, b"x" * 100, length=2**32),
    "longer than a message": frame(TEXT, b" " * (MOST_BYTES + 1)),
    "long ping": frame(PING, b"x" * 126),
    "ping in parts": frame(PING, b"x", fin=False),
    "continuation of nothing": frame(0x0, b"x"),
    "a message within a message": frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"),
    "parts longer than a message": frame(TEXT, b" " * 9000, fin=False) + frame(0x0, b" " * 9000, fin=False),
    "no UTF-8": frame(TEXT, b"\xff\xfe\xfd"),
    "close code that there is none": frame(CLOSE, struct.pack(">H", 5)),
    "close with half a code": frame(CLOSE, b"\x03"),
    "compressed rubbish": frame(TEXT, os.urandom(64), rsv=0b100),
    "compressed bomb": frame(TEXT, bomb(), rsv=0b100),
}


def among_others(
    server: ConsoleServer,  # noqa: F811
    robot: StandIn,  # noqa: F811
    work: Callable[[int], Awaitable[None]],
) -> None:
    """Do something while somebody else has control, who has it still afterwards."""

    async def run(session: object) -> None:
        anna = await join(session, server)  # type: ignore[arg-type]
        assert (await anna.ask("control.take"))[0]
        listening = asyncio.create_task(anna.until(lambda message: False))  # or she would answer no pings
        await work(server.port)
        assert not listening.done()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await anna.socket.send_json({"drive": [0.25, 0.5]})
        await told(robot, ("drive", [0.25, 0.5]))
        assert "let go" not in robot.told
        state = await anna.until(
            lambda message: message.get("state", {}).get("control", {}).get("people") == 1
        )
        assert state["state"]["control"]["yours"]

    with_session(run)


def test_malformed_frames_end_their_connection_and_no_other(server: ConsoleServer, robot: StandIn) -> None:  # noqa: F811
    async def work(port: int) -> None:
        for what, data in BAD.items():
            streams = await connect(port)
            streams[1].write(data)
            assert await ends(streams), what

    among_others(server, robot, work)


def test_whoever_answers_no_ping_is_gone_also_within_a_message(
    robot: StandIn,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console_server, "HEARTBEAT_S", 0.3)
    server = ConsoleServer(  # noqa: F811
        robot, console_server.Episodes(tmp_path / "x.zarr"), console_server.Access("127.0.0.1"), 0
    )

    async def work(port: int) -> None:
        halves = (b"\x81", frame(TEXT, b'{"drive": [', fin=False), frame(TEXT, b"{}", length=9000))
        waiting = [await connect(port) for _ in halves]
        for (_, writer), data in zip(waiting, halves, strict=True):
            writer.write(data)
        assert all(await asyncio.gather(*(ends(streams) for streams in waiting)))

    try:
        among_others(server, robot, work)
    finally:
        server.close()


def test_a_frame_without_a_mask_may_do_no_more_than_others(server: ConsoleServer, robot: StandIn) -> None:  # noqa: F811
    async def work(port: int) -> None:
        reader, writer = await connect(port, extensions="none")
        writer.write(frame(TEXT, b'{"id": 1, "do": "robot.reset"}', masked=False))
        async with asyncio.timeout(5.0):
            await reader.readuntil(b"take control first")
        writer.close()

    among_others(server, robot, work)


def test_random_bytes_harm_nobody(server: ConsoleServer, robot: StandIn) -> None:  # noqa: F811
    async def work(port: int) -> None:
        rng = random.Random(7)
        for _ in range(60):
            _, writer = await connect(port)
            good = frame(TEXT, b'{"id": 3, "do": "policy.cancel"}')
            data = bytearray(good * rng.randint(1, 3) + rng.randbytes(rng.randint(0, 40)))
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            writer.write(bytes(data))
            await writer.drain()
            writer.close()

    among_others(server, robot, work)
