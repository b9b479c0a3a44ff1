"""``make test-disk-guest``: a Debian is installed into a disk image, boots under a lab file and is used.

The disk is kept in the cache, so that only the first time takes a minute longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qemunet.errors import QemunetError
from tests.disk import image


def main(words: list[str]) -> int:
    """Run the tests and return their status."""
    if os.geteuid():
        print("packages are installed in a directory of root's: run it as root", file=sys.stderr)
        return 3
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__).parent), *words]
    try:
        with image.built(lambda text: print(text, file=sys.stderr)) as disk:
            return subprocess.run(argv, env={**os.environ, "QEMUNET_DISK_GUEST": str(disk)}).returncode
    except QemunetError as error:
        print(error, file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
