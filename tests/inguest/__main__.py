"""``make test-in-guest``: what this machine's kernel cannot, tested below a distribution's kernel in a guest.

The guest has the host's files, of which it can change nothing, and runs the tests of `tests/fullkernel` and some of
`tests/kernel`. What they print comes out here, and so does their status.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qemunet.errors import QemunetError
from qemunet.guest.image import APPEND
from tests.inguest import image

TREE = Path(__file__).parents[2]
DEADLINE = 600  # seconds for all of it: a minute where nobody else has work
VERDICT = b"in-guest status: "
_GUARDS = "tests/kernel/test_guards.py::test_what_passes_from_a"
TESTS = (
    "tests/fullkernel",
    "tests/kernel/test_isolation.py::test_isolated_cards_reach_the_host_and_the_others_alone",
    "tests/contract/test_vlans.py::test_a_port_is_in_the_vlans_that_it_is_put_into_and_in_no_other",
    *(f"{_GUARDS}_{kind}[{level}]" for kind in ("tap_on_a_bridge", "macvtap") for level in ("clean", "strict")),
)
EXPECTED = 32  # tests; fewer mean that some were not found


def command(words: list[str]) -> str:
    """What runs in the guest: pytest, without what takes long to load there."""
    plugins = ("no:cacheprovider", "no:hypothesispytest", "no:xdist")
    options = [word for name in plugins for word in ("-p", name)]
    argv = [str(Path(sys.executable)), "-m", "pytest", "-v", "--no-header", "--color=no", *options, *(words or TESTS)]
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/run"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "QEMUNET_IN_GUEST": "1", "COLUMNS": "120"}
    given = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return f"cd {shlex.quote(str(TREE))} && {given} exec {shlex.join(argv)}\n"


def argv(found: image.Image) -> list[str]:
    """QEMU, with the host's root directory for reading."""
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg"),
        *("-cpu", "max"),
        *("-m", "1G"),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-serial", "stdio"),
        *("-kernel", str(found.kernel)),
        *("-initrd", str(found.initrd)),
        *("-append", f"{APPEND} panic=-1"),
        *("-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"),
    ]


def watched(process: subprocess.Popen[bytes]) -> bytes:
    """Print what the guest prints; return all of it. After the deadline it is killed."""
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + DEADLINE
    while (left := deadline - time.monotonic()) > 0:
        if select.select([process.stdout], [], [], left)[0]:
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return said
            said += data
            sys.stdout.write(data.decode(errors="replace").replace("\r", ""))
            sys.stdout.flush()
    process.kill()
    return said


def main(words: list[str]) -> int:
    """Run the tests and return 0 if all passed."""
    if os.geteuid():
        print("the guest has root's files: run it as root", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = image.build(Path(folder), command(words), lambda text: print(text, file=sys.stderr))
        except QemunetError as error:
            print(error, file=sys.stderr)
            return 3
        with subprocess.Popen(argv(found), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            said = watched(process)
    verdict = said.rpartition(VERDICT)[2].split()
    passed = said.count(b" PASSED")
    if not verdict or verdict[0] != b"0" or (not words and passed < EXPECTED):
        print(f"test-in-guest: failed ({passed} passed; status {verdict[:1]})", file=sys.stderr)
        return 1
    print(f"test-in-guest: {passed} tests passed below a full kernel")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
