"""The keeper's end of a connection by which somebody has a command run in a guest."""

from __future__ import annotations

import asyncio
import socket

from qemunet.live.client import Client


def test_the_number_of_a_connection_that_has_ended_is_free_for_the_next() -> None:
    """The loop watches for nothing of it any more: the next one gets its number at once, and has to be watched for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        client = Client(theirs, has_input=True)

        async def work() -> int:
            for _ in range(3):
                await asyncio.sleep(0)  # until input is waited for
            return 0

        numbers = {theirs.fileno()}
        await client.serve(work())
        pairs = [socket.socketpair() for _ in range(3)]
        assert numbers & {one.fileno() for pair in pairs for one in pair}
        heard: list[asyncio.Future[None]] = []
        for one, other in [*pairs, *((other, one) for one, other in pairs)]:
            heard.append(loop.create_future())
            loop.add_reader(one, lambda found=heard[-1]: found.done() or found.set_result(None))
            other.send(b"x")
        async with asyncio.timeout(20):
            await asyncio.gather(*heard)
        ours.close()
        for one in (one for pair in pairs for one in pair):
            loop.remove_reader(one)
            one.close()

    asyncio.run(main())
