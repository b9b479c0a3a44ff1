"""Makes `python -m qemunet` the same as `qemunet`."""

import sys

from qemunet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
