"""Plugs cards in, moves them and takes them out while two guests run; everything is gone afterwards.

sudo .venv/bin/python examples/python/plug_and_move.py
"""

import asyncio
from pathlib import Path

import qemunet
from qemunet.api import Console

LAB = Path(__file__).with_name("cards.toml")
READY = r"^qemunet guest ready: .*$"


async def answers(shell: Console, address: str) -> bool:
    """Tell whether a guest can ping an address."""
    await shell.write(f'ping -c3 -W2 {address} >/dev/null; echo "status=$?"\r'.encode())
    return (await shell.wait_for(r"^status=(\d+)"))[1] == "0"


async def main() -> None:
    async with qemunet.open(LAB) as lab:
        alice, bob = lab.vm["alice"], lab.vm["bob"]
        await asyncio.gather(alice.wait_for_console(READY, 120), bob.wait_for_console(READY, 120))
        async with await alice.console() as shell:
            print("on red:", await answers(shell, "10.77.0.2"))

            await alice.move_nic("net0", "blue")
            print("on blue:", await answers(shell, "10.77.0.2"))

            await alice.move_nic("net0", "red")
            print("on red again:", await answers(shell, "10.77.0.2"))

            nic = await alice.add_nic(network="blue", model="e1000e")
            print("plugged in:", nic.id, nic.mac, "which the guest calls", nic.guest_ifname)
            await alice.remove_nic(nic)
            print("left:", ", ".join(alice.nics))


asyncio.run(main())
