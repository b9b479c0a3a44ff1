"""The same plan as a POSIX script of ip, sysctl and qemu-system-x86_64 lines, with its way back."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Iterator
from itertools import groupby

from qemunet.facts import Facts
from qemunet.model.lab import Lab
from qemunet.model.nic import LinkState, MacvtapBackend, Nic, TapBackend
from qemunet.model.remote import HostdevBackend, StreamBackend, UnixAddress, VdeBackend, VhostUserBackend
from qemunet.model.vm import Accel, DirectBoot, Vm
from qemunet.plan import disks, elsewhere, qemu
from qemunet.plan.ways import SHELL_DESCRIPTORS, VHOST_DEVICE, Layer, Named
from qemunet.plan.words import by_option, option, option_if, quoted, word
from qemunet.steps import (
    Claim,
    CreateImage,
    EndQemu,
    Part,
    Plan,
    PlugPort,
    PutAddress,
    PutRoute,
    SetSysctl,
    StartQemu,
    Step,
    Word,
    WriteFile,
    line,
    sysctl_name,
)

# A QEMU that goes into the background forks and makes a session of its own, which the rest of the sandbox forbids.
SANDBOX = "on,obsolete=deny,resourcecontrol=deny"
TUN = "/dev/net/tun"
CHOSEN = "accel"  # the variable that says what executes a guest where nothing is decided yet

_NOTHING = Facts(runtime="", machine_id="", uid=0, can_switch_user=False)  # before a script there is nothing of ours
_OPTION = " \\\n    "  # every option on a line of its own

_HEAD = """\
#!/bin/sh
# The lab @lab@ without qemunet. Usage: sh FILE [up|down]
set -eu
umask 022
if [ "$(id -u)" -eq 0 ]; then parent=/run; else parent=${XDG_RUNTIME_DIR:?}; fi
run=${run:-$parent/qemunet-sh/@lab@}  # sockets, pid files, and what was done
accel=${accel:-tcg}                   # for guests that leave it open: accel=kvm sh FILE, where KVM works

did() { # remember that step $1 was done
    : >"$run/done/$1"
}

keep() { # the value of sysctl $2 that step $1 will change
    sysctl -n "$2" >"$run/done/$1"
}

undo() { # step $1 by the command that follows, if it was done
    [ -e "$run/done/$1" ] || return 0
    step=$1
    shift
    "$@" || echo "note: failed: $*" >&2
    rm -f "$run/done/$step"
}

restore() { # the sysctl $2 of step $1, unless somebody else changed what we wrote ($3)
    [ "$(sysctl -n "$2")" != "$3" ] || undo "$1" sysctl -qw "$2=$(cat "$run/done/$1" 2>/dev/null)"
}

pin() { # make the address that bridge $1 has its own, or it would take that of its port, and lose it with the last one
    ip link set dev "$1" address "$(ip -o link show dev "$1" | sed 's|.*link/ether ||; s| .*||')"
}

node() { # a private device node $2 for macvtap $1: /dev/tapN may belong to another namespace
    # shellcheck disable=SC2016 # the inner shell expands it
    numbers=$(unshare --mount sh -c 'mount -t sysfs sysfs /sys && cd /sys/class && cat net/"$1"/macvtap/*/dev' sh "$1")
    mknod -m 600 "$2" c "${numbers%:*}" "${numbers#*:}"
}

give() { # directory $1 to $user
    if [ "$(id -u)" -eq 0 ]; then chown -R "$user:$group" "$1"; fi
}

lower() { # run a command as $user, in the group of /dev/kvm if it is there
    kvm=$(getent group kvm | cut -d: -f3)
    setpriv --reuid "$user" --regid "$group" --groups "${kvm:-$group}" --inh-caps=-all --bounding-set=-all \\
        --no-new-privs "$@"
}

qemu() { # run what follows -- as $user if that may use the files before it: -r FILE to read, -w FILE to write
    lowered=
    if [ "$(id -u)" -eq 0 ]; then lowered=lower; fi
    while [ "$1" != -- ]; do
        if [ "$lowered" ] && ! lower test "$1" "$2"; then
            echo "note: user $user has no access to $2, so its QEMU keeps the rights of root" >&2
            lowered=
        fi
        shift 2
    done
    shift
    $lowered "$@"
}

gone() { # has process $1 ended?
    ! kill -0 "$1" 2>/dev/null || grep -qs '^State:.*Z' "/proc/$1/status"
}

end() { # the program whose directory is $1, by force after five seconds
    [ -s "$run/$1/pid" ] || return 0
    pid=$(cat "$run/$1/pid")
    kill "$pid" 2>/dev/null || return 0
    tries=50
    while ! gone "$pid"; do
        [ "$tries" -gt 0 ] || kill -9 "$pid"
        tries=$((tries - 1))
        sleep 0.1
    done
}
"""

_ENTERING = """
enter() { # run a command where QEMU is to be: in namespace $netns, if there is one
    if [ "$netns" ]; then ip netns exec "$netns" "$@"; else "$@"; fi
}
"""

_MOVING = """
left() { # the seconds until second $1 after boot
    now=$(cut -d. -f1 /proc/uptime)
    if [ "$1" -gt "$now" ]; then echo "$(($1 - now))"; else echo 1; fi
}

undetected() { # add an IPv6 address that is usable at once, which does not show afterwards
    ip address add "$@" nodad
    ip address change "$@"
}

reroute() { # add a route, unless it has come with an address
    said=$(ip route append "$@" 2>&1) || case $said in
    *exists*) ;;
    *)
        echo "$said" >&2
        return 1
        ;;
    esac
}
"""

_TAIL = """
case ${1:-up} in
up)
    if [ -e "$run/done" ]; then
        echo "it is up already, or what is left of it has to go by: sh $0 down" >&2
        exit 6
    fi
    trap 'echo "failed, and taken back" >&2; down' EXIT
    up
    trap - EXIT
    ;;
down) down ;;
*)
    echo "usage: sh $0 [up|down]" >&2
    exit 2
    ;;
esac
"""


def script(lab: Lab, plan: Plan) -> str:
    """Return a script that does what the plan does, and takes it back when called with ``down``.

    Its taps are persistent, since a shell cannot hold them open. What it finds made by others it leaves alone.
    """
    up: list[str] = ['mkdir -p "$run/done"']
    down: list[str] = []
    number = 0
    for part in _joined(elsewhere.ordered(lab, plan)):
        up += _introduction(lab, part)
        for step in part.steps:
            number += 1
            up += _doing(number, part, step)
            down = [*_undoing(number, part, step), *down]
    down.append('rm -rf "$run"')
    head = _HEAD.replace("@lab@", lab.name)
    if any(vm.netns for vm in lab.vms):
        head = head.replace("    setpriv --reuid", "    enter setpriv --reuid").replace(
            '    $lowered "$@"', '    ${lowered:-enter} "$@"'
        )
        head += _ENTERING
    if any(isinstance(step, PutAddress | PutRoute) for part in plan.parts() for step in part.steps):
        head += _MOVING
    return f"{head}\n{_function('up', up)}\n{_function('down', down)}{_TAIL}"


def start(file: str, vm: Vm, facts: Facts) -> Iterator[str]:
    """Yield the lines that start a guest's QEMU from a shell, in the background."""
    way = Named(vm)
    directory = quoted(way.directory)
    yield f"mkdir -m 700 {directory}"
    for layer in (layer for stack in disks.stacks(vm, facts) for layer in stack if layer.overlay):
        image = (layer.path, "-F", _format_below(vm, facts, layer.node), quoted(word(way.directory, f"/{layer.node}")))
        yield f"qemu-img create -q -f qcow2 -b {line(*image[:-1])} {image[-1]}"
    yield from _cables_out(vm, directory)
    if vm.run_as:
        yield f"give {directory}"
    yield from _redirections(vm, way)
    options = by_option(_argv(file, vm, facts, way))
    yield _OPTION.join((_program(vm, facts), *(" ".join(map(quoted, words)) for words in options)))
    yield from _closed(way)


def _argv(file: str, vm: Vm, facts: Facts, way: Named) -> Iterator[Word]:
    yield from qemu.hardware(file, vm, facts, way)
    yield from qemu.sandbox(vm, SANDBOX)
    accel = qemu.acceleration(vm, facts)[0]
    undecided = accel is Accel.AUTO
    yield from option("-accel", *([way.variable(CHOSEN)] if undecided else [str(accel)]))
    yield from option_if("-cpu", "max" if undecided else qemu.cpu(vm, facts))
    if _has_pulled(vm):
        yield word("-S")
        yield from option("-chardev", "pipe,id=start,path=", way.directory, "/start")
        yield from option("-mon", "chardev=start,mode=readline")
    yield word("-daemonize")
    yield from option("-pidfile", way.directory, "/pid")


def _program(vm: Vm, facts: Facts) -> str:
    """Return the program, behind what lowers its rights if it is not to be the calling user's."""
    if vm.run_as is None:
        return line("enter", qemu.PROGRAM) if vm.netns else qemu.PROGRAM
    used = [("-w" if layer.writable else "-r", layer.path) for layer in _files(vm, facts)]
    if any(isinstance(nic.backend, TapBackend) for nic in vm.nics):
        used.append(("-w", TUN))
    used += [("-w", place) for nic in vm.nics if (place := _place(nic, facts))]
    if isinstance(vm.boot, DirectBoot):
        used += [("-r", path) for path in (vm.boot.kernel, vm.boot.initrd) if path is not None]
    return line("qemu", *(text for pair in dict.fromkeys(used) for text in pair), "--", qemu.PROGRAM)


def _place(nic: Nic, facts: Facts) -> str:
    """Return where QEMU makes, or finds, a socket of a card in the file system, or the node of a device."""
    match nic.backend:
        case StreamBackend(address=UnixAddress(path=path)):
            return posixpath.dirname(path)
        case VdeBackend(path=path):
            return f"{path}/ctl"
        case VhostUserBackend(path=path):
            return path
        case HostdevBackend(device=device) if (fact := facts.devices.get(device)) is not None:
            return f"/dev/vfio/{fact.group}"
        case _:
            return ""


def _files(vm: Vm, facts: Facts) -> list[Layer]:
    return [layer for stack in disks.stacks(vm, facts) for layer in stack if not layer.overlay]


def _format_below(vm: Vm, facts: Facts, node: str) -> str:
    """Return the format of the image that an overlay spares: that of the next layer of its stack."""
    return next(stack[1].format for stack in disks.stacks(vm, facts) if stack[0].node == node)


def _has_pulled(vm: Vm) -> bool:
    return any(nic.link is LinkState.DOWN for nic in vm.nics)


def _cables_out(vm: Vm, directory: str) -> Iterator[str]:
    """Cables are pulled before the guest runs: QEMU starts stopped, and reads orders from a file as from a keyboard."""
    if not _has_pulled(vm):
        return
    orders = [f"set_link {nic.id} off" for nic in vm.nics if nic.link is LinkState.DOWN]
    resumed = () if qemu.stays_stopped(vm) else ("cont",)
    yield f"printf '%s\\n' {line(*orders, *resumed)} >{directory}/start.in"
    yield f": >{directory}/start.out"


def _redirections(vm: Vm, way: Named) -> Iterator[str]:
    macvtaps = {nic.id: nic.backend.ifname for nic in vm.nics if isinstance(nic.backend, MacvtapBackend)}
    numbers = [number for _, joined in way.redirections() for number in joined.split(":")]
    if len(numbers) > len(SHELL_DESCRIPTORS):
        yield "echo 'a POSIX shell has the descriptors 3 to 9 only: too many macvtap and vhost queues' >&2"
        yield "exit 3"
        return
    for name, joined in way.redirections():
        device = quoted(word(way.directory, f"/{name}")) if name in macvtaps else VHOST_DEVICE
        if name in macvtaps:
            yield f"node {shlex.quote(macvtaps[name])} {device}"
        yield "exec " + " ".join(f"{number}<>{device}" for number in joined.split(":"))
        if name in macvtaps:
            yield f"rm {device}"


def _closed(way: Named) -> Iterator[str]:
    numbers = [number for _, joined in way.redirections() for number in joined.split(":")]
    if numbers:
        yield "exec " + " ".join(f"{number}>&-" for number in numbers)


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield neighbouring parts of one scope as one: which card they are about is a journal's concern."""
    for scope, several in groupby(parts, key=lambda part: part.scope):
        yield Part(scope, tuple(step for part in several for step in part.steps))


def _introduction(lab: Lab, part: Part) -> Iterator[str]:
    """Say what follows, and for a vm's part who its QEMU will be."""
    kind, _, name = part.scope.partition("/")
    steps = [step for step in part.steps if step.shell()]
    if steps:
        yield ""
        yield f"# {part.scope}"
    if steps and kind == "vm":
        run_as = lab.vm(name).run_as
        where = f" netns={shlex.quote(lab.vm(name).netns)}" if any(vm.netns for vm in lab.vms) else ""
        yield (f"user={run_as.uid} group={run_as.gid}" if run_as else "user=$(id -u)") + where


def _doing(number: int, part: Part, step: Step) -> Iterator[str]:
    """Yield the lines of a step; what can be taken back is remembered as soon as it is there."""
    lines = list(step.shell())
    if isinstance(step, StartQemu):
        lines.insert(0, f"did {number}")
    elif _is_foreign(part, step) and isinstance(step, SetSysctl):
        lines.insert(0, f"keep {number} {shlex.quote(step.key)}")
    elif list(_undoing(number, part, step)):
        lines.insert(1, f"did {number}")
    yield from lines


def _undoing(number: int, part: Part, step: Step) -> Iterator[str]:
    inverse = step.inverse(_NOTHING)
    if _is_foreign(part, step) and isinstance(step, SetSysctl):
        yield f"restore {number} {line(step.key, step.value)}"
    elif inverse is None or isinstance(step, CreateImage | WriteFile | Claim):
        return  # an image is the user's, the others are qemunet's own affair
    elif isinstance(inverse, EndQemu):
        yield f"undo {number} end {inverse.vm}"
    else:
        yield from (f"undo {number} {text}" for text in inverse.shell())


def _is_foreign(part: Part, step: Step) -> bool:
    """Tell whether a step changes a setting of an interface that is not ours and will stay."""
    if not isinstance(step, SetSysctl):
        return False
    ports = (one.name for one in part.steps if isinstance(one, PlugPort))
    return part.scope.startswith(("host/forward-", "host/forward6-")) or any(
        f".conf.{sysctl_name(name)}." in step.key for name in ports
    )


def _function(name: str, lines: list[str]) -> str:
    body = "\n".join(f"    {text}" if text else "" for text in lines)
    return f"{name}() {{\n{body}\n}}\n"
