"""qemunet: QEMU guests and their networks from one file, taken back when they stop."""

__version__ = "0.1.0.dev0"
