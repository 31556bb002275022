"""A device that writes frames, or bytes, by hand: aioquic and the frames, nothing of the SDK's own behaviour."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from cluster import PATIENCE, Cluster

from seriatim._frames import FrameDecoder, encode_frame
from seriatim.v1 import client_pb2 as pb

CONTROL = 0


class Raw(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._decoders: dict[int, FrameDecoder[pb.ServerFrame]] = {}
        self._frames: defaultdict[int, asyncio.Queue[pb.ServerFrame | None]] = defaultdict(asyncio.Queue)
        self._inboxes: asyncio.Queue[int] = asyncio.Queue()
        self._last_id = 0
        self.close_code: asyncio.Future[int] = self._loop.create_future()

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.ConnectionTerminated):
            # -1: not by the gateway, or not with a code of the protocol.
            self.close_code.set_result(event.error_code if event.frame_type is None else -1)
        elif isinstance(event, events.StreamDataReceived):
            stream = event.stream_id
            if stream not in self._decoders:
                self._decoders[stream] = FrameDecoder(pb.ServerFrame)
                if stream & 3 == 3:
                    self._inboxes.put_nowait(stream)
            self._decoders[stream].push(event.data)
            while (frame := self._decoders[stream].next_frame()) is not None:
                self._frames[stream].put_nowait(frame)
            if event.end_stream:
                self._frames[stream].put_nowait(None)

    def open(self) -> int:
        """A bidirectional stream; it is there with its first bytes."""
        stream: int = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, b"")
        return stream

    def write(self, stream: int, data: bytes, end_stream: bool = False) -> None:
        self._quic.send_stream_data(stream, data, end_stream)
        self.transmit()

    def ask(self, stream: int, end_stream: bool = False, **body: Any) -> int:
        """Writes a frame; its request id."""
        self._last_id += 1
        frame = pb.ClientFrame(request_id=self._last_id, **body)
        self.write(stream, encode_frame(frame), end_stream)
        return self._last_id

    async def answer(self, stream: int) -> pb.ServerFrame:
        """The next frame of a stream."""
        async with asyncio.timeout(PATIENCE):
            frame = await self._frames[stream].get()
        assert frame is not None, "the stream ended"
        return frame

    async def ended(self, stream: int) -> None:
        """The gateway has finished the stream; what was not read is not wanted."""
        async with asyncio.timeout(PATIENCE):
            while await self._frames[stream].get() is not None:
                pass

    async def inbox(self) -> int:
        """The next inbox stream."""
        async with asyncio.timeout(PATIENCE):
            return await self._inboxes.get()

    async def closed(self) -> int:
        """The close code of the gateway."""
        async with asyncio.timeout(PATIENCE):
            return await self.close_code


@asynccontextmanager
async def connected(cluster: Cluster) -> AsyncIterator[Raw]:
    """Without a word."""
    host, port = cluster.gateways[0].split(":")
    configuration = QuicConfiguration(alpn_protocols=["seriatim-1"], cafile=cluster.ca, server_name="localhost")
    async with connect(host, int(port), configuration=configuration, create_protocol=Raw) as raw:
        assert isinstance(raw, Raw)
        assert raw.open() == CONTROL
        yield raw


@asynccontextmanager
async def session(cluster: Cluster, user: str, device: str = "raw") -> AsyncIterator[Raw]:
    """Behind Welcome."""
    async with connected(cluster) as raw:
        raw.ask(CONTROL, hello=pb.Hello(token=cluster.token(user), device=device))
        assert (await raw.answer(CONTROL)).HasField("welcome")
        yield raw
