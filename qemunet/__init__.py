"""qemunet: QEMU guests and their networks from one file, taken back when they stop."""

__version__ = "0.1.0.dev0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet import api, errors, sync
    from qemunet.api import Lab, Nic, Vm
    from qemunet.api import open as open  # noqa: A004 - not in __all__: `import *` must not take the builtin away

__all__ = ["Lab", "Nic", "Vm", "__version__", "api", "errors", "sync"]

_MODULES = ("api", "errors", "sync")
_OF_API = ("Lab", "Nic", "Vm", "open")


def __getattr__(name: str) -> object:
    """Import what the API consists of when it is used: the commands, which start often, do not."""
    if name not in (*_MODULES, *_OF_API):
        raise AttributeError(f"module 'qemunet' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"qemunet.{name}")
    found: object = getattr(import_module("qemunet.api"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, "open"})
