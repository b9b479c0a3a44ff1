"""``ifup`` and ``ifdown``: the drop-in for ``-netdev tap,script=``, which puts the tap that QEMU made on a bridge."""

from __future__ import annotations

import os

from qemunet.cli import render
from qemunet.cli.parser import did_you_mean
from qemunet.errors import ConfigError, HostLacks, NotFound, StepFailed, Taken, UsageError
