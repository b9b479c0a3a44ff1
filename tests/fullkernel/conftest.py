"""Tests for a kernel with everything: they are collected where ``make test-in-guest`` runs them, and nowhere else."""

from __future__ import annotations

import os

from tests.kernel.conftest import fresh, host, world

__all__ = ["fresh", "host", "world"]

collect_ignore_glob = [] if os.environ.get("QEMUNET_IN_GUEST") else ["test_*.py"]
