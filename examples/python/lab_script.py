"""A plain script, without an event loop: pulls a guest's cable and sees that the other one notices.

sudo .venv/bin/python examples/python/lab_script.py
"""

import sys
from pathlib import Path

import qemunet.sync
from qemunet.errors import QemunetError

LAB = Path(__file__).with_name("cards.toml")


def main() -> None:
    with qemunet.sync.open(LAB) as lab:
        alice, bob = lab.vm["alice"], lab.vm["bob"]
        for vm in (alice, bob):
            print(vm.wait_for_console("^qemunet guest ready: .*$", 120)[0])
        with alice.console() as shell:
            for up in (False, True):
                bob.set_link("net0", up=up)
                shell.write(b'ping -c3 -W2 10.77.0.2 >/dev/null && echo "is $((1))" || echo "is $((0))"\r')
                seen = shell.wait_for(r"^is (\d)")[1] == "1"
                print(f"cable of {bob.name} {'plugged in' if up else 'pulled'}: {'an answer' if seen else 'no answer'}")
        for name, how in lab.stop().items():
            print(name, how)


try:
    main()
except QemunetError as error:
    sys.exit(f"error: {error}\n  hint: {error.hint}")
