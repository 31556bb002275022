"""A real cluster whose gateways die."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from cluster import PATIENCE, Cluster, until
from test_receiving import check_joined, fill, take

from seriatim import Client, Entry, FileCursorStore


async def send_all(client: Client, to: str, bodies: list[bytes]) -> None:
    tickets = [await client.submit(client.prepare(to, body)) for body in bodies]
    places = [(await ticket).seq for ticket in tickets]
    assert places == sorted(set(places))


async def test_c060_c061_c062_a_gateway_killed_in_mid_stream(fragile: Cluster) -> None:
    """Two gateways; the first one is killed by its pid while messages go through it in both directions, and the second
    one while it has everybody, after the first one is back."""
    bodies = [b"%d" % place for place in range(600)]
    gateways = fragile.gateways
    async with (
        await fragile.device("f-ann", gateways=gateways, keep_alive=1.0) as ann,
        await fragile.device("f-ben", "phone", gateways=gateways, keep_alive=1.0) as phone,
        # Knows one gateway only: it must wait until that is back.
        await fragile.device("f-ben", "laptop", gateways=gateways[:1], keep_alive=1.0) as laptop,
    ):
        inboxes = (phone.subscribe(1), laptop.subscribe(1))
        sending = asyncio.create_task(send_all(ann, "f-ben", bodies))
        entries = await take(inboxes[0], 100)
        os.kill(fragile.pid("gateway-1"), signal.SIGKILL)
        entries += await take(inboxes[0], 300)
        await asyncio.to_thread(restart, fragile, "gateway-1")
        await asyncio.to_thread(fragile.kill, "gateway-2")
        entries += await take(inboxes[0], 200)
        await sending
        await until(lambda: ann.connections >= 3 and phone.connections >= 3 and laptop.connections >= 2)
        bodies += await fill(ann, "f-ben", 50)
        entries += await take(inboxes[0], 50)
        assert [entry.body for entry in entries] == bodies
        check_joined(entries)
        assert await take(inboxes[1], 650) == entries
        assert [entry.body for entry in (await history(ann))] == bodies


def restart(cluster: Cluster, node: str) -> None:
    """A node that was killed from outside: its playground sees it a moment later."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return cluster.start(node)
        except AssertionError as error:
            if "runs already" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


async def history(client: Client) -> list[Entry]:
    entries: list[Entry] = []
    start, more = 1, True
    while more:
        page = await client.history("f-ben", start)
        entries.extend(page.entries)
        start, more = page.upto, page.more
    return entries


async def test_c072_a_device_goes_on_where_it_has_stored(cluster: Cluster, tmp_path: Path) -> None:
    store = FileCursorStore(tmp_path / "cursor")
    stored: list[bytes] = []
    async with await cluster.device("f-store-sender") as sender:
        bodies = await fill(sender, "f-store", 30)
        for count in (1, 12, 17):
            # A device that was ended anywhere, with more than it had stored under way.
            async with await cluster.device("f-store", cursors=store) as client, client.subscribe() as inbox:
                for entry in await take(inbox, count):
                    stored.append(entry.body)
                assert await client.ack(entry.end) == entry.end
        assert stored == bodies
        more = await fill(sender, "f-store", 1)
        async with await cluster.device("f-store", cursors=FileCursorStore(tmp_path / "cursor")) as client:
            assert client.cursor == entry.end
            assert [entry.body for entry in await take(client.subscribe(), 1)] == more
            assert (await client.status()).devices == {"phone": client.cursor}
