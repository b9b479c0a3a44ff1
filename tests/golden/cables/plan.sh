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

    # net/virbr4
    ip link add name virbr4 address 52:54:00:7a:09:a9 mtu 1501 group 1435554662 type bridge forward_delay 200 ageing_time 30000 stp_state 1 no_linklocal_learn 1
    did 1
    ip link property add dev virbr4 altname qemunet.net-virbr4.bridge
    ip link set dev virbr4 mtu 1500
    sysctl -e -qw net.ipv6.conf.virbr4.disable_ipv6=1
    sysctl -qw net.ipv4.conf.virbr4.arp_ignore=8
    sysctl -qw net.ipv4.conf.virbr4.rp_filter=1
    ip link set dev virbr4 up

    # net/virbr6
    ip link add name virbr6 address 52:54:00:bd:3c:7f mtu 1401 group 1863805953 type bridge forward_delay 0 ageing_time 30000 stp_state 0 no_linklocal_learn 1
    did 6
    ip link property add dev virbr6 altname qemunet.net-virbr6.bridge
    ip link set dev virbr6 mtu 1400
    sysctl -e -qw net.ipv6.conf.virbr6.disable_ipv6=1
    sysctl -qw net.ipv4.conf.virbr6.arp_ignore=8
    sysctl -qw net.ipv4.conf.virbr6.rp_filter=1
    ip link set dev virbr6 up

    # cable/virbr4-virbr6
    ip link add name vethb1 address fe:54:00:02:4a:77 mtu 1400 group 1635280710 type veth peer name vethb2 address fe:54:00:a3:81:99 mtu 1400 group 1635280710
    did 13
    ip link property add dev vethb1 altname qemunet.cable-virbr4-virbr6.a
    ip link property add dev vethb2 altname qemunet.cable-virbr4-virbr6.b
    sysctl -e -qw net.ipv6.conf.vethb1.disable_ipv6=1
    ip link set dev vethb1 master virbr4
    sysctl -e -qw net.ipv6.conf.vethb2.disable_ipv6=1
    ip link set dev vethb2 master virbr6
    ip link set dev vethb1 up
    ip link set dev vethb2 up

    # cable/host-plug
    ip link add name vmh1 address fe:54:00:b3:20:f5 mtu 1500 group 1889829737 type veth peer name vmh2 address 02:00:00:00:50:01 mtu 1500 group 1889829737
    did 21
    ip link property add dev vmh1 altname qemunet.cable-host-plug.a
    ip link property add dev vmh2 altname qemunet.cable-host-plug.b
    sysctl -e -qw net.ipv6.conf.vmh1.disable_ipv6=1
    ip link set dev vmh1 master virbr4
    sysctl -e -qw net.ipv6.conf.vmh2.accept_ra=0
    sysctl -e -qw net.ipv6.conf.vmh2.autoconf=0
    ip address add 192.168.50.1/24 dev vmh2
    ip address add fd77::1/64 dev vmh2 nodad
    ip link set dev vmh2 up
    ip route add 192.168.60.0/24 dev vmh2 proto static
    did 29
    ip route add 192.168.70.0/24 via 192.168.50.254 dev vmh2 proto static
    did 30
    ip link set dev vmh1 up

    # cable/to-vmware
    ip link add name qn-to-vmware-a address fe:54:00:15:aa:af mtu 9000 group 2006486131 type veth peer name qn-to-vmware-b address 52:54:00:65:4f:08 mtu 9000 group 2006486131
    did 33
    ip link property add dev qn-to-vmware-a altname qemunet.cable-to-vmware.a
    ip link property add dev qn-to-vmware-b altname qemunet.cable-to-vmware.b
    sysctl -e -qw net.ipv6.conf.qn-to-vmware-a.disable_ipv6=1
    ip link set dev qn-to-vmware-a master virbr4
    sysctl -e -qw net.ipv6.conf.qn-to-vmware-b.disable_ipv6=1
    ip link set dev qn-to-vmware-b up
    ip link set dev qn-to-vmware-a up

    # cable/to-br0
    pin br0
    ip link set dev br0 mtu 1501
    ip link set dev br0 mtu 1500
    ip link add name qn-to-br0-a address fe:54:00:d7:e2:4a mtu 1400 group 1172219936 type veth peer name qn-to-br0-b address fe:54:00:98:95:e8 mtu 1400 group 1172219936
    did 41
    ip link property add dev qn-to-br0-a altname qemunet.cable-to-br0.a
    ip link property add dev qn-to-br0-b altname qemunet.cable-to-br0.b
    sysctl -e -qw net.ipv6.conf.qn-to-br0-a.disable_ipv6=1
    ip link set dev qn-to-br0-a master br0
    sysctl -e -qw net.ipv6.conf.qn-to-br0-b.disable_ipv6=1
    ip link set dev qn-to-br0-b master virbr6
    ip link set dev qn-to-br0-a up
    ip link set dev qn-to-br0-b up

    # vm/kali2
    user=1879048192 group=1879048192
    ip tuntap add dev qn-kali2-net0 mode tap vnet_hdr user "$user"
    did 55
    ip link property add dev qn-kali2-net0 altname qemunet.vm-kali2.net0
    sysctl -e -qw net.ipv6.conf.qn-kali2-net0.disable_ipv6=1
    ip link set dev qn-kali2-net0 address fe:54:00:79:38:12 mtu 1500 group 1767316584 master virbr4 up
    did 58
    mkdir -m 700 "${run}"/kali2
    give "${run}"/kali2
    qemu -w /dev/net/tun -r /cache/tiny/vmlinuz -r /cache/tiny/initrd.gz -- qemu-system-x86_64 \
    -name guest=kali2,process=qemu-kali2 \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/kali2/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/kali2/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/kali2/serial.sock,server=on,wait=off \
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
    -netdev '{"type":"tap","id":"host-net0","ifname":"qn-kali2-net0","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:79:38:12","bus":"rp.0","addr":"0x0","acpi-index":1,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/kali2/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=kali2' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -daemonize \
    -pidfile "${run}"/kali2/pid
}

down() {
    undo 58 end kali2
    undo 55 ip link del dev qn-kali2-net0
    undo 41 ip link del dev qn-to-br0-a
    undo 33 ip link del dev qn-to-vmware-a
    undo 30 ip route del 192.168.70.0/24 dev vmh2
    undo 29 ip route del 192.168.60.0/24 dev vmh2
    undo 21 ip link del dev vmh1
    undo 13 ip link del dev vethb1
    undo 6 ip link del dev virbr6
    undo 1 ip link del dev virbr4
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
