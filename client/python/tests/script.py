"""A gateway that follows a script: what a real one does only when something goes wrong."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer, serve
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from cluster import PATIENCE
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from seriatim import Client, connect
from seriatim._frames import FrameDecoder, encode_frame
from seriatim.v1 import client_pb2 as pb


@dataclass(frozen=True)
class Certificate:
    """Of a CA, and of a gateway named `localhost` that it signed."""

    ca: Path
    chain: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    """Makes both, with their keys."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name, name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("a CA of the tests", "localhost")
    )

    def begin(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().issuer_name(ca_name).subject_name(subject).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        day = datetime.timedelta(days=1)
        return builder.not_valid_before(now - day).not_valid_after(now + day)

    ca = begin(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    leaf = begin(name, key.public_key()).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
    )
    made = Certificate(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    made.ca.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    made.chain.write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


class Visit(QuicConnectionProtocol):
    """A device's connection to a scripted gateway."""

    def __init__(self, gateway: Scripted, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gateway = gateway
        self._decoders: dict[int, FrameDecoder[pb.ClientFrame]] = {}
        self.number = 0
        """of the visits that said Hello, from 1 on"""

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            decoder = self._decoders.setdefault(event.stream_id, FrameDecoder(pb.ClientFrame))
            decoder.push(event.data)
            while (frame := decoder.next_frame()) is not None:
                self._gateway.handle_frame(self, event.stream_id, frame)

    def say(self, stream: int, frame: pb.ServerFrame, end_stream: bool = False) -> None:
        self._quic.send_stream_data(stream, encode_frame(frame), end_stream)
        self.transmit()

    def answer(self, stream: int, asked: pb.ClientFrame, end_stream: bool = False, **body: Any) -> None:
        self.say(stream, pb.ServerFrame(request_id=asked.request_id, **body), end_stream)

    def push(self, asked: pb.ClientFrame, number: int, *frames: pb.ServerFrame, end_stream: bool = False) -> int:
        """Answers a Subscribe, and says this on its inbox stream, whose number is given back."""
        stream: int = self._quic.get_next_available_stream_id(is_unidirectional=True)
        start = getattr(asked.subscribe, "from")
        header = pb.StreamHeader(subscription_id=number, user="alice", **{"from": start})
        self.say(stream, pb.ServerFrame(stream_header=header))
        for frame in frames:
            self.say(stream, frame)
        self.answer(0, asked, subscribed=pb.Subscribed(subscription_id=number))
        if end_stream:
            self._quic.send_stream_data(stream, b"", end_stream=True)
            self.transmit()
        return stream

    def leave(self, code: int = 0) -> None:
        self.close(error_code=code)


Script = Callable[[Visit, int, pb.ClientFrame], None]


class Scripted:
    """Says Welcome, keeps every frame that comes, and does what the script says about those behind Hello."""

    def __init__(self, certificate: Certificate, script: Script) -> None:
        self._certificate = certificate
        self._script = script
        self._server: QuicServer | None = None
        self.visits: list[Visit] = []
        self.frames: list[tuple[int, pb.ClientFrame]] = []
        """with the number of the visit, Hello included"""
        self.address = ""
        self.expires_in_ms = 0
        """what Welcome says"""
        self.limits = pb.Limits(
            frame_bytes=262144, message_bytes=65536, requests=256, lanes=16, sync_entries=1000, idle_timeout_ms=30000
        )

    async def __aenter__(self) -> Scripted:
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["seriatim-1"])
        configuration.load_cert_chain(self._certificate.chain, self._certificate.key)
        self._server = await serve(
            "127.0.0.1",
            0,
            configuration=configuration,
            create_protocol=lambda *arguments, **options: Visit(self, *arguments, **options),
        )
        transport = self._server._transport
        assert transport is not None
        self.address = f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    def forget(self) -> None:
        """As if it had been started anew on its address: what it does not know any more it answers with resets."""
        assert self._server is not None
        transport = self._server._transport
        assert transport is not None
        reset = b"\x40" + bytes(40)

        def refuse(data: bytes | str, addr: Any) -> None:
            transport.sendto(reset, addr)

        self._server.datagram_received = refuse  # type: ignore[method-assign]

    async def connect(self, *more: Scripted, **options: Any) -> Client:
        """A client of this gateway, and of more."""
        usual: dict[str, Any] = {
            "addresses": [self.address, *(one.address for one in more)],
            "ca": self._certificate.ca,
            "server_name": "localhost",
            "token": "t",
            "device": "phone",
            "request_timeout": PATIENCE,
        }
        return await connect(**(usual | options))

    def handle_frame(self, visit: Visit, stream: int, frame: pb.ClientFrame) -> None:
        if frame.HasField("hello"):
            self.visits.append(visit)
            visit.number = len(self.visits)
            welcome = pb.Welcome(session_id=visit.number, tenant=1, user="alice", limits=self.limits)
            welcome.expires_in_ms = self.expires_in_ms
            visit.answer(stream, frame, welcome=welcome)
        self.frames.append((visit.number, frame))
        if not frame.HasField("hello"):
            self._script(visit, stream, frame)

    def came(self, body: str) -> list[pb.ClientFrame]:
        """The frames with this body."""
        return [frame for _, frame in self.frames if frame.HasField(body)]
