"""Opens labs for tests, each with a runtime directory and, for root, a network namespace of its own, and closes them.

Nothing that one lab makes is in another's way, whatever else this machine runs: not the names of its interfaces, not
its subnets, and not those of the same lab in another worker of pytest-xdist. A namespace has no way out; a lab that
needs the host's own network has to say so.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import typing

from qemunet import sync
from qemunet.config import check, read
from qemunet.frozen import frozen
from qemunet.host import netns
from qemunet.state import Runtime
from qemunet.testing import seat
from qemunet.testing.bench import Bench

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    T = typing.TypeVar("T")
    Around = Callable[[seat.Room], contextlib.AbstractContextManager[object]]

_CLONE_NEWNET = 0x40000000


@frozen
class Wish:
    """A lab file and how it is started; `seconds` until its guests are ready, None: they are not waited for.

    `around` makes what has to be there before the lab and is left after it, on the host.
    """

    file: str
    vms: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    isolate: bool = True
    seconds: float | None = 120.0
    around: Around | None = None


class Opened:
    """A lab that is there until `close`; `error` says why its guests did not become ready."""

    def __init__(self, wish: Wish) -> None:
        self._stack = contextlib.ExitStack()
        self.error: BaseException | None = None
        try:
            self.bench = self._open(wish)
        except BaseException:
            self.close()
            raise

    def await_ready(self, wish: Wish) -> None:
        """Wait for the guests; raises what went wrong, every time."""
        if self.error is None and wish.seconds is not None:
            try:
                self.bench.await_ready(wish.seconds)
            except BaseException as error:
                self.error = error
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """End the guests and take everything back; raises what went wrong."""
        self._stack.close()

    def _open(self, wish: Wish) -> Bench:
        spec = read.load(wish.file, wish.set)
        check.check(spec)
        # Short: the path of a socket is no longer than 107 bytes. Not made here, it goes with what is in it: also if
        # this program is killed.
        path = os.path.join(tempfile.gettempdir(), f"qemunet-{secrets.token_hex(4)}")
        self._stack.callback(shutil.rmtree, path, ignore_errors=True)
        isolated = wish.isolate and os.geteuid() == 0
        home = self._stack.enter_context(_fresh()) if isolated else netns.Place()
        unnamed = [f"netns.{one.name}.named=false" for one in spec.spaces] if isolated else []
        runtime = Runtime(path)
        around = self._enter(home, wish.around(seat.host(runtime, home))) if wish.around is not None else None

        def opened(vms: Sequence[str]) -> sync.Lab:
            keys = (*wish.set, *unnamed)
            return self._enter(home, sync.open(wish.file, vms, set=keys, runtime=runtime.path))

        return Bench(opened, wish.vms, spec, runtime, home, around)

    def _enter(self, home: netns.Place, block: contextlib.AbstractContextManager[T]) -> T:
        """Enter a block where the lab is, and leave it there in the end."""
        entered = home.inside(block.__enter__)
        self._stack.callback(home.inside, lambda: block.__exit__(None, None, None))
        return entered


@contextlib.contextmanager
def _fresh() -> Iterator[netns.Place]:
    """Make a network namespace with lo up, which is there meanwhile."""
    fd = netns.in_thread(_made)
    try:
        yield netns.Namespace(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _made() -> int:
    """Be in a new namespace, in a thread that ends with this; return a descriptor of it."""
    from qemunet.host import links, netlink
    from qemunet.steps import SetLink

    netns.call("unshare", _CLONE_NEWNET)
    net = netlink.Netlink(netlink.open_socket())
    try:
        links.change(net, SetLink("lo", up=True))
    finally:
        net.close()
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
