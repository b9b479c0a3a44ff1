"""Tests with a Debian on a disk: they are collected where ``make test-disk-guest`` runs them, and nowhere else."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("QEMUNET_DISK_GUEST") else ["test_*.py"]
