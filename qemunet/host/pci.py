"""Looks at PCI devices of the host: who drives them, and what of them VFIO could give away (sysfs(5))."""

from __future__ import annotations

import os
import resource
import stat

from qemunet.facts import NodeFact, PciFact

DEVICES = "/sys/bus/pci/devices"
NODES = "/dev/vfio"
_NETWORK, _BRIDGE = 0x02, 0x06  # base classes


def look_at(address: str, devices: str = DEVICES, nodes: str = NODES) -> PciFact | None:
    """Return what is known of a device, None if there is none."""
    folder = f"{devices}/{address}"
    if not os.path.isdir(folder):
        return None
    group = _target(f"{folder}/iommu_group")
    beside = _others(folder, address) if group else ()
    return PciFact(
        address,
        driver=_target(f"{folder}/driver"),
        group=int(group) if group else None,
        beside=beside,
        network=_class(folder) == _NETWORK,
        node=_node(f"{nodes}/{group}") if group else None,
        vfio=os.path.exists(f"{nodes}/vfio"),
    )


def memlock() -> int | None:
    """Return how many bytes our processes may lock, None for any number (getrlimit(2))."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if limit == resource.RLIM_INFINITY else limit


def _target(link: str) -> str:
    """Return the last part of what a link leads to, empty if it is not there."""
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return ""


def _others(folder: str, address: str) -> tuple[tuple[str, str], ...]:
    """Return the other devices of a group with their drivers; bridges stay with the host."""
    group = f"{folder}/iommu_group/devices"
    found = (name for name in sorted(os.listdir(group)) if name != address)
    return tuple((one, _target(f"{group}/{one}/driver")) for one in found if _class(f"{group}/{one}") != _BRIDGE)


def _class(folder: str) -> int:
    try:
        with open(f"{folder}/class") as file:
            return int(file.read(), 16) >> 16
    except (OSError, ValueError):
        return 0


def _node(path: str) -> NodeFact | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    opened = os.access(path, os.R_OK | os.W_OK, effective_ids=True)
    return NodeFact(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), opened)
