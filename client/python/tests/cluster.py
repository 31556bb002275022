"""A real cluster under the tests: a playground of real processes in a folder of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from seriatim import Client, CursorStore, TokenProvider, connect

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


class Cluster:
    """A running playground."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = Path(os.environ["SERIATIM_BIN"]) / "seriatim"
        counts = ["--stores", "1", "--logic", "1", "--gateways", "2"]
        self._log = (folder.parent / f"{folder.name}.log").open("wb")
        self._child = subprocess.Popen(
            [program, "playground", "--data", folder, *counts, "--exit-with-parent"],
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
