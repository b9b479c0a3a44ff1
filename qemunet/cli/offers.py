"""What may stand for each argument of a command: words, files, or names of what is there; for completion."""

from __future__ import annotations

from enum import StrEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from qemunet.state import Runtime

    Offer = tuple[str, ...]  # kinds, and words that begin with WORD

WORD = "="


class Kind(StrEnum):
    """What an argument can be the name of."""

    VMS = "vms"
    LABS = "labs"
    NETWORKS = "networks"
    CARDS = "cards"
    CABLES = "cables"
    NAMESPACES = "namespaces"
    FILES = "files"  # of labs; these are the shell's to find


NAMES = tuple(kind.value for kind in Kind if kind is not Kind.FILES)

# By the place holder in the help; what stands behind FILE is one of that file, which is not read for this.
_PLACES: dict[str, Offer] = {
    "VM": (Kind.VMS,),
    "NAME": (Kind.VMS, Kind.LABS),
    "FILE": (Kind.FILES,),
    "FILE|NAME": (Kind.FILES, Kind.VMS, Kind.LABS),
    "LAB": (Kind.FILES, Kind.LABS),
    "NETWORK": (Kind.NETWORKS,),
    "NIC": (Kind.CARDS,),
    "CABLE": (Kind.CABLES,),
    "VM|NETNS": (Kind.VMS, Kind.NAMESPACES),
    "A": ("=network:", "=bridge:", "=host", "=free"),
    "B": ("=network:", "=bridge:", "=host", "=free"),
}
_NETS: Offer = (Kind.FILES, Kind.NETWORKS)
_OF_COMMANDS = {("net up", "FILE|NAME"): _NETS, ("net down", "FILE|NAME"): _NETS}


def offer(command: str, action: argparse.Action) -> Offer:
    """Return what may stand for an argument of a command, or for the value of an option; empty if nobody can guess."""
    if action.choices:
        return tuple(f"{WORD}{choice}" for choice in action.choices)
    metavar = str(action.metavar)
    if action.option_strings:
        return _of_option(action.option_strings[-1])
    if action.nargs == "*" and metavar in ("VM", "NETWORK"):  # of the file before
        return ()
    return _OF_COMMANDS.get((command, metavar), _PLACES.get(metavar, ()))


def _of_option(option: str) -> Offer:
    from qemunet.config.cards import COMMON
    from qemunet.config.spec import NicMode, Switch
    from qemunet.model.guard import GuardLevel
    from qemunet.model.nic import LinkState, MacvtapMode

    words: dict[str, Iterable[str]] = {
        "--mode": NicMode,
        "--macvtap": MacvtapMode,
        "--link": LinkState,
        "--guard": GuardLevel,
        "--vhost": Switch,
        "--model": COMMON.split(", "),
    }
    known: dict[str, Offer] = {"--network": (Kind.NETWORKS,), "--file": (Kind.FILES,)}
    return known.get(option) or tuple(f"{WORD}{word}" for word in words.get(option, ()))


def names(here: Runtime, kind: Kind, vm: str) -> list[str]:
    """Return the names of what is there of a kind; cards are those of `vm`."""
    ways: dict[Kind, Callable[[], Iterable[str]]] = {
        Kind.VMS: lambda: (one.name for one in here.vms()),
        Kind.LABS: lambda: (one.lab for one in here.vms()),
        Kind.NETWORKS: here.networks,
        Kind.CARDS: lambda: (nic.id for one in here.vms() if one.name == vm for nic in one.nics),
        Kind.CABLES: lambda: (scope.name.partition("/")[2] for scope in here.scopes("cable")),
        Kind.NAMESPACES: lambda: (scope.name.partition("/")[2] for scope in here.scopes("netns")),
    }
    return sorted(set(ways[kind]()))
