"""Client certificates instead of tokens, with a real cluster."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from cluster import PATIENCE, Cluster, DeviceCa, until

from seriatim import Client, ClientCertificate, Code, ConnectRefused, HandshakeFailed, connect


async def device(cluster: Cluster, certificate: ClientCertificate, token: str | None = None) -> Client:
    return await connect(
        cluster.gateways[0],
        ca=cluster.ca,
        server_name="localhost",
        token=token,
        device="phone",
        certificate=certificate,
        connect_timeout=PATIENCE,
        request_timeout=PATIENCE,
    )


async def test_a_certificate_says_who_comes(cluster: Cluster) -> None:
    name = "c jürgen/2"
    certificate = cluster.devices.issue("named", f"seriatim://7/{quote(name, safe='')}")
    async with await device(cluster, certificate) as client:
        assert (client.identity.tenant, client.identity.user) == (7, name)
        await client.send(name, "to myself")
        page = await client.sync()
        assert [entry.sender for entry in page.entries] == [name]


async def test_a_token_beside_it_is_of_the_same_user(cluster: Cluster) -> None:
    certificate = cluster.devices.issue("beside", "seriatim://1/c-beside")
    async with await device(cluster, certificate, cluster.token("c-beside")) as client:
        assert client.identity.user == "c-beside"
    for token in (cluster.token("c-other"), cluster.token("c-beside", tenant=2)):
        with pytest.raises(ConnectRefused) as refused:
            await device(cluster, certificate, token)
        assert refused.value.refusal.code == Code.AUTH_FAILED


async def test_what_is_not_taken(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConnectRefused) as refused:
        await device(cluster, cluster.devices.issue("nobody", "https://example.org/c-nobody"))
    assert refused.value.refusal.code == Code.AUTH_FAILED
    with pytest.raises(HandshakeFailed, match="alert 48"):
        await device(cluster, DeviceCa(tmp_path / "another").issue("stranger", "seriatim://1/c-alice"))
    with pytest.raises(HandshakeFailed, match="alert 45"):
        await device(cluster, cluster.devices.issue("ended", "seriatim://1/c-alice", -60))


async def test_files_that_are_no_certificate(cluster: Cluster, tmp_path: Path) -> None:
    good = cluster.devices.issue("good", "seriatim://1/c-alice")
    other = cluster.devices.issue("other", "seriatim://1/c-alice")
    with pytest.raises(ValueError, match="not that of"):
        await device(cluster, ClientCertificate(good.chain, other.key))
    with pytest.raises(ValueError, match="PEM"):
        await device(cluster, ClientCertificate(cluster.devices.file.parent / "good-key.pem", good.key))
    with pytest.raises(FileNotFoundError):
        await device(cluster, ClientCertificate(tmp_path / "missing.pem", good.key))
    with pytest.raises(ValueError, match="without a token or a certificate"):
        await connect(cluster.gateways[0], device="phone")


async def test_a_client_goes_on_with_the_certificate_that_takes_the_place_of_an_ended_one(cluster: Cluster) -> None:
    for seconds in (5, 30, 120):  # on a slow machine it may end before the client is in
        certificate = cluster.devices.issue("renewed", "seriatim://1/c-renewed", seconds)
        try:
            client = await device(cluster, certificate)
            break
        except (HandshakeFailed, ConnectRefused):
            continue
    async with client:
        await until(lambda: "alert 45" in client._pilot.last_error)
        cluster.devices.issue("renewed", "seriatim://1/c-renewed")
        await client.send("c-renewed", "to myself")
        assert client.connections > 1
