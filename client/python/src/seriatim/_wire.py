"""Wire: one QUIC connection: its streams, and bytes to frames and back. No retries, no order, no state of requests."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from seriatim._frames import FrameDecoder, encode_frame
from seriatim._requests import Way
from seriatim.errors import (
    Close,
    Code,
    ConnectError,
    ConnectRefused,
    FrameTooLarge,
    HandshakeFailed,
    ProtocolError,
    Refusal,
)
from seriatim.v1 import client_pb2 as pb

log = logging.getLogger("seriatim")

ALPN = "seriatim-1"
MINOR = 0
IDLE_TIMEOUT = 30.0
DIAL_TIMEOUT = 3.0
GREET_TIMEOUT = 9.0
CALLS_MAX = 4
"""calls with a stream at the same time"""
LANE_BYTES_MAX = 1 << 20
"""bytes on the lane without an answer, before more is written"""
SILENCE = 3.0
"""longest time without an answer of the transport"""
_LOOK = 0.5
_QUIET = 1.0
"""time without a datagram after which a gateway that owes an answer is asked whether it is there"""
_LAST_WORDS = 1.0
"""time between the end of the control stream and that of the connection"""
_CONTROL = 0
_CRYPTO_ERRORS = range(0x100, 0x200)
_CERTIFICATE_EXPIRED = 45
"""alert of TLS"""
_REFUSED_FOR_GOOD: dict[int, Code] = {
    Close.AUTH_FAILED: Code.AUTH_FAILED,
    Close.KICKED: Code.KICKED,
    Close.UNSUPPORTED: Code.UNSUPPORTED,
    Close.FRAME_TOO_LARGE: Code.FRAME_TOO_LARGE,
    Close.PROTOCOL: Code.MALFORMED,
}


class DialError(Exception):
    """Perhaps it works later."""


class Expired(DialError):
    """The token's time is over."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class Ended(DialError):
    """The time of a certificate is over: the device's own, or the gateway's."""

    def __init__(self, error: ConnectError) -> None:
        super().__init__(str(error))
        self.error = error


class Fatal(DialError):
    """It will not work."""

    def __init__(self, error: ConnectError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Address:
    """Of a gateway."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `HOST:PORT`, with brackets around an IPv6 address. `ValueError` for others."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"an address is HOST:PORT: {text!r}")
        if host.startswith("[") and host.endswith("]"):
            host = str(ipaddress.IPv6Address(host[1:-1]))
        elif ":" in host:
            raise ValueError(f"an IPv6 address needs brackets: {text!r}")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate of the device, to show instead of a token, and its private key: PEM files.

    The chain has the device's own first, then its issuers without the CA. Both are read anew for every connection, so
    that new ones may take their place."""

    chain: str | os.PathLike[str]
    key: str | os.PathLike[str]

    def load(self) -> tuple[list[x509.Certificate], PrivateKeyTypes]:
        """`OSError` if a file cannot be read, `ValueError` if it is not what it should be."""
        chain = x509.load_pem_x509_certificates(Path(self.chain).read_bytes())
        try:
            key = load_pem_private_key(Path(self.key).read_bytes(), password=None)
        except TypeError as error:
            raise ValueError("the private key of the client certificate is encrypted") from error
        if key.public_key() != chain[0].public_key():
            raise ValueError("the private key is not that of the client certificate")
        return chain, key


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a client takes for a gateway."""

    server_name: str | None
    ca_pem: bytes | None
    own: ClientCertificate | None = None

    def configuration(self, address: Address) -> QuicConfiguration:
        """Reads the device's own certificate anew: `OSError` if it cannot be read, `ValueError` if it is none."""
        configuration = QuicConfiguration(
            alpn_protocols=[ALPN],
            cadata=self.ca_pem,
            idle_timeout=IDLE_TIMEOUT,
            is_client=True,
            server_name=self.server_name or address.host,
            supported_versions=[QuicProtocolVersion.VERSION_1],
        )
        if self.own is not None:
            chain, configuration.private_key = self.own.load()
            configuration.certificate, *configuration.certificate_chain = chain
        return configuration


class Listener(Protocol):
    """Whom a wire tells. None of it may raise."""

    def handle_frame(self, frame: pb.ServerFrame) -> None:
        """On the control stream, a lane or a call."""

    def handle_inbox_frame(self, stream: int, frame: pb.ServerFrame) -> None: ...

    def handle_inbox_end(self, stream: int) -> None: ...

    def handle_call_broken(self, request_id: int) -> None:
        """A call's stream ended without an answer."""

    def handle_closed(self, wire: Wire, error: DialError) -> None:
        """Once, and nothing behind it."""

    def handle_read(self) -> None:
        """Something came in: behind the frames of a datagram."""

    def is_waiting(self) -> bool:
        """Does the gateway owe an answer?"""


class _Pipe:
    """What comes in on a stream."""

    __slots__ = ("decoder", "is_answered", "request_id")

    def __init__(self, request_id: int | None = None) -> None:
        self.decoder = FrameDecoder(pb.ServerFrame)
        self.request_id = request_id
        """of a call"""
        self.is_answered = False


class Wire(QuicConnectionProtocol):
    """A connection to a gateway. It is of use once `greet` has returned."""

    def __init__(self, quic: QuicConnection, keep_alive: float) -> None:
        super().__init__(quic)
        self._listener: Listener | None = None
        self._keep_alive = keep_alive
        self._established: asyncio.Future[None] = self._loop.create_future()
        self._welcome: asyncio.Future[pb.Welcome] = self._loop.create_future()
        for future in (self._established, self._welcome):
            # An end that nobody waits for any more is no news.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._pipes: dict[int, _Pipe] = {}
        self._lane: int | None = None
        self._ended: DialError | None = None
        self._received_at = self._loop.time()
        self._asked_at: float | None = None
        self._look: asyncio.TimerHandle | None = None

    # ---- out ----

    async def greet(self, hello: pb.Hello) -> pb.Welcome:
        """Says Hello and waits for Welcome. `DialError` if there is none."""
        await self._established
        self._pipes[_CONTROL] = _Pipe()
        self._write(_CONTROL, pb.ClientFrame(request_id=1, hello=hello))
        return await self._welcome

    def attach(self, listener: Listener) -> None:
        """From now on it is told."""
        self._listener = listener
        if self._ended is not None:
            self._loop.call_soon(listener.handle_closed, self, self._ended)
        else:
            self._schedule_look()

    def put(self, way: Way, frame: pb.ClientFrame) -> bool:
        """Writes a frame onto the right stream; `False` if there is no room now."""
        if self._ended is not None:
            return False
        match way:
            case Way.CONTROL:
                self._write(_CONTROL, frame)
            case Way.LANE:
                if self._lane is None:
                    self._lane = self._open(_Pipe())
                self._write(self._lane, frame)
            case Way.CALL:
                if sum(pipe.request_id is not None for pipe in self._pipes.values()) >= CALLS_MAX:
                    return False
                self._write(self._open(_Pipe(frame.request_id)), frame, end_stream=True)
        return True

    def give_up(self, why: str, code: Close = Close.NONE) -> None:
        """Ends it; the listener is told."""
        self._quic.close(error_code=code, reason_phrase=why)
        self.transmit()
        self._end(DialError(why))

    def drop(self) -> None:
        """Ends it; the listener is not told."""
        self._listener = None
        self.give_up("")

    # ---- in ----

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        if self._ended is not None:
            return
        super().datagram_received(data, addr)
        if self._listener is not None:
            self._listener.handle_read()

    def error_received(self, error: Exception) -> None:
        # An unreachable network may come back; silence is told by the look.
        log.debug("socket: %s", error)

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if self._ended is not None:
            return
        # Only what could be decrypted is a sign of life: a gateway that was started anew answers the packets of its
        # predecessor's connections too, with resets that mean nothing to us.
        self._received_at = self._loop.time()
        self._asked_at = None
        match event:
            case events.HandshakeCompleted():
                if event.alpn_protocol != ALPN:
                    return self._end(Fatal(HandshakeFailed(f"the gateway speaks {event.alpn_protocol!r}")))
                if not self._established.done():
                    self._established.set_result(None)
            case events.ConnectionTerminated():
                self._end(_terminated(event))
            case events.StreamDataReceived():
                self._read(event.stream_id, event.data, event.end_stream)
            case events.StreamReset():
                self._read(event.stream_id, b"", end_stream=True)

    def transmit(self) -> None:
        # Behind the end the socket is closed.
        if self._ended is None and self._transport is not None and not self._transport.is_closing():
            super().transmit()

    # ---- steps ----

    def _open(self, pipe: _Pipe) -> int:
        stream: int = self._quic.get_next_available_stream_id()
        self._pipes[stream] = pipe
        return stream

    def _write(self, stream: int, frame: pb.ClientFrame, end_stream: bool = False) -> None:
        self._quic.send_stream_data(stream, encode_frame(frame), end_stream)
        self._transmit_soon()

    def _read(self, stream: int, data: bytes, end_stream: bool) -> None:
        is_inbox = stream & 3 == 3
        if is_inbox:
            self._pipes.setdefault(stream, _Pipe())
        pipe = self._pipes.get(stream)
        if pipe is None:
            return
        try:
            pipe.decoder.push(data)
            while self._ended is None and (frame := pipe.decoder.next_frame()) is not None:
                # Bodies that are not known are for newer clients.
                if frame.WhichOneof("body") is not None:
                    pipe.is_answered = True
                    self._tell(stream if is_inbox else None, frame)
        except FrameTooLarge as error:
            return self.give_up(str(error), Close.FRAME_TOO_LARGE)
        except ProtocolError as error:
            return self.give_up(str(error), Close.PROTOCOL)
        if end_stream and self._ended is None:
            self._handle_stream_end(stream, pipe)

    def _tell(self, inbox: int | None, frame: pb.ServerFrame) -> None:
        if self._listener is None:
            if frame.HasField("welcome") and not self._welcome.done():
                self._welcome.set_result(frame.welcome)
        elif inbox is not None:
            self._listener.handle_inbox_frame(inbox, frame)
        else:
            self._listener.handle_frame(frame)

    def _handle_stream_end(self, stream: int, pipe: _Pipe) -> None:
        del self._pipes[stream]
        if stream == _CONTROL or stream == self._lane:
            # Why follows in the close code, which tells more.
            self._loop.call_later(
                _LAST_WORDS, self._give_up_if_open, "the gateway ended the control stream or the lane"
            )
        elif self._listener is None:
            pass
        elif pipe.request_id is None:
            self._listener.handle_inbox_end(stream)
        elif not pipe.is_answered:
            self._listener.handle_call_broken(pipe.request_id)

    def _give_up_if_open(self, why: str) -> None:
        if self._ended is None:
            self.give_up(why)

    def _end(self, error: DialError) -> None:
        if self._ended is not None:
            return
        self._ended = error
        for future in (self._established, self._welcome):
            if not future.done():
                future.set_exception(error)
        if self._look is not None:
            self._look.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.close()
        if self._listener is not None:
            self._listener.handle_closed(self, error)

    # ---- silence ----

    def _schedule_look(self) -> None:
        self._look = self._loop.call_later(min(_LOOK, self._keep_alive), self._look_around)

    def _look_around(self) -> None:
        """Keeps the connection alive, and tells a gateway that is gone from one that has nothing to say."""
        if self._ended is not None:
            return
        now = self._loop.time()
        if self._asked_at is not None and now - self._asked_at >= SILENCE:
            return self.give_up(f"no answer from the gateway for {SILENCE:.0f} s")
        quiet = now - self._received_at
        is_waiting = self._listener is not None and self._listener.is_waiting()
        if self._asked_at is None and (quiet >= self._keep_alive or (is_waiting and quiet >= _QUIET)):
            self._asked_at = now
            self._quic.send_ping(0)
            self.transmit()
        self._schedule_look()


def _terminated(event: events.ConnectionTerminated) -> DialError:
    """What the end of a connection says about the next one."""
    code, text = event.error_code, event.reason_phrase
    if event.frame_type is not None:
        if code in _CRYPTO_ERRORS:
            alert = code - _CRYPTO_ERRORS.start
            failed = HandshakeFailed(f"TLS alert {alert}: {text}")
            return Ended(failed) if alert == _CERTIFICATE_EXPIRED else Fatal(failed)
        return DialError(f"transport error {code}: {text}")
    if code == Close.AUTH_EXPIRED:
        return Expired(Refusal.of(Code.AUTH_EXPIRED, text))
    if (refused := _REFUSED_FOR_GOOD.get(code)) is not None:
        return Fatal(ConnectRefused(Refusal.of(refused, text)))
    return DialError(f"closed with code {code}: {text}")


def client_info() -> pb.ClientInfo:
    """What a client says of itself."""
    try:
        ours = version("seriatim")
    except PackageNotFoundError:
        ours = "0"
    return pb.ClientInfo(name="seriatim-python", version=ours, platform=platform.system().lower())


async def dial(address: Address, attempt: int, trust: Trust, keep_alive: float) -> Wire:
    """Connects, without a word of the protocol yet. `attempt` goes through the host's addresses."""
    loop = asyncio.get_running_loop()
    try:
        found: Sequence[Any] = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        family, _, _, _, target = found[attempt % len(found)]
        configuration = await asyncio.to_thread(trust.configuration, address)
        wildcard = "::" if family == socket.AF_INET6 else "0.0.0.0"
        _, wire = await loop.create_datagram_endpoint(
            lambda: Wire(QuicConnection(configuration=configuration), keep_alive),
            local_addr=(wildcard, 0),
            family=family,
        )
    except (OSError, ValueError) as error:
        raise DialError(f"{address.host}:{address.port}: {error}") from error
    try:
        wire.connect(target)
        await asyncio.wait_for(asyncio.shield(wire._established), DIAL_TIMEOUT)
    except BaseException as error:
        wire.drop()
        if isinstance(error, TimeoutError):
            raise DialError(f"{address.host}:{address.port} does not answer") from error
        raise
    return wire


async def greet(wire: Wire, token: str, device: str) -> pb.Welcome:
    """Says Hello and waits for Welcome."""
    hello = pb.Hello(min_minor=MINOR, max_minor=MINOR, client=client_info(), token=token, device=device)
    try:
        return await asyncio.wait_for(wire.greet(hello), GREET_TIMEOUT)
    except BaseException as error:
        wire.drop()
        if isinstance(error, TimeoutError):
            raise DialError("no Welcome in time") from error
        raise
