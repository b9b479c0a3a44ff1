"""The built-in guest: a kernel and an initramfs that qemunet makes itself."""
