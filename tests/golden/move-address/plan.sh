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

up() {
    mkdir -p "$run/done"

    # net/lan
    ip link add name br0 address 00:00:5e:00:53:02 mtu 1451 group 1753111487 type bridge forward_delay 0 ageing_time 30000 stp_state 0 no_linklocal_learn 1
    did 1
    ip link property add dev br0 altname qemunet.net-lan.bridge
    ip link set dev br0 mtu 1450
    sysctl -qw net.ipv4.conf.br0.forwarding=1
    sysctl -e -qw net.ipv6.conf.br0.accept_ra=2
    ip link set dev br0 up
    undetected fe80::200:5eff:fe00:5302/64 scope link dev br0
    did 5
    ip link set dev eth0 master br0
    did 6
    ip address add 192.0.2.2/24 broadcast 192.0.2.255 dev br0 valid_lft "$(left 9000)" preferred_lft "$(left 9000)"
    did 7
    ip address add 192.0.2.3/24 broadcast 192.0.2.255 label br0:1 dev br0
    did 8
    undetected 2001:db8::2/64 dev br0
    did 9
    reroute 0.0.0.0/0 table 254 proto 16 scope global metric 100 src 192.0.2.2 via 192.0.2.1 dev br0
    did 10
    reroute 198.51.100.0/24 table 99 proto 4 scope global via 192.0.2.9 dev br0
    did 11
    reroute 203.0.113.0/24 table 254 proto 4 scope global mtu 1400 nexthop via 192.0.2.8 dev br0 weight 2 nexthop via 192.0.2.9 dev br0 weight 1
    did 12
    reroute ::/0 table 254 proto 9 metric 1024 via fe80::1 dev br0 expires "$(left 5000)"
    did 13
    ip route del ::/0 table 254 proto 9 metric 1024 via fe80::1 dev eth0
    did 14
    ip route del 203.0.113.0/24 table 254 proto 4 scope global mtu 1400 nexthop via 192.0.2.8 dev eth0 weight 2 nexthop via 192.0.2.9 dev eth0 weight 1
    did 15
    ip route del 198.51.100.0/24 table 99 proto 4 scope global via 192.0.2.9 dev eth0
    did 16
    ip route del 0.0.0.0/0 table 254 proto 16 scope global metric 100 src 192.0.2.2 via 192.0.2.1 dev eth0
    did 17
    ip address del 2001:db8::2/64 dev eth0
    did 18
    ip address del 192.0.2.3/24 dev eth0
    did 19
    ip address del 192.0.2.2/24 dev eth0
    did 20

    # vm/alice
    user=1879048192 group=1879048192
    ip tuntap add dev qn-alice-net0 mode tap vnet_hdr user "$user"
    did 24
    ip link property add dev qn-alice-net0 altname qemunet.vm-alice.net0
    sysctl -e -qw net.ipv6.conf.qn-alice-net0.disable_ipv6=1
    ip link set dev qn-alice-net0 address fe:54:00:e4:90:57 mtu 1450 group 1815528449 master br0 up
    did 27
    mkdir -m 700 "${run}"/alice
    give "${run}"/alice
    qemu -w /dev/net/tun -r /cache/tiny/vmlinuz -r /cache/tiny/initrd.gz -- qemu-system-x86_64 \
    -name guest=alice,process=qemu-alice \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/alice/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/alice/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/alice/serial.sock,server=on,wait=off \
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
    -device '{"driver":"pcie-root-port","id":"rp.8","chassis":9,"port":8,"addr":"0x3.0"}' \
    -netdev '{"type":"tap","id":"host-net0","ifname":"qn-alice-net0","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:e4:90:57","bus":"rp.0","addr":"0x0","host_mtu":1450,"acpi-index":1,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/alice/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=alice' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -daemonize \
    -pidfile "${run}"/alice/pid
}

down() {
    undo 27 end alice
    undo 24 ip link del dev qn-alice-net0
    undo 20 ip address add 192.0.2.2/24 broadcast 192.0.2.255 dev eth0 valid_lft "$(left 9000)" preferred_lft "$(left 9000)"
    undo 19 ip address add 192.0.2.3/24 broadcast 192.0.2.255 label eth0:1 dev eth0
    undo 18 undetected 2001:db8::2/64 dev eth0
    undo 17 reroute 0.0.0.0/0 table 254 proto 16 scope global metric 100 src 192.0.2.2 via 192.0.2.1 dev eth0
    undo 16 reroute 198.51.100.0/24 table 99 proto 4 scope global via 192.0.2.9 dev eth0
    undo 15 reroute 203.0.113.0/24 table 254 proto 4 scope global mtu 1400 nexthop via 192.0.2.8 dev eth0 weight 2 nexthop via 192.0.2.9 dev eth0 weight 1
    undo 14 reroute ::/0 table 254 proto 9 metric 1024 via fe80::1 dev eth0 expires "$(left 5000)"
    undo 13 ip route del ::/0 table 254 proto 9 metric 1024 via fe80::1 dev br0
    undo 12 ip route del 203.0.113.0/24 table 254 proto 4 scope global mtu 1400 nexthop via 192.0.2.8 dev br0 weight 2 nexthop via 192.0.2.9 dev br0 weight 1
    undo 11 ip route del 198.51.100.0/24 table 99 proto 4 scope global via 192.0.2.9 dev br0
    undo 10 ip route del 0.0.0.0/0 table 254 proto 16 scope global metric 100 src 192.0.2.2 via 192.0.2.1 dev br0
    undo 9 ip address del 2001:db8::2/64 dev br0
    undo 8 ip address del 192.0.2.3/24 dev br0
    undo 7 ip address del 192.0.2.2/24 dev br0
    undo 6 ip link set dev eth0 nomaster
    undo 5 ip address del fe80::200:5eff:fe00:5302/64 dev br0
    undo 1 ip link del dev br0
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
