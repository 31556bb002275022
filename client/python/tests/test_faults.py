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


async def send_while(client: Client, to: str, goes_on: asyncio.Event) -> list[bytes]:
    """Sends until the event is cleared; the bodies. Messages are under way all the time, on a fast machine too."""
    bodies: list[bytes] = []
    tickets = []
    while goes_on.is_set():
        bodies.append(b"%d" % len(bodies))
        tickets.append(await client.submit(client.prepare(to, bodies[-1])))
        await asyncio.sleep(0.002)
    places = [(await ticket).seq for ticket in tickets]
    assert places == sorted(set(places))
    return bodies


async def test_c060_c061_c062_a_gateway_killed_in_mid_stream(fragile: Cluster) -> None:
    """Two gateways; the first one is killed by its pid while messages go through it in both directions, and the second
    one while it has everybody, after the first one is back."""
    gateways = fragile.gateways
    async with (
        await fragile.device("f-ann", gateways=gateways, keep_alive=1.0) as ann,
        await fragile.device("f-ben", "phone", gateways=gateways, keep_alive=1.0) as phone,
        # Knows one gateway only: it must wait until that is back.
        await fragile.device("f-ben", "laptop", gateways=gateways[:1], keep_alive=1.0) as laptop,
    ):
        inboxes = (phone.subscribe(1), laptop.subscribe(1))
        goes_on = asyncio.Event()
        goes_on.set()
        sending = asyncio.create_task(send_while(ann, "f-ben", goes_on))
        entries = await take(inboxes[0], 100)
        os.kill(fragile.pid("gateway-1"), signal.SIGKILL)
        # A client notices a dead gateway by its silence, and would find the same one again if it were back before.
        await until(lambda: ann.connections >= 2 and phone.connections >= 2)
        entries += await take(inboxes[0], 100)
        # The laptop may not have noticed yet.
        await asyncio.to_thread(restart, fragile, "gateway-1")
        await until(lambda: laptop.connections >= 2)
        await asyncio.to_thread(fragile.kill, "gateway-2")
        await until(lambda: ann.connections >= 3 and phone.connections >= 3)
        entries += await take(inboxes[0], 100)
        goes_on.clear()
        bodies = await sending
        bodies += await fill(ann, "f-ben", 50)
        entries += await take(inboxes[0], len(bodies) - len(entries))
        assert [entry.body for entry in entries] == bodies
        check_joined(entries)
        assert await take(inboxes[1], len(bodies)) == entries
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
