"""A real cluster under the tests: a playground of real processes in a folder of its own."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from seriatim import Client, ClientCertificate, CursorStore, TokenProvider, connect

PATIENCE = 60.0
"""longest wait for anything"""


async def until(come: Callable[[], object]) -> None:
    """Waits for something that the client or the gateway does by itself."""
    async with asyncio.timeout(PATIENCE):
        while not come():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def signed_token(key: Ed25519PrivateKey, **claims: Any) -> str:
    """A JWT."""

    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "EdDSA", "typ": "JWT"}) + b"." + part(claims)
    return (signed + b"." + base64.urlsafe_b64encode(key.sign(signed)).rstrip(b"=")).decode()


def read_key(path: Path) -> Ed25519PrivateKey:
    """A private key in PKCS #8 of version 2, with its public key, which `cryptography` does not read."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("-----")]
    der = base64.b64decode("".join(lines))
    mark = bytes.fromhex("04220420")
    start = der.index(mark) + len(mark)
    return Ed25519PrivateKey.from_private_bytes(der[start : start + 32])


class DeviceCa:
    """Signs client certificates."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        own = self._builder(self._name, self._key.public_key(), 3600)
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(self, name: str, uri: str, seconds: int = 3600) -> ClientCertificate:
        """For this URI, good for so long; negative: it ended so long ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = self._builder(subject, key.public_key(), seconds).add_extension(names, critical=False)
        files = ClientCertificate(self._folder / f"{name}.pem", self._folder / f"{name}-key.pem")
        Path(files.chain).write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        Path(files.key).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, seconds: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
        )


class Cluster:
    """A running playground."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = Path(os.environ["SERIATIM_BIN"]) / "seriatim"
        counts = ["--stores", "1", "--logic", "1", "--gateways", "2"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.devices = DeviceCa(folder.parent / f"{folder.name}-devices")
        self._log = (folder.parent / f"{folder.name}.log").open("wb")
        self._child = subprocess.Popen(
            [program, "playground", "--data", folder, *counts, "--client-ca", self.devices.file, "--exit-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # It notes there which playground was the last one: not ours.
            env={**os.environ, "XDG_CACHE_HOME": str(folder.parent)},
        )
        self._watchdog = threading.Timer(PATIENCE, self._child.kill)
        self._watchdog.start()
        assert self._child.stdout is not None
        ready = self._child.stdout.readline()
        self._watchdog.cancel()
        if not ready:
            self.stop()
            raise AssertionError(f"the playground does not start:\n{Path(self._log.name).read_text()[-2000:]}")
        self.about: dict[str, Any] = json.loads((folder / "playground.json").read_bytes())
        self.key = read_key(Path(self.about["token_private_key"]))

    @property
    def ca(self) -> str:
        return str(self.about["ca_certificate"])

    @property
    def gateways(self) -> list[str]:
        return [node["address"] for node in self.about["nodes"] if node["role"] == "gateway"]

    def token(self, user: str, seconds: int = 3600, **claims: Any) -> str:
        """Good for so long; negative: it ended so long ago."""
        every = {"aud": "seriatim", "sub": user, "tenant": 1, "exp": int(time.time()) + seconds}
        return signed_token(self.key, **(every | claims))

    async def device(
        self,
        user: str,
        device: str = "phone",
        *,
        token: str | TokenProvider | None = None,
        gateways: list[str] | None = None,
        cursors: CursorStore | None = None,
        keep_alive: float = 10.0,
    ) -> Client:
        """A connected device, on the first gateway."""
        return await connect(
            gateways or self.gateways[:1],
            ca=self.ca,
            server_name="localhost",
            token=token or self.token(user),
            device=device,
            cursors=cursors,
            connect_timeout=PATIENCE,
            request_timeout=PATIENCE,
            keep_alive=keep_alive,
        )

    def kill(self, node: str) -> None:
        """SIGKILL."""
        self._order({"do": "kill", "node": node})

    def start(self, node: str) -> None:
        self._order({"do": "start", "node": node})

    def pid(self, node: str) -> int:
        states = self._order({"do": "status"})["nodes"]
        return next(int(state["pid"]) for state in states if state["name"] == node)

    def _order(self, order: dict[str, str]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            control.connect(str(self.folder / "control.sock"))
            control.sendall(json.dumps(order).encode() + b"\n")
            answer: dict[str, Any] = json.loads(control.makefile().readline())
        assert answer["ok"], answer
        return answer

    def stop(self) -> None:
        """Its end of stdin ends the playground, and with it all its children."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._log.close()
