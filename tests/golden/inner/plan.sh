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
    enter setpriv --reuid "$user" --regid "$group" --groups "${kvm:-$group}" --inh-caps=-all --bounding-set=-all \
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
    ${lowered:-enter} "$@"
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

enter() { # run a command where QEMU is to be: in namespace $netns, if there is one
    if [ "$netns" ]; then ip netns exec "$netns" "$@"; else "$@"; fi
}

up() {
    mkdir -p "$run/done"

    # netns/sw1
    ip netns add sw1
    did 1
    ip -n sw1 link set dev lo up

    # netns/netns1
    ip netns add netns1
    did 3
    ip -n netns1 link set dev lo up

    # net/lan
    ip netns exec sw1 nft -f - <<'QEMUNET'
create table inet qemunet-lan-687e5bbf
table inet qemunet-lan-687e5bbf {
    comment "qemunet.net-lan.firewall"

    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "qn-lan" oifname "qn-lan" accept
        iifname "qn-lan" jump from-guests
        oifname "qn-lan" jump to-guests
    }

    chain from-guests {
        reject with icmpx admin-prohibited
    }

    chain to-guests {
        reject with icmpx admin-prohibited
    }

    chain input {
        type filter hook input priority filter; policy accept;
        iifname "qn-lan" jump to-host
    }

    chain to-host {
        ct state established,related accept
        icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld-listener-done, mld2-listener-report } accept
        meta nfproto ipv4 udp dport 67 accept
        meta nfproto ipv6 udp dport 547 accept
        meta l4proto { tcp, udp } th dport 53 accept
        meta l4proto { icmp, ipv6-icmp } accept
        meta l4proto tcp reject with tcp reset
        reject
    }
}
QEMUNET
    did 6
    ip -n sw1 link add name qn-lan address 52:54:00:ef:db:64 mtu 1501 group 1753111487 type bridge forward_delay 0 ageing_time 30000 stp_state 0 no_linklocal_learn 1
    did 7
    ip -n sw1 link property add dev qn-lan altname qemunet.net-lan.bridge
    ip -n sw1 link set dev qn-lan mtu 1500
    ip netns exec sw1 sysctl -e -qw net.ipv6.conf.qn-lan.disable_ipv6=1
    ip -n sw1 address add 10.5.0.254/24 dev qn-lan
    ip -n sw1 link set dev qn-lan up
    if command -v ethtool >/dev/null; then ip netns exec sw1 ethtool -K qn-lan tx off >/dev/null; else echo "note: without ethtool some guests do not take the answers of DHCP" >&2; fi
    mkdir -p "$run"/lan.dnsmasq/hosts
    did 15
    cat >"$run"/lan.dnsmasq/dnsmasq.conf <<'QEMUNET'
# network lan
interface=qn-lan
except-interface=lo
bind-dynamic
no-hosts
strict-order
domain-needed
expand-hosts
no-resolv
rev-server=10.5.0.0/24
quiet-dhcp
quiet-dhcp6
quiet-ra
dhcp-name-match=set:wpad,wpad
dhcp-ignore-names=tag:wpad
dhcp-range=10.5.0.100,10.5.0.200,255.255.255.0,3600
dhcp-lease-max=357
dhcp-authoritative
dhcp-no-override
no-ping
dhcp-option=option:router
dhcp-option=option:mtu,1500
QEMUNET
    cat >"$run"/lan.dnsmasq/names <<'QEMUNET'
QEMUNET
    cat >"$run"/lan.dnsmasq/hosts/known <<'QEMUNET'
QEMUNET
    ip netns exec sw1 dnsmasq --conf-file="$run"/lan.dnsmasq/dnsmasq.conf --dhcp-hostsdir="$run"/lan.dnsmasq/hosts --addn-hosts="$run"/lan.dnsmasq/names --dhcp-leasefile="$run"/lan.dnsmasq/leases --pid-file="$run"/lan.dnsmasq/pid

    # net/outside
    ip link add name qn-outside address 52:54:00:06:4e:23 mtu 1501 group 1980029496 type bridge forward_delay 0 ageing_time 30000 stp_state 0 no_linklocal_learn 1
    did 16
    ip link property add dev qn-outside altname qemunet.net-outside.bridge
    ip link set dev qn-outside mtu 1500
    sysctl -e -qw net.ipv6.conf.qn-outside.disable_ipv6=1
    sysctl -qw net.ipv4.conf.qn-outside.arp_ignore=8
    sysctl -qw net.ipv4.conf.qn-outside.rp_filter=1
    ip link set dev qn-outside up

    # cable/lan-netns1
    ip -n sw1 link add name qn-lan-netns1-a address fe:54:00:28:c1:8a mtu 1500 group 1697426324 type veth peer name eth0 address 52:54:00:07:54:49 mtu 1500 group 1697426324 netns netns1
    did 24
    ip -n sw1 link property add dev qn-lan-netns1-a altname qemunet.cable-lan-netns1.a
    ip netns exec sw1 ip -n netns1 link property add dev eth0 altname qemunet.cable-lan-netns1.b
    ip netns exec sw1 sysctl -e -qw net.ipv6.conf.qn-lan-netns1-a.disable_ipv6=1
    ip -n sw1 link set dev qn-lan-netns1-a master qn-lan
    ip netns exec netns1 sysctl -e -qw net.ipv6.conf.eth0.disable_ipv6=1
    ip -n netns1 address add 10.5.0.1/24 dev eth0
    ip -n netns1 link set dev eth0 up
    ip -n sw1 link set dev qn-lan-netns1-a up

    # cable/lan-host
    ip link add name qn-lan-host-b address 52:54:00:10:a7:84 mtu 1500 group 1475315989 type veth peer name qn-lan-host-a address fe:54:00:ae:c1:2a mtu 1500 group 1475315989 netns sw1
    did 33
    ip link property add dev qn-lan-host-b altname qemunet.cable-lan-host.b
    ip -n sw1 link property add dev qn-lan-host-a altname qemunet.cable-lan-host.a
    ip netns exec sw1 sysctl -e -qw net.ipv6.conf.qn-lan-host-a.disable_ipv6=1
    ip -n sw1 link set dev qn-lan-host-a master qn-lan
    sysctl -e -qw net.ipv6.conf.qn-lan-host-b.disable_ipv6=1
    ip address add 10.5.0.100/24 dev qn-lan-host-b
    ip link set dev qn-lan-host-b up
    ip -n sw1 link set dev qn-lan-host-a up

    # vm/one
    user=1879048192 group=1879048192 netns=''
    printf '%s\n' 52:54:00:ed:6e:ce,10.5.0.11,one >"$run"/lan.dnsmasq/hosts/one.net0
    did 47
    ip netns exec sw1 nft -f - <<'QEMUNET'
create table bridge qemunet-one-net0-5305af2a
table bridge qemunet-one-net0-5305af2a {
    comment "qemunet.vm-one.net0.guard"
    counter bad-mac { }
    counter bad-arp { }
    chain card {
        ether saddr != 52:54:00:ed:6e:ce counter name "bad-mac" drop
        arp saddr ether != 52:54:00:ed:6e:ce counter name "bad-arp" drop
    }
    chain guest {
        type filter hook prerouting priority -300; policy accept;
        iifname "qn-one-net0" goto card
    }
}
QEMUNET
    did 50
    ip tuntap add dev qn-one-net0 mode tap vnet_hdr user "$user"
    did 51
    ip link property add dev qn-one-net0 altname qemunet.vm-one.net0
    ip tuntap add dev qn-one-net1 mode tap vnet_hdr user "$user"
    did 52
    ip link property add dev qn-one-net1 altname qemunet.vm-one.net1
    sysctl -e -qw net.ipv6.conf.qn-one-net1.disable_ipv6=1
    ip link set dev qn-one-net1 address fe:54:00:3e:f4:93 mtu 1500 group 1392881450 master qn-outside up

    # vm/two
    user=1879048193 group=1879048193 netns=sw1
    printf '%s\n' 52:54:00:9b:ad:25,two >"$run"/lan.dnsmasq/hosts/two.net0
    did 60
    ip -n sw1 tuntap add dev qn-two-net0 mode tap vnet_hdr user "$user"
    did 63
    ip -n sw1 link property add dev qn-two-net0 altname qemunet.vm-two.net0
    ip netns exec sw1 sysctl -e -qw net.ipv6.conf.qn-two-net0.disable_ipv6=1
    ip -n sw1 link set dev qn-two-net0 address fe:54:00:9b:ad:25 mtu 1500 group 1141037117 master qn-lan up
    ip -n sw1 tuntap add dev qn-two-net1 mode tap vnet_hdr user "$user"
    did 64
    ip -n sw1 link property add dev qn-two-net1 altname qemunet.vm-two.net1

    # vm/one
    user=1879048192 group=1879048192 netns=''
    did 69
    mkdir -m 700 "${run}"/one
    printf '%s\n' 'set_link net0 off' cont >"${run}"/one/start.in
    : >"${run}"/one/start.out
    give "${run}"/one
    qemu -w /dev/net/tun -r /cache/tiny/vmlinuz -r /cache/tiny/initrd.gz -- qemu-system-x86_64 \
    -name guest=one,process=qemu-one \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/one/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/one/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/one/serial.sock,server=on,wait=off \
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
    -netdev '{"type":"tap","id":"host-net0","ifname":"qn-one-net0","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:ed:6e:ce","bus":"rp.0","addr":"0x0","acpi-index":1,"romfile":""}' \
    -netdev '{"type":"tap","id":"host-net1","ifname":"qn-one-net1","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net1","netdev":"host-net1","mac":"52:54:00:3e:f4:93","bus":"rp.1","addr":"0x0","acpi-index":2,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/one/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=one' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -S \
    -chardev pipe,id=start,path="${run}"/one/start \
    -mon chardev=start,mode=readline \
    -daemonize \
    -pidfile "${run}"/one/pid
    ip link set dev qn-one-net0 netns sw1
    did 70
    ip netns exec sw1 sysctl -e -qw net.ipv6.conf.qn-one-net0.disable_ipv6=1
    ip -n sw1 link set dev qn-one-net0 address fe:54:00:ed:6e:ce mtu 1500 group 1392881450 master qn-lan up
    ip netns exec sw1 tc qdisc replace dev qn-one-net0 root handle 1: tbf rate 10mbit burst 15180b limit 77680b

    # vm/two
    user=1879048193 group=1879048193 netns=sw1
    did 72
    mkdir -m 700 "${run}"/two
    give "${run}"/two
    qemu -w /dev/net/tun -r /cache/tiny/vmlinuz -r /cache/tiny/initrd.gz -- qemu-system-x86_64 \
    -name guest=two,process=qemu-two \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/two/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/two/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/two/serial.sock,server=on,wait=off \
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
    -netdev '{"type":"tap","id":"host-net0","ifname":"qn-two-net0","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:9b:ad:25","bus":"rp.0","addr":"0x0","acpi-index":1,"romfile":""}' \
    -netdev '{"type":"tap","id":"host-net1","ifname":"qn-two-net1","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net1","netdev":"host-net1","mac":"52:54:00:94:15:73","bus":"rp.1","addr":"0x0","acpi-index":2,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/two/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=two' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -daemonize \
    -pidfile "${run}"/two/pid
    ip -n sw1 link set dev qn-two-net1 netns $$
    did 73
    sysctl -e -qw net.ipv6.conf.qn-two-net1.disable_ipv6=1
    ip link set dev qn-two-net1 address fe:54:00:94:15:73 mtu 1500 group 1141037117 master qn-outside up

    # vm/one
    user=1879048192 group=1879048192 netns=''
    ip -n sw1 link set dev qn-one-net0 carrier off
}

down() {
    undo 73 ip link set dev qn-two-net1 netns sw1
    undo 72 end two
    undo 70 ip -n sw1 link set dev qn-one-net0 netns $$
    undo 69 end one
    undo 64 ip -n sw1 link del dev qn-two-net1
    undo 63 ip -n sw1 link del dev qn-two-net0
    undo 60 rm -f "$run"/lan.dnsmasq/hosts/two.net0
    undo 52 ip link del dev qn-one-net1
    undo 51 ip link del dev qn-one-net0
    undo 50 ip netns exec sw1 nft delete table bridge qemunet-one-net0-5305af2a
    undo 47 rm -f "$run"/lan.dnsmasq/hosts/one.net0
    undo 33 ip link del dev qn-lan-host-b
    undo 24 ip -n sw1 link del dev qn-lan-netns1-a
    undo 16 ip link del dev qn-outside
    undo 15 end lan.dnsmasq
    undo 7 ip -n sw1 link del dev qn-lan
    undo 6 ip netns exec sw1 nft delete table inet qemunet-lan-687e5bbf
    undo 3 ip netns del netns1
    undo 1 ip netns del sw1
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
