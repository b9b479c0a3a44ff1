"""A guest as a place from which others are tried, and which is tried: by the programs that it has.

Busybox will do, which is all that the built-in guest has: `ping`, `nc`, `tftp` (whose requests are datagrams to any
port, with a name of our choice in them), `udhcpc`, `timeout`. So does a distribution's own `ping` and `nc`, or bash in
place of the latter, but for listening. That a datagram has arrived is seen by the guest's own counters
(proc_pid_net(5), RFC 4113): a port need not be taken for that.
"""

from __future__ import annotations

import contextlib
import re
import select
import time
import typing
from enum import StrEnum

from qemunet import interrupts
from qemunet.host.attempts import Attempt, Reach
from qemunet.live import inside
from qemunet.live.reach import learn
from qemunet.live.spots import Spot, Unproven, any_of, family, is_reachable, plain

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qemunet.live.inside import Outcome
    from qemunet.live.spots import Arrived
    from qemunet.model.expect import Family
    from qemunet.state import Runtime

_GRACE = 30.0  # seconds more than it should take, for a guest that is slow
_LONGEST = 600  # seconds after which what was begun in a guest ends by itself
_PATIENCE = 10.0  # seconds for a guest to answer itself
_ONE = 2  # seconds for a first echo or datagram, after which more are sent
_SAID = 200  # characters of what a program complains about
_GLANCE = 0.2  # seconds between two looks whether it has begun
_MISSING = 127  # a program that the guest does not have
_RECEIVED = re.compile(rb"([0-9]+) (?:packets )?received")
_NO_WAY = re.compile(r"(?i)unreachable|no route|not permitted|prohibited|cannot assign")
_UNKNOWN = re.compile(r"(?i)bad address|not known|resol|unknown host")
_COUNTERS = ("/proc/net/snmp", "/proc/net/snmp6", "/proc/net/udp", "/proc/net/udp6")
_BEGIN = 'timeout "$1" nc -ll -p "$2" -e true </dev/null >/dev/null 2>&1 & echo $!'
_BEGIN_OTHER = 'timeout "$1" nc -lk -p "$2" </dev/null >/dev/null 2>&1 & echo $!'
_SEND = 'timeout "$1" tftp -g -r "$2" -l /dev/null "$3" "$4"; exit $?'  # a shell of its own hears of the end
_SEND_OTHER = 'printf %s "$2" | nc -u -w "$1" "$3" "$4"'
_SEND_BASH = 'exec 3<>"/dev/udp/$3/$4" && printf %s "$2" >&3 && timeout "$1" cat <&3; exit 0'
_CONNECT_BASH = 'exec 3<>"/dev/tcp/$1/$2"'


class Tool(StrEnum):
    """What a guest opens connections and sends datagrams with."""

    BUSYBOX = "busybox"
    NC = "nc"
    BASH = "bash"


class InGuest(Spot):
    """A guest that runs."""

    def __init__(self, here: Runtime, name: str) -> None:
        self.name = name
        self._here = here
        self._known: Tool | None = None

    def addresses(self, network: str | None = None) -> list[str]:
        return [plain(ip) for _, leads, ips in self._cards() if network in (None, leads) for ip in ips]

    def families(self) -> set[Family]:
        return {family(address) for address in self.addresses()}

    def ping(self, address: str, seconds: float) -> Attempt:
        whole = max(round(seconds), 1)
        found = self._ping(address, 1, min(whole, _ONE))
        if found.reach is Reach.SILENT and whole > _ONE:
            return self._ping(address, whole - _ONE, 1)
        return found

    def connect(self, address: str, port: int, seconds: float) -> Attempt:
        limit, to = str(max(round(seconds), 1)), (address, str(port))
        words = {
            Tool.BUSYBOX: ("nc", "-w", limit, *to, "-e", "true"),
            Tool.NC: ("nc", "-z", "-w", limit, *to),
            Tool.BASH: ("timeout", limit, "bash", "-c", _CONNECT_BASH, "bash", *to),
        }[self._tool()]
        done = self._run(*words, seconds=seconds)
        if done.status == 0:
            return Attempt(Reach.THROUGH, f"{address} takes the connection")
        return self._failed(done, words[0], address)

    def send(self, address: str, port: int, token: bytes, seconds: float) -> Attempt:
        shell, script = {Tool.BUSYBOX: ("sh", _SEND), Tool.NC: ("sh", _SEND_OTHER), Tool.BASH: ("bash", _SEND_BASH)}[
            self._tool()
        ]
        words = (str(max(round(seconds), _ONE)), token.decode(), address, str(port))
        done = self._run(shell, "-c", script, shell, *words, seconds=seconds)
        # what tftp makes of any answer, and what the others print of it
        if b"server" in done.stderr if self._tool() is Tool.BUSYBOX else done.stdout:
            return Attempt(Reach.THROUGH, f"{address} answers")
        return self._failed(done, shell, address)

    def ask_dhcp(self, network: str | None, seconds: float) -> Attempt:
        names = [name for name, leads, _ in self._cards() if network in (None, leads)]
        host = self._run("hostname", seconds=1).stdout.decode(errors="replace").strip() or self.name
        return any_of(names, lambda name: self._ask(name, host, seconds), self.name)

    @contextlib.contextmanager
    def listening(self, address: str, port: int, *, may_listen: bool) -> Iterator[None]:
        if self.connect(address, port, _PATIENCE).reach is Reach.THROUGH:
            yield
            return
        if not may_listen:
            raise Unproven(f"nobody in {self.name} listens at port {port} of {address}")
        if self._tool() is Tool.BASH:
            raise Unproven(f"nobody in {self.name} listens at port {port} of {address}, and it has no nc for that")
        begin = _BEGIN if self._tool() is Tool.BUSYBOX else _BEGIN_OTHER
        done = self._run("sh", "-c", begin, "sh", str(_LONGEST), str(port), seconds=1)
        try:
            self._await_listener(address, port)
            yield
        finally:
            with interrupts.deferred():
                self._run("kill", done.stdout.decode().strip(), seconds=1)

    @contextlib.contextmanager
    def receiving(self, address: str, port: int, token: bytes) -> Iterator[Arrived]:
        del token  # nobody sees what is in it
        before = self._arrived(address, port)
        yield lambda: self._arrived(address, port) > before

    # ---------------------------------------------------------------- how

    def _ping(self, address: str, count: int, wait: int) -> Attempt:
        words = ("-c", str(count), "-W", str(wait), "-w", str(max(count, wait)), address)
        done = self._run("ping", *words, seconds=max(count, wait))
        received = _RECEIVED.search(done.stdout)
        if received is not None and int(received[1]):
            return Attempt(Reach.THROUGH, f"{address} answers")
        return self._failed(done, "ping", address)

    def _run(self, *argv: str, seconds: float) -> Outcome:
        return inside.call(self._here, self.name, argv, timeout=seconds + _GRACE)

    def _tool(self) -> Tool:
        if self._known is None:
            asked = self._run("nc", "--help", seconds=1)
            other = Tool.BASH if asked.status == _MISSING else Tool.NC
            self._known = Tool.BUSYBOX if b"BusyBox" in asked.stderr else other
        return self._known

    def _cards(self) -> list[tuple[str | None, str | None, Sequence[str]]]:
        """Return what the guest calls its cards, the network and the addresses of each."""
        record = self._here.vm(self.name)
        known = learn(self._here, record.lab, "nics", vm=self.name)["known"]
        assert isinstance(known, dict), "what is known, by MAC"
        networks = {nic.mac: nic.network for nic in record.nics}
        return [
            (one["guest_ifname"], networks.get(mac), [ip["address"] for ip in one["ip"] if is_reachable(ip["address"])])
            for mac, one in known.items()
        ]

    def _failed(self, done: Outcome, program: str, address: str) -> Attempt:
        said = " ".join(done.stderr.decode(errors="replace").split())[-_SAID:]
        if done.status == _MISSING:
            lacks = "nc and no bash" if program in ("bash", "timeout") else program
            return Attempt(Reach.UNABLE, f"{self.name} has no {lacks}")
        if "refused" in said:
            return Attempt(Reach.REFUSED, f"{address} refuses it")
        if _UNKNOWN.search(said):
            return Attempt(Reach.UNABLE, f"{address} is not known: {said}")
        if _NO_WAY.search(said):
            return Attempt(Reach.NO_WAY, f"no way to {address}: {said}")
        return Attempt(Reach.SILENT, f"no answer from {address}")

    def _ask(self, card: str | None, host: str, seconds: float) -> Attempt:
        """Have a client ask that tells nobody what it is lent: the same address as the card has, if it has one."""
        if card is None:
            return Attempt(Reach.UNABLE, f"{self.name} does not say what it calls its cards")
        if b"LOWER_UP" not in self._run("ip", "-o", "link", "show", "dev", card, seconds=1).stdout:
            return Attempt(Reach.UNABLE, f"{card} is not up, or has no carrier")
        words = ("-f", "-n", "-q", "-t", str(max(round(seconds), 1)), "-T", "1", "-s", "/bin/true")
        done = self._run("udhcpc", "-i", card, *words, "-x", f"hostname:{host}", seconds=seconds)
        found = re.search(rb"lease of (\S+) obtained from (\S+?),? ", done.stderr + done.stdout)
        if done.status == 0 and found is not None:
            return Attempt(Reach.THROUGH, f"{card} is offered {found[1].decode()} by {found[2].decode()}")
        if done.status == _MISSING:
            return Attempt(Reach.UNABLE, f"{self.name} has no udhcpc")
        return Attempt(Reach.SILENT, f"nobody offers {card} an address")

    def _await_listener(self, address: str, port: int) -> None:
        deadline = time.monotonic() + _GRACE
        while (found := self.connect(address, port, 2)).reach is not Reach.THROUGH:
            interrupts.check()
            if time.monotonic() > deadline:
                raise Unproven(f"nobody in {self.name} comes to listen at port {port}: {found.seen}")
            select.select([], [], [], _GLANCE)

    def _arrived(self, address: str, port: int) -> int:
        """Return how many datagrams have come to the port, or to any that nobody has."""
        lines = self._run("cat", *_COUNTERS, seconds=1).stdout.decode(errors="replace").splitlines()
        return datagrams(lines, port, v6=":" in address)


def datagrams(lines: Sequence[str], port: int, *, v6: bool) -> int:
    """Return what the kernel's counters of UDP say: those to ports that nobody has, or all if somebody has this one."""
    taken = any(re.match(rf" *[0-9]+: [0-9A-F]+:{port:04X} ", line) for line in lines)
    wanted = "InDatagrams" if taken else "NoPorts"
    if v6:
        found = (line.split() for line in lines if line.startswith(f"Udp6{wanted}"))
        return sum(int(words[1]) for words in found)
    names, values = [line.split() for line in lines if line.startswith("Udp: ")][:2]
    return int(values[names.index(wanted)])
