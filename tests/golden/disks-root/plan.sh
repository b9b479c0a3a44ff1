#!/bin/sh
# The lab lab without qemunet. Usage: sh FILE [up|down]
set -eu
umask 022
if [ "$(id -u)" -eq 0 ]; then parent=/run; else parent=${XDG_RUNTIME_DIR:?}; fi
run=${run:-$parent/qemunet-sh/lab}  # sockets, pid files, and what was done
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
    setpriv --reuid "$user" --regid "$group" --groups "${kvm:-$group}" --inh-caps=-all --bounding-set=-all \
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

up() {
    mkdir -p "$run/done"

    # vm/old
    user=1879048192 group=1879048192
    [ -e /lab/new.qcow2 ] || qemu-img create -q -f qcow2 /lab/new.qcow2 1073741824
    did 12
    mkdir -m 700 "${run}"/old
    qemu-img create -q -f qcow2 -b /lab/other.qcow2 -F qcow2 "${run}"/old/disk.1
    give "${run}"/old
    qemu -w /lab/top.qcow2 -r /lab/middle.qcow2 -r /lab/base.img -r /lab/other.qcow2 -r /lab/install.iso -r /dev/vg/old -w /lab/new.qcow2 -- qemu-system-x86_64 \
    -name guest=old,process=qemu-old \
    -nodefaults \
    -no-user-config \
    -machine pc,graphics=off \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/old/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/old/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/old/serial.sock,server=on,wait=off \
    -serial chardev:serial \
    -display none \
    -blockdev '{"driver":"file","node-name":"disk.0.2.file","read-only":true,"filename":"/lab/base.img"}' \
    -blockdev '{"driver":"raw","node-name":"disk.0.2","read-only":true,"file":"disk.0.2.file"}' \
    -blockdev '{"driver":"file","node-name":"disk.0.1.file","read-only":true,"filename":"/lab/middle.qcow2"}' \
    -blockdev '{"driver":"qcow2","node-name":"disk.0.1","read-only":true,"file":"disk.0.1.file","backing":"disk.0.2"}' \
    -blockdev '{"driver":"file","node-name":"disk.0.file","read-only":false,"filename":"/lab/top.qcow2"}' \
    -blockdev '{"driver":"qcow2","node-name":"disk.0","read-only":false,"file":"disk.0.file","backing":"disk.0.1"}' \
    -blockdev '{"driver":"file","node-name":"disk.1.1.file","read-only":true,"filename":"/lab/other.qcow2"}' \
    -blockdev '{"driver":"qcow2","node-name":"disk.1.1","read-only":true,"file":"disk.1.1.file","backing":null}' \
    -blockdev '{"driver":"file","node-name":"disk.1.file","read-only":false,"filename":"'"${run}"'/old/disk.1"}' \
    -blockdev '{"driver":"qcow2","node-name":"disk.1","read-only":false,"file":"disk.1.file","backing":"disk.1.1"}' \
    -blockdev '{"driver":"file","node-name":"disk.2.file","read-only":true,"filename":"/lab/install.iso"}' \
    -blockdev '{"driver":"raw","node-name":"disk.2","read-only":true,"file":"disk.2.file"}' \
    -blockdev '{"driver":"host_device","node-name":"disk.3.file","read-only":true,"filename":"/dev/vg/old"}' \
    -blockdev '{"driver":"raw","node-name":"disk.3","read-only":true,"file":"disk.3.file"}' \
    -blockdev '{"driver":"file","node-name":"disk.4.file","read-only":false,"filename":"/lab/new.qcow2"}' \
    -blockdev '{"driver":"qcow2","node-name":"disk.4","read-only":false,"file":"disk.4.file","backing":null}' \
    -netdev '{"type":"user","id":"host-net0"}' \
    -device '{"driver":"pcnet","id":"net0","netdev":"host-net0","mac":"52:54:00:4c:8f:38","bus":"pci.0","addr":"0x3","acpi-index":1,"romfile":""}' \
    -device '{"driver":"virtio-scsi-pci","id":"disk.scsi"}' \
    -device '{"driver":"ich9-ahci","id":"disk.sata"}' \
    -device '{"driver":"ide-hd","id":"disk.0","drive":"disk.0","bus":"ide.0","unit":0,"bootindex":2}' \
    -device '{"driver":"ide-hd","id":"disk.1","drive":"disk.1","bus":"ide.0","unit":1,"bootindex":3}' \
    -device '{"driver":"ide-cd","id":"disk.2","drive":"disk.2","bus":"ide.1","unit":0,"bootindex":1}' \
    -device '{"driver":"scsi-hd","id":"disk.3","drive":"disk.3","bus":"disk.scsi.0","bootindex":4}' \
    -device '{"driver":"ide-hd","id":"disk.4","drive":"disk.4","bus":"disk.sata.0","bootindex":5}' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -daemonize \
    -pidfile "${run}"/old/pid
}

down() {
    undo 12 end old
    rm -rf "$run"
}

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
