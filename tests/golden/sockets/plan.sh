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
    did 12

    # vm/right
    user=1879048193 group=1879048193
    did 20
    mkdir -m 700 "${run}"/right
    printf '%s\n' 'set_link net0 off' cont >"${run}"/right/start.in
    : >"${run}"/right/start.out
    give "${run}"/right
    qemu -w /lab -r /cache/tiny/vmlinuz -r /cache/tiny/initrd.gz -- qemu-system-x86_64 \
    -name guest=right,process=qemu-right \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/right/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/right/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/right/serial.sock,server=on,wait=off \
    -serial chardev:serial \
    -display none \
    -device '{"driver":"pcie-root-port","id":"rp.0","chassis":1,"port":0,"addr":"0x2.0","multifunction":true}' \
    -device '{"driver":"pcie-root-port","id":"rp.1","chassis":2,"port":1,"addr":"0x2.1"}' \
    -device '{"driver":"pcie-root-port","id":"rp.2","chassis":3,"port":2,"addr":"0x2.2"}' \
    -device '{"driver":"pcie-root-port","id":"rp.3","chassis":4,"port":3,"addr":"0x2.3"}' \
    -device '{"driver":"pcie-root-port","id":"rp.4","chassis":5,"port":4,"addr":"0x2.4"}' \
    -device '{"driver":"pcie-root-port","id":"rp.5","chassis":6,"port":5,"addr":"0x2.5"}' \
    -device '{"driver":"pcie-root-port","id":"rp.6","chassis":7,"port":6,"addr":"0x2.6"}' \
    -device '{"driver":"pcie-root-port","id":"rp.7","chassis":8,"port":7,"addr":"0x2.7"}' \
    -device '{"driver":"pcie-root-port","id":"rp.8","chassis":9,"port":8,"addr":"0x3.0","multifunction":true}' \
    -device '{"driver":"pcie-root-port","id":"rp.9","chassis":10,"port":9,"addr":"0x3.1"}' \
    -device '{"driver":"pcie-root-port","id":"rp.10","chassis":11,"port":10,"addr":"0x3.2"}' \
    -netdev '{"id":"host-net0","type":"stream","server":true,"addr":{"type":"inet","host":"::1","port":"5001"}}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:23:cd:71","bus":"rp.0","addr":"0x0","acpi-index":1,"romfile":""}' \
    -netdev '{"id":"host-net1","type":"stream","server":true,"addr":{"type":"unix","path":"/lab/wire.sock"}}' \
    -device '{"driver":"virtio-net-pci","id":"net1","netdev":"host-net1","mac":"52:54:00:10:ea:53","bus":"rp.1","addr":"0x0","acpi-index":2,"romfile":""}' \
    -netdev '{"id":"host-net2","type":"dgram","local":{"type":"inet","host":"0.0.0.0","port":"5003"},"remote":{"type":"inet","host":"127.0.0.1","port":"5002"}}' \
    -device '{"driver":"virtio-net-pci","id":"net2","netdev":"host-net2","mac":"52:54:00:d1:f7:72","bus":"rp.2","addr":"0x0","acpi-index":3,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/right/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=right' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -S \
    -chardev pipe,id=start,path="${run}"/right/start \
    -mon chardev=start,mode=readline \
    -daemonize \
    -pidfile "${run}"/right/pid

    # vm/left
    user=1879048192 group=1879048192
    did 21
    mkdir -m 700 "${run}"/left
    give "${run}"/left
    qemu -w /lab -r /cache/tiny/vmlinuz -r /cache/tiny/initrd.gz -- qemu-system-x86_64 \
    -name guest=left,process=qemu-left \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/left/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/left/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/left/serial.sock,server=on,wait=off \
    -serial chardev:serial \
    -display none \
    -device '{"driver":"pcie-root-port","id":"rp.0","chassis":1,"port":0,"addr":"0x2.0","multifunction":true}' \
    -device '{"driver":"pcie-root-port","id":"rp.1","chassis":2,"port":1,"addr":"0x2.1"}' \
    -device '{"driver":"pcie-root-port","id":"rp.2","chassis":3,"port":2,"addr":"0x2.2"}' \
    -device '{"driver":"pcie-root-port","id":"rp.3","chassis":4,"port":3,"addr":"0x2.3"}' \
    -device '{"driver":"pcie-root-port","id":"rp.4","chassis":5,"port":4,"addr":"0x2.4"}' \
    -device '{"driver":"pcie-root-port","id":"rp.5","chassis":6,"port":5,"addr":"0x2.5"}' \
    -device '{"driver":"pcie-root-port","id":"rp.6","chassis":7,"port":6,"addr":"0x2.6"}' \
    -device '{"driver":"pcie-root-port","id":"rp.7","chassis":8,"port":7,"addr":"0x2.7"}' \
    -device '{"driver":"pcie-root-port","id":"rp.8","chassis":9,"port":8,"addr":"0x3.0","multifunction":true}' \
    -device '{"driver":"pcie-root-port","id":"rp.9","chassis":10,"port":9,"addr":"0x3.1"}' \
    -device '{"driver":"pcie-root-port","id":"rp.10","chassis":11,"port":10,"addr":"0x3.2"}' \
    -device '{"driver":"pcie-root-port","id":"rp.11","chassis":12,"port":11,"addr":"0x3.3"}' \
    -netdev '{"id":"host-net0","type":"stream","server":false,"addr":{"type":"inet","host":"::1","port":"5001"}}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:7a:fc:37","bus":"rp.0","addr":"0x0","acpi-index":1,"romfile":""}' \
    -netdev '{"id":"host-net1","type":"stream","server":false,"addr":{"type":"unix","path":"/lab/wire.sock"}}' \
    -device '{"driver":"virtio-net-pci","id":"net1","netdev":"host-net1","mac":"52:54:00:a3:9b:de","bus":"rp.1","addr":"0x0","acpi-index":2,"romfile":""}' \
    -netdev '{"id":"host-net2","type":"dgram","local":{"type":"inet","host":"127.0.0.1","port":"5002"},"remote":{"type":"inet","host":"127.0.0.1","port":"5003"}}' \
    -device '{"driver":"virtio-net-pci","id":"net2","netdev":"host-net2","mac":"52:54:00:31:01:af","bus":"rp.2","addr":"0x0","acpi-index":3,"romfile":""}' \
    -netdev '{"id":"host-net3","type":"dgram","remote":{"type":"inet","host":"230.0.0.1","port":"5004"},"local":{"type":"inet","host":"127.0.0.1","port":"0"}}' \
    -device '{"driver":"e1000","id":"net3","netdev":"host-net3","mac":"52:54:00:bb:a6:fe","bus":"rp.3","addr":"0x0","acpi-index":4,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/left/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=left' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -daemonize \
    -pidfile "${run}"/left/pid
}

down() {
    undo 21 end left
    undo 20 end right
    undo 12 rm -f /lab/wire.sock
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
