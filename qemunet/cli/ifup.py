"""``ifup`` and ``ifdown``: the drop-in for ``-netdev tap,script=``, which puts the tap that QEMU made on a bridge.

Nothing is recorded: what is changed belongs to the tap and goes with it. Of a tap that outlives its QEMU, `ifdown`
takes off the bridge and down whatever `ifup` had put there.
"""

from __future__ import annotations

import os
from contextlib import closing

from qemunet.errors import ConfigError, Gone, HostLacks, NotFound, StepFailed, Taken, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from qemunet.cli.parser import Commands, Parser
    from qemunet.facts import Facts, LinkFact
    from qemunet.host.linux import LinuxHost
    from qemunet.steps import Step

SETTINGS = "/etc/qemunet/ifup.toml"
_HOW_TO_SAY = f'say which: QEMUNET_BRIDGE=br0, or bridge = "br0" in {SETTINGS}'


def _arguments(parser: Parser) -> None:
    parser.add_argument("ifname", metavar="IFNAME", help="the tap; QEMU gives its name to the script")
    parser.add_argument("--json", action="store_true", help="print an error as JSON")


def _up(args: Namespace) -> int:
    from qemunet.facts import Wanted
    from qemunet.frozen import replace

    _check_name(args.ifname)
    named = configured_bridge(args.ifname, SETTINGS)
    sysctl = f"net.ipv6.conf.{_sysctl_name(args.ifname)}.disable_ipv6"
    wanted = Wanted(links=frozenset(filter(None, (args.ifname, named))), sysctls=frozenset({sysctl}))
    with closing(_host()) as host:
        before = host.photograph(wanted)
        tap = _tap(args.ifname, before.links.get(args.ifname))
        bridge = checked_bridge(named, before.links.get(named)) if named else _default_bridge()
        ports = host.photograph(Wanted(bridges=frozenset({bridge.name}))).ports
        _do(plan_up(tap, bridge, replace(before, ports=ports), sysctl), before, host)
    return 0


def _down(args: Namespace) -> int:
    from qemunet.facts import Wanted

    _check_name(args.ifname)
    with closing(_host()) as host:
        before = host.photograph(Wanted(links=frozenset({args.ifname})))
        link = before.links.get(args.ifname)
        if link is None:
            return 0  # QEMU has closed it, and it took everything along
        try:
            _do(plan_down(_tap(args.ifname, link)), before, host)
        except StepFailed as error:
            if not isinstance(error.__cause__, Gone):  # it has gone meanwhile: as good as taken off
                raise
    return 0


# ---------------------------------------------------------------- which bridge


def configured_bridge(ifname: str, file: str) -> str | None:
    """Return the bridge that QEMUNET_BRIDGE or the settings file name for this tap; raises ConfigError."""
    named = os.environ.get("QEMUNET_BRIDGE")
    if named:
        return named
    try:
        with open(file, "rb") as opened:
            data = opened.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(file, "", f"cannot be read: {error.strerror}") from error
    return _from_settings(_parsed(file, data), ifname, file)


def _parsed(file: str, data: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(file, "", str(error)) from None


def _from_settings(settings: dict[str, Any], ifname: str, file: str) -> str | None:
    """Check all of the settings, whichever interface is asked for; a mistake must not wait for its guest."""
    _refuse_unknown(settings, ("bridge", "interface"), file, "")
    interfaces = settings.get("interface", {})
    if not isinstance(interfaces, dict):
        raise ConfigError(
            file, "interface", "must be a table for each interface", hint='[interface.tap3] and bridge = "br0"'
        )
    found = {"": _bridge_of(settings, file, "")}
    for name, table in interfaces.items():
        if not isinstance(table, dict):
            raise ConfigError(file, f"interface.{name}", "must be a table", hint='bridge = "br0" in it')
        _refuse_unknown(table, ("bridge",), file, f"interface.{name}.")
        found[name] = _bridge_of(table, file, f"interface.{name}.")
    return found.get(ifname) or found[""]


def _bridge_of(table: dict[str, Any], file: str, prefix: str) -> str | None:
    from qemunet.model.names import is_ifname

    value = table.get("bridge")
    if value is not None and not (isinstance(value, str) and is_ifname(value)):
        raise ConfigError(file, f"{prefix}bridge", "must be the name of an interface, in quotes")
    return value


def _refuse_unknown(table: dict[str, Any], known: Sequence[str], file: str, prefix: str) -> None:
    from qemunet.config.hints import did_you_mean

    for key in table:
        if key not in known:
            hint = did_you_mean(key, known, f"known: {', '.join(known)}")
            raise ConfigError(file, f"{prefix}{key}", "unknown key", hint=hint)


def choose_bridge(links: Mapping[str, LinkFact], default_devices: Iterable[str]) -> LinkFact:
    """Return the bridge that carries a default route or its interface, else the only one; raises HostLacks."""
    bridges = {name: link for name, link in links.items() if link.kind == "bridge"}
    for device in default_devices:
        master = links[device].master if device in links else None
        for name in (device, master):
            if name in bridges:
                return bridges[name]
    if len(bridges) == 1:
        return next(iter(bridges.values()))
    if not bridges:
        raise HostLacks(["a bridge to put the tap on"], hint="`ip link add br0 type bridge` makes one")
    raise HostLacks([f"a default among its bridges {', '.join(sorted(bridges))}"], hint=_HOW_TO_SAY)


def _default_bridge() -> LinkFact:
    from qemunet.host import addresses, links
    from qemunet.host.netlink import Netlink, open_socket

    net = Netlink(open_socket())
    try:
        routes = addresses.routes(net)
        return choose_bridge(
            {link.name: link for link in links.everything(net)},
            [route.device for route in routes if route.destination == "default"],
        )
    finally:
        net.close()


def checked_bridge(named: str, bridge: LinkFact | None) -> LinkFact:
    """Return the bridge if it is one; raises HostLacks."""
    if bridge is None:
        raise HostLacks([f'the bridge "{named}"'], hint=_HOW_TO_SAY)
    if bridge.kind != "bridge":
        raise HostLacks(
            [f'a bridge of the name "{named}" (it has such an interface, but it is no bridge)'], hint=_HOW_TO_SAY
        )
    return bridge


# ---------------------------------------------------------------- what to do


def plan_up(tap: LinkFact, bridge: LinkFact, before: Facts, sysctl: str) -> list[Step]:
    """Return the steps that put a tap on a bridge; raises Taken if it is on another one.

    Address and MTU come first, so that nothing of the bridge changes. The guest's address is not known here: the
    high first octet alone keeps a bridge with other ports from adopting the tap's. A port needs no IPv6 of its own.
    """
    from qemunet.model.mac import host_twin
    from qemunet.plan.links import pin
    from qemunet.steps import SetLink, SetMaster, SetSysctl

    if tap.master not in (None, bridge.name):
        raise Taken(f"{tap.name} is on {tap.master}", hint=f"`qemunet ifdown {tap.name}` takes it off")
    mac = tap.mac if tap.mac.startswith("fe") else host_twin(tap.mac)
    quiet = [SetSysctl(sysctl, "1")] if sysctl in before.sysctls else []
    return [
        SetLink(tap.name, mtu=bridge.mtu, mac=mac),
        *quiet,
        *pin(bridge, mac, before),
        SetMaster(tap.name, bridge.name),
        SetLink(tap.name, up=True),
    ]


def plan_down(tap: LinkFact) -> list[Step]:
    """Return the steps that take a tap off its bridge."""
    from qemunet.steps import SetLink, SetMaster

    return [SetMaster(tap.name, None), SetLink(tap.name, up=False)]


def _do(steps: Sequence[Step], before: Facts, host: LinuxHost) -> None:
    """Do all of it, or take back what was done; the journal is in memory, for nobody has to finish this."""
    from qemunet import runner
    from qemunet.errors import NotTakenBack
    from qemunet.journal import Journal

    journal = Journal(f"/proc/self/fd/{os.memfd_create('ifup')}")
    try:
        runner.apply(steps, before, host, journal)
    except BaseException as error:
        failures = runner.unwind(journal, host)
        if isinstance(error, StepFailed) and isinstance(error.__cause__, PermissionError):
            raise _no_right() from error
        if failures:
            left = NotTakenBack([str(error), *map(str, failures)])
            left.hint = "what is left is the tap's own and goes with it"
            raise left from error
        raise


def _no_right() -> HostLacks:
    return HostLacks(
        ["the right to change its interfaces (CAP_NET_ADMIN)"],
        hint="a QEMU that runs a script for its tap has to be started by root; `qemunet run` needs no script",
    )


# ---------------------------------------------------------------- which tap


def _check_name(ifname: str) -> None:
    from qemunet.model.names import IFNAMSIZ, is_ifname

    if is_ifname(ifname):
        return
    length = len(os.fsencode(ifname))
    if length > IFNAMSIZ:
        raise UsageError(f'"{ifname}" has {length} bytes; an interface name has at most {IFNAMSIZ}')
    raise UsageError(f'"{ifname}" cannot be the name of an interface')


def _tap(name: str, link: LinkFact | None) -> LinkFact:
    """Return the tap; raises NotFound, UsageError for anything else, Taken for one of a lab's."""
    if link is None:
        raise NotFound(
            f"there is no interface {name}", hint="QEMU makes it before it calls the script: `ip link` lists all"
        )
    if link.kind != "tun" or not link.mac:
        raise UsageError(f"{name} is not a tap", hint="QEMU gives its tap's name as the only argument: $1 in a script")
    owner = next((alt for alt in link.altnames if alt.startswith("qemunet.")), None)
    if owner:
        raise Taken(
            f"{name} belongs to a running lab ({owner})", hint="`qemunet nic list` shows it; it needs no script"
        )
    return link


def _sysctl_name(ifname: str) -> str:
    from qemunet.steps import sysctl_name

    return sysctl_name(ifname)


def _host() -> LinuxHost:
    from qemunet.host.linux import LinuxHost
    from qemunet.state import locate

    return LinuxHost(locate())


COMMANDS: Commands = {"ifup": (_arguments, _up), "ifdown": (_arguments, _down)}
