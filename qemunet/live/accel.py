"""Tells whether KVM really runs a guest here: a throwaway vCPU of the chosen model has to compute something in time.

That /dev/kvm can be opened proves little. Under some hypervisors QEMU aborts while it sets up the processor, or the
kernel emulates real mode and gives up at the first instruction that it does not know. So a firmware of 320 bytes enters
long mode as a kernel would, adds with SSE2 and with plain registers, compares, counts in a loop that uses the stack,
and writes the sum to a port; QEMU's exit status is that number. A model without long mode does it in 32 bits.

The verdict holds for one boot of the host, one device, one QEMU and one model, and is kept in the user's cache, so that
the probe (0.1 s where KVM works) runs once. A cache that cannot be written only costs another probe.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import time
import typing

from qemunet import interrupts

if typing.TYPE_CHECKING:
    import subprocess

DEVICE = "/dev/kvm"
DEADLINE = 3.0  # seconds from the start of QEMU; a cold one takes a third of a second to be loaded
_AFTER_KILL = 2.0  # seconds
_CPU_TIME = 4  # seconds
_GLANCE = 0.1  # seconds between two looks at whether the user interrupted
_SUM = sum(range(101)) & 0xFF
EXPECTED = (_SUM << 1 | 1) & 0xFF  # isa-debug-exit makes an odd status of what is written to its port
_STUCK = b"KVM internal error"
_SIZE = 65536  # bytes of a firmware: the last 16 are the reset vector

# Machine code for f000:0000: to protected mode by lgdt, cr0.pe and a far jump; cpuid 80000001; page tables at
# 0x1000-0x3fff, cr4.pae, cr4.osfxsr, efer.lme, cr0.pg, a far jump; paddq against add; 100 + … + 1; out to port 0xf4.
_CODE = bytes.fromhex(
    "fa2e660f011640010f20c00c010f22c066ea18000f00080066b810008ed88ed0bc00800000b8010000800fa20fbae21d"
    "0f8392000000c7050010000003200000c7050020000003300000c7050030000083000000b8200200000f22e0b8001000"
    "000f22d8b9800000c00f320d000100000f300f20c083e0fb0d020000800f22c0ea87000f00180048b8f0debc9a785634"
    "1248b921436587a9cbed0f66480f6ec066480f6ec9660fd4c166480f7ec24801c84839d0750fb96400000031c001c850"
    "5ae2fae6f4f4ebfdb8010000000fa20fbae21a7334b8000200000f22e00f20c083e0fb83c8020f22c0b878563412b9a9"
    "cbed0f660f6ec0660f6ec9660ffec1660f7ec201c839d0750db96400000031c001c8e2fce6f4f4ebfd0f1f8000000000"
    "0000000000000000ffff0000009bcf00ffff00000093cf00ffff0000009baf001f0020010f00"
)
_RESET = bytes.fromhex("ea000000f0")  # ljmp $0xf000, $0


def kvm_verdict(qemu: str, cpu: str, cache: str = "") -> str:
    """Return why KVM cannot be used for processors of the model `cpu` here; empty if it can.

    `qemu` is QEMU's name or path, `cache` the file that remembers verdicts (default: ``qemunet/kvm.json`` in the
    user's cache). Takes no longer than `DEADLINE` and the end of a killed process.
    """
    denied = _denied()
    if denied:
        return denied
    path = cache or default_cache()
    key = _key(qemu, cpu)
    known = _load(path)
    if key not in known:
        known = {other: verdict for other, verdict in known.items() if other.startswith(_boot())}
        known[key] = _probe(qemu, cpu)
        _save(path, known)
    return known[key]


def default_cache() -> str:
    """Return the file that remembers verdicts."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "qemunet", "kvm.json")


def _denied() -> str:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{DEVICE} cannot be opened: {error.strerror}"
    return ""


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _key(qemu: str, cpu: str) -> str:
    """Name all that a verdict depends on."""
    device = os.stat(DEVICE)
    program = shutil.which(qemu) or qemu
    try:
        binary = os.stat(program)
        version = f"{program}:{binary.st_mtime_ns}:{binary.st_size}"
    except OSError:
        version = program
    return f"{_boot()} {device.st_rdev}:{device.st_ino} {version} {cpu}"


def _load(path: str) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError), open(path) as file:
        known = json.load(file)
        if isinstance(known, dict):
            return {str(key): str(verdict) for key, verdict in known.items()}
    return {}


def _save(path: str, known: dict[str, str]) -> None:
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w") as file:
            json.dump(known, file)
        os.rename(f"{path}.{os.getpid()}", path)


def _probe(qemu: str, cpu: str) -> str:
    import subprocess

    image = os.memfd_create("qemunet-probe", 0)
    try:
        os.write(image, firmware())
        process = subprocess.Popen(
            argv(qemu, cpu, f"/proc/self/fd/{image}"),
            pass_fds=[image],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (_CPU_TIME, _CPU_TIME))  # should we be killed meanwhile
    except OSError as error:
        return f"{qemu} cannot be started: {error.strerror}"
    finally:
        os.close(image)
    try:
        said = _listen(process)
    finally:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # not by `with`: the kernel may hold it for ever
            process.wait(_AFTER_KILL)
    return _judge(process.returncode, said)


def firmware() -> bytes:
    """Return the image that a probe executes."""
    return _CODE.ljust(_SIZE - 16, b"\xf4") + _RESET.ljust(16, b"\xf4")


def argv(qemu: str, cpu: str, bios: str, accel: str = "kvm") -> list[str]:
    """Return the command line of a probe."""
    return [
        *(qemu, "-accel", accel, "-cpu", cpu, "-machine", "pc", "-m", "16"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-bios", bios),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    ]


def _listen(process: subprocess.Popen[bytes]) -> bytes:
    """Return what a probe says on stderr until it ends, gives up, or its time is over."""
    import select

    assert process.stderr is not None, "a pipe"
    said, deadline = b"", time.monotonic() + DEADLINE
    with process.stderr as stderr:
        while _STUCK not in said and (left := deadline - time.monotonic()) > 0:
            interrupts.check()
            if select.select([stderr], [], [], min(_GLANCE, left))[0]:
                more = os.read(stderr.fileno(), 65536)
                if not more:
                    process.wait(_AFTER_KILL)
                    break
                said += more
    return said


def _judge(status: int | None, said: bytes) -> str:
    if status == EXPECTED:
        return ""
    if _STUCK in said:
        return "the kernel gave up on its code (KVM internal error)"
    if status is None or status == -9:
        return f"it computed no sum within {DEADLINE:g} s"
    words = [line for line in said.decode(errors="replace").splitlines() if "warning" not in line]
    return words[0].split(": ", 1)[-1].removeprefix("error: ") if words else f"QEMU ended with {status}"
