"""Reads the text of a lab file: TOML in, a `LabSpec` out, every key known and every value of the right kind."""

from __future__ import annotations

import posixpath
import re

from qemunet.config import keys
from qemunet.config.hints import Bad, did_you_mean, dotted, listed, quoted
from qemunet.config.spec import (
    BootSpec,
    CableSpec,
    DhcpServerSpec,
    DhcpSpec,
    DiskSpec,
    DnsSpec,
    KnownHostSpec,
    LabSpec,
    LoginSpec,
    MachineSpec,
    NatSpec,
    NetnsSpec,
    NetworkSpec,
    NicSpec,
    ScriptSpec,
    VmSpec,
)
from qemunet.errors import ConfigError
from qemunet.frozen import frozen
from qemunet.model.names import NAME, is_name
from qemunet.model.network import PortProfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from qemunet.config.expectkeys import ExpectSpec
    from qemunet.config.keys import Table

TOP = ("lab", "vm", "network", "dhcp-server", "cable", "netns", "expect")


@frozen
class Reader:
    """Reads the tables of one file. `path` is its absolute name."""

    file: str
    path: str = ""
    overridden: frozenset[str] = frozenset()

    def error(self, path: str, problem: str, hint: str = "") -> ConfigError:
        return ConfigError("--set" if path in self.overridden else self.file, path, problem, hint=hint)

    def lab(self, raw: dict[str, Any]) -> LabSpec:
        for key in raw:
            if key not in TOP:
                raise self.error(dotted("", key), f"unknown table {quoted(key)}", _top_hint(key))
        own = self.values(raw.get("lab", {}), "lab", keys.LAB)
        vms = tuple(self.vm(*one) for one in self.named(raw, "vm", keys.VM))
        networks = tuple(self.networks(raw)) if "network" in raw else ()
        servers = tuple(self.servers(raw)) if "dhcp-server" in raw else ()
        cables = tuple(self.cables(raw)) if "cable" in raw else ()
        expects = tuple(self.expects(raw)) if "expect" in raw else ()
        spaces = tuple(self.spaces(raw)) if "netns" in raw else ()
        if not vms and not networks and not cables and not spaces:
            raise self.error("", "describes nothing", "a lab has at least one [vm.NAME] or [network.NAME]")
        taken = {one.name for group in (vms, networks, spaces) for one in group}
        name = own.get("name")
        return LabSpec(
            self.file,
            self.path,
            name or _name_after(self.path, taken),
            bool(name),
            vms,
            networks,
            cables,
            spaces,
            self.overridden,
            servers,
            expects,
        )

    def networks(self, raw: dict[str, Any]) -> Iterable[NetworkSpec]:
        return (self.network(*one) for one in self.named(raw, "network", keys.NETWORK))

    def servers(self, raw: dict[str, Any]) -> Iterable[DhcpServerSpec]:
        for path, name, one in self.named(raw, "dhcp-server", keys.DHCP_SERVER):
            yield DhcpServerSpec(path, name, **self.values(one, path, keys.DHCP_SERVER))

    def cables(self, raw: dict[str, Any]) -> Iterable[CableSpec]:
        return (CableSpec(place, **one) for place, one in self.top_rows(raw, "cable", keys.CABLE))

    def expects(self, raw: dict[str, Any]) -> Iterable[ExpectSpec]:
        from qemunet.config.expectkeys import ExpectSpec

        return (ExpectSpec(place, **one) for place, one in self.top_rows(raw, "expect", keys.EXPECT))

    def spaces(self, raw: dict[str, Any]) -> Iterable[NetnsSpec]:
        for path, name, one in self.named(raw, "netns", keys.NETNS):
            yield NetnsSpec(path, name, **self.values(one, path, keys.NETNS))

    def top_rows(self, raw: dict[str, Any], key: str, table: Table) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield the values of the tables ``[[key]]`` with their paths."""
        if isinstance(raw.get(key), dict):
            raise self.error(key, "must be a list of tables", f"in double brackets: [[{key}]]")
        return self.rows(raw, "", key, table)

    def port_profiles(self, raw: dict[str, Any], path: str) -> Iterable[PortProfile]:
        """Yield the port profiles of a network."""
        for place, name, one in self.named(raw, "port-profile", keys.PORT_PROFILE, path):
            yield PortProfile(name, **self.values(one, place, keys.PORT_PROFILE))

    def named(
        self, raw: dict[str, Any], key: str, table: Table, below: str = ""
    ) -> Iterable[tuple[str, str, dict[str, Any]]]:
        """Yield the tables ``[below.key.NAME]`` with their paths and names."""
        group = raw.get(key, {})
        if not isinstance(group, dict):
            raise self.error(dotted(below, key), f"must be a table for each {key}", f"written {table.title}")
        for name, one in group.items():
            path = dotted(dotted(below, key), name)
            if isinstance(one, list):
                raise self.error(path, "must be a table, not a list of them", f"in single brackets: [{path}]")
            if not isinstance(one, dict):
                problem = f"{quoted(name)} stands where the name of a {key} belongs"
                raise self.error(path, problem, f"written {table.title}, also if there is only one")
            if not is_name(name):
                raise self.error(
                    path, f"{quoted(name)} cannot be a name", "a letter, then up to 62 letters, digits and hyphens"
                )
            yield path, name, one

    def values(self, raw: object, path: str, table: Table, *, profile: bool = False) -> dict[str, Any]:
        """Return the values of a table by attribute, without its sub-tables; raises ConfigError."""
        if not isinstance(raw, dict):
            raise self.error(path, "must be a table", f"written {table.title}")
        found = {}
        for name, value in raw.items():
            key = table.keys.get(name)
            if key is None and (profile or name not in (*table.tables, *table.lists, *table.named)):
                raise self.unknown(dotted(path, name), name, table)
            if key is None:
                continue
            if profile and not key.profile:
                known = listed(key.name for key in table.keys.values() if key.profile)
                raise self.error(dotted(path, name), "a profile cannot preset this", f"it may preset {known}")
            try:
                _of_64_bits(value)
                found[key.field] = key.kind.read(name, value)
            except Bad as bad:
                raise self.error(dotted(path, name), bad.problem, bad.hint) from None
        return found

    def unknown(self, path: str, name: str, table: Table) -> ConfigError:
        known = table.known()
        hint = did_you_mean(name, known) or f"known in {table.title}: {', '.join(known)}"
        return self.error(path, f"unknown key {quoted(name)}", hint)

    def rows(self, raw: dict[str, Any], path: str, key: str, table: Table) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield the values of the tables ``[[path.key]]`` with their paths."""
        found = raw.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self.error(dotted(path, key), "must be a list of tables", f"written [[{dotted(path, key)}]]")
        for index, one in enumerate(found):
            place = f"{dotted(path, key)}[{index}]"
            yield place, self.values(one, place, table)

    def vm(self, path: str, name: str, raw: dict[str, Any]) -> VmSpec:
        return VmSpec(
            path=path,
            name=name,
            machine=MachineSpec(**self.values(raw.get("machine", {}), dotted(path, "machine"), keys.MACHINE)),
            boot=BootSpec(**self.values(raw.get("boot", {}), dotted(path, "boot"), keys.BOOT)),
            login=self.login(raw, path) if "login" in raw else LoginSpec(),
            disk=tuple(DiskSpec(place, **one) for place, one in self.rows(raw, path, "disk", keys.DISK)),
            nic=tuple(NicSpec(place, **one) for place, one in self.rows(raw, path, "nic", keys.NIC))
            if "nic" in raw
            else None,
            script=tuple(self.script(raw, path)) if "script" in raw else (),
            **self.values(raw, path, keys.VM),
        )

    def login(self, raw: dict[str, Any], path: str) -> LoginSpec:
        return LoginSpec(**self.values(raw["login"], dotted(path, "login"), keys.LOGIN))

    def script(self, raw: dict[str, Any], path: str) -> Iterable[ScriptSpec]:
        return (ScriptSpec(place, **one) for place, one in self.rows(raw, path, "script", keys.SCRIPT))

    def network(self, path: str, name: str, raw: dict[str, Any]) -> NetworkSpec:
        nat, dhcp, dns = (dotted(path, key) for key in ("nat", "dhcp", "dns"))
        hosts = self.rows(raw, path, "hosts", keys.HOSTS) if "hosts" in raw else None
        return NetworkSpec(
            path=path,
            name=name,
            nat=NatSpec(**self.values(raw["nat"], nat, keys.NAT_TABLE)) if "nat" in raw else None,
            dhcp=DhcpSpec(**self.switched(raw["dhcp"], dhcp, keys.DHCP)) if "dhcp" in raw else None,
            dns=DnsSpec(**self.switched(raw["dns"], dns, keys.DNS)) if "dns" in raw else None,
            port_profile=tuple(self.port_profiles(raw, path)) if "port-profile" in raw else None,
            hosts=None if hosts is None else tuple(KnownHostSpec(place, **one) for place, one in hosts),
            **self.values(raw, path, keys.NETWORK),
        )

    def switched(self, raw: object, path: str, table: Table) -> dict[str, Any]:
        """Return the values of a table that may be true or false instead."""
        if isinstance(raw, bool):
            return {"on": raw}
        if not isinstance(raw, dict):
            raise self.error(path, "true, false or a table belongs here", f"a table is written {table.title}")
        return self.values(raw, path, table)


def _of_64_bits(value: object) -> None:
    """Raise Bad for a number that TOML does not have, and that may be too long to be printed."""
    for one in value if isinstance(value, list) else [*value.values()] if isinstance(value, dict) else (value,):
        if isinstance(one, int) and one.bit_length() > 63:
            raise Bad("the number is too large", "numbers in TOML have 64 bits")


def _top_hint(key: str) -> str:
    if key in keys.VM.known():
        return f"it belongs into a guest's table: [vm.NAME], then {key} = …"
    every = "[lab], [vm.NAME], [network.NAME], [netns.NAME], [[cable]] and [[expect]]"
    return did_you_mean(key, TOP, f"a lab file has {every}")


def _name_after(path: str, taken: set[str]) -> str:
    """Return a lab's name after its file: with ``-lab`` where a vm or network of it has that name."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", posixpath.basename(path).rsplit(".", 1)[0])[:50].strip("-")
    name = stem if NAME.fullmatch(stem) else f"lab-{stem}".strip("-")
    return f"{name}-lab" if name in taken else name
