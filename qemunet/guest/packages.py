"""Gets files out of distribution packages without installing them: apt-get downloads, dpkg-deb unpacks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from qemunet.errors import HostLacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

KERNEL_METAS = ("linux-image-amd64", "linux-image-generic")  # Debian, Ubuntu: the full kernels, with all cards
DOWNLOAD_TIMEOUT = 600  # seconds
QUERY_TIMEOUT = 60  # seconds
TOOLS = ("apt-get", "apt-cache", "dpkg-deb")
DEPENDS = re.compile(r"^\s*\|?(?:Pre)?Depends: (\S+)$", re.MULTILINE)


def available() -> bool:
    """Whether this host has apt and dpkg-deb."""
    return all(shutil.which(tool) for tool in TOOLS)


def depends(package: str) -> list[str]:
    """Return the names that a package depends on; empty when apt does not know it."""
    return DEPENDS.findall(_run(["apt-cache", "depends", "--important", package], timeout=QUERY_TIMEOUT).stdout)


def kernel_choices(meta: str, needs: Callable[[str], list[str]]) -> list[list[str]]:
    """Return, best first, the packages that together are the kernel of a meta package; empty when there is none.

    A signed kernel image may be missing where the unsigned one is there.
    """
    direct = needs(meta)
    image = next((name for name in direct if re.match(r"linux-image-\d", name)), None)
    if image is None:
        return []
    parts = sorted({name for name in (*direct, *needs(image)) if re.match(r"linux-modules-(extra-)?\d", name)})
    unsigned = (f"{image}-unsigned", image.replace("linux-image-", "linux-image-unsigned-", 1))
    return [[name, *parts] for name in (image, *unsigned)]


def know(packages: Iterable[str], report: Callable[[str], None]) -> None:
    """Make sure that apt's lists know one of these packages; root may fetch the lists, anybody else is told to."""
    wanted = list(packages)
    if any(depends(package) for package in wanted):
        return
    if os.geteuid() != 0:
        raise HostLacks(
            [f"apt's lists of packages (none of {', '.join(wanted)} is known)"], hint="run `sudo apt-get update`"
        )
    report("apt's lists do not know " + " or ".join(wanted) + ": running apt-get update")
    result = _run(["apt-get", "--quiet", "update"], timeout=DOWNLOAD_TIMEOUT)
    if not any(depends(package) for package in wanted):
        raise HostLacks([f"a package {' or '.join(wanted)} ({_last_words(result)})"], hint="run `apt-get update`")


def unpack(packages: list[str], work: Path, into: Path) -> None:
    """Download packages to `work` and unpack them to `into`; HostLacks says which command failed and how."""
    # The sandbox user of apt could not write to a private directory; an ordinary user has none.
    argv = ["apt-get", "--quiet", "-o", "APT::Sandbox::User=root", "download", *packages]
    result = _run(argv, cwd=work, timeout=DOWNLOAD_TIMEOUT)
    if result.returncode != 0:
        raise HostLacks(
            [f"the package {packages[0]} (download failed: {_last_words(result)})"],
            hint=f"run `apt-get download {' '.join(packages)}` to see why",
        )
    into.mkdir(exist_ok=True)
    for archive in sorted(work.glob("*.deb")):
        result = _run(["dpkg-deb", "--extract", str(archive), str(into)], timeout=DOWNLOAD_TIMEOUT)
        archive.unlink()
        if result.returncode != 0:
            raise HostLacks([f"room or tools to unpack {archive.name} ({_last_words(result)})"])


def _run(argv: list[str], *, cwd: Path | None = None, timeout: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise HostLacks([f"an answer of `{' '.join(argv)}` within {timeout:.0f} seconds"]) from error


def _last_words(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stderr or result.stdout).strip().splitlines()
    errors = [line for line in lines if line.startswith(("E:", "dpkg-deb:"))]
    return (errors or lines or [f"exit status {result.returncode}"])[-1]
