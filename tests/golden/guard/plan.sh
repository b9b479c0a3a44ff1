#!/bin/sh
# The lab lab-lab without qemunet. Usage: sh FILE [up|down]
set -eu
umask 022
if [ "$(id -u)" -eq 0 ]; then parent=/run; else parent=${XDG_RUNTIME_DIR:?}; fi
run=${run:-$parent/qemunet-sh/lab-lab}  # sockets, pid files, and what was done
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

    # net/lab
    nft -f - <<'QEMUNET'
create table inet qemunet-lab-42388020
table inet qemunet-lab-42388020 {
    comment "qemunet.net-lab.firewall"

    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "qn-lab" oifname "qn-lab" accept
        iifname "qn-lab" jump from-guests
        oifname "qn-lab" jump to-guests
    }

    chain from-guests {
        reject with icmpx admin-prohibited
    }

    chain to-guests {
        reject with icmpx admin-prohibited
    }
}
QEMUNET
    did 1
    ip link add name qn-lab address 52:54:00:a2:c6:b1 mtu 1501 group 1110999072 type bridge forward_delay 0 ageing_time 30000 stp_state 0 no_linklocal_learn 1
    did 2
    ip link property add dev qn-lab altname qemunet.net-lab.bridge
    ip link set dev qn-lab mtu 1500
    sysctl -e -qw net.ipv6.conf.qn-lab.accept_ra=0
    sysctl -e -qw net.ipv6.conf.qn-lab.autoconf=0
    ip address add 192.168.50.1/24 dev qn-lab
    ip address add fd77::1/64 dev qn-lab nodad
    ip link set dev qn-lab up

    # vm/one
    user=1879048192 group=1879048192
    nft -f - <<'QEMUNET'
create table bridge qemunet-one-net0-5305af2a
table bridge qemunet-one-net0-5305af2a {
    comment "qemunet.vm-one.net0.guard"
    counter bad-mac { }
    counter bad-arp { }
    chain card {
        ether saddr != 52:54:00:20:6a:a8 counter name "bad-mac" drop
        arp saddr ether != 52:54:00:20:6a:a8 counter name "bad-arp" drop
    }
    chain guest {
        type filter hook prerouting priority -300; policy accept;
        iifname "qn-one-net0" goto card
    }
}
QEMUNET
    did 17
    ip tuntap add dev qn-one-net0 mode tap vnet_hdr user "$user"
    did 18
    ip link property add dev qn-one-net0 altname qemunet.vm-one.net0
    sysctl -e -qw net.ipv6.conf.qn-one-net0.disable_ipv6=1
    ip link set dev qn-one-net0 address fe:54:00:20:6a:a8 mtu 1500 group 1392881450 master qn-lab up
    nft -f - <<'QEMUNET'
create table bridge qemunet-one-net1-5305af2a
table bridge qemunet-one-net1-5305af2a {
    comment "qemunet.vm-one.net1.guard"
    counter bad-mac { }
    counter bad-arp { }
    counter bad-vlan { }
    counter bad-dhcp { }
    counter bad-ra { }
    counter bad-redirect { }
    counter bad-nd { }
    counter bad-ip { }
    counter bad-other { }
    chain card {
        ether saddr != 52:54:00:64:7a:08 counter name "bad-mac" drop
        ether type { 8021q, 8021ad, 0x9100 } counter name "bad-vlan" drop
        ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name "bad-other" drop
        arp htype != 1 counter name "bad-arp" drop
        arp hlen != 6 counter name "bad-arp" drop
        arp plen != 4 counter name "bad-arp" drop
        arp saddr ether != 52:54:00:64:7a:08 counter name "bad-arp" drop
        arp saddr ip { 192.168.50.1 } counter name "bad-arp" drop
        udp dport { 68, 546 } counter name "bad-dhcp" drop
        udp sport 68 udp dport 67 @th,288,48 != 0x525400647a08 counter name "bad-dhcp" drop
        icmpv6 type nd-router-advert counter name "bad-ra" drop
        ip6 saddr fe80::/10 exthdr frag exists counter name "bad-ra" drop
        icmpv6 type nd-redirect counter name "bad-redirect" drop
        icmp type redirect counter name "bad-redirect" drop
        ip saddr { 192.168.50.1 } counter name "bad-ip" drop
        icmpv6 type nd-neighbor-advert @th,64,128 { 0xfd770000000000000000000000000001, 0xfe80000000000000505400fffea2c6b1 } counter name "bad-nd" drop
        ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 { 0xfd770000000000000000000000000001, 0xfe80000000000000505400fffea2c6b1 } counter name "bad-nd" drop
        ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept
        ip6 saddr :: counter name "bad-ip" drop
        ip6 saddr { fd77::1, fe80::5054:ff:fea2:c6b1 } counter name "bad-ip" drop
    }
    chain guest {
        type filter hook prerouting priority -300; policy accept;
        iifname "qn-one-net1" goto card
    }
}
QEMUNET
    did 19
    ip tuntap add dev qn-one-net1 mode tap vnet_hdr user "$user"
    did 20
    ip link property add dev qn-one-net1 altname qemunet.vm-one.net1
    sysctl -e -qw net.ipv6.conf.qn-one-net1.disable_ipv6=1
    ip link set dev qn-one-net1 address fe:54:00:64:7a:08 mtu 1500 group 1392881450 master qn-lab up
    nft -f - <<'QEMUNET'
create table bridge qemunet-one-net2-5305af2a
table bridge qemunet-one-net2-5305af2a {
    comment "qemunet.vm-one.net2.guard"
    counter bad-mac { }
    counter bad-arp { }
    counter bad-vlan { }
    counter bad-dhcp { }
    counter bad-ra { }
    counter bad-redirect { }
    counter bad-nd { }
    counter bad-ip { }
    counter bad-other { }
    chain card {
        ether saddr != 52:54:00:c5:ae:d9 counter name "bad-mac" drop
        ether type { 8021q, 8021ad, 0x9100 } counter name "bad-vlan" drop
        ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name "bad-other" drop
        arp htype != 1 counter name "bad-arp" drop
        arp hlen != 6 counter name "bad-arp" drop
        arp plen != 4 counter name "bad-arp" drop
        arp saddr ether != 52:54:00:c5:ae:d9 counter name "bad-arp" drop
        arp saddr ip != { 0.0.0.0, 192.168.50.12 } counter name "bad-arp" drop
        udp dport { 68, 546 } counter name "bad-dhcp" drop
        udp sport 68 udp dport 67 @th,288,48 != 0x525400c5aed9 counter name "bad-dhcp" drop
        icmpv6 type nd-router-advert counter name "bad-ra" drop
        ip6 saddr fe80::/10 exthdr frag exists counter name "bad-ra" drop
        icmpv6 type nd-redirect counter name "bad-redirect" drop
        icmp type redirect counter name "bad-redirect" drop
        ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
        ip saddr 0.0.0.0 ip protocol igmp accept
        ip saddr != { 192.168.50.12 } counter name "bad-ip" drop
        icmpv6 type nd-neighbor-advert @th,64,128 != { 0xfd770000000000000000000000000012, 0xfe80000000000000505400fffec5aed9 } counter name "bad-nd" drop
        ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 != { 0xfd770000000000000000000000000012, 0xfe80000000000000505400fffec5aed9 } counter name "bad-nd" drop
        ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept
        ip6 saddr :: counter name "bad-ip" drop
        ip6 saddr != { fd77::12, fe80::5054:ff:fec5:aed9 } counter name "bad-ip" drop
        ether type != { arp, ip, ip6 } counter name "bad-other" drop
    }
    chain guest {
        type filter hook prerouting priority -300; policy accept;
        iifname "qn-one-net2" goto card
    }
}
QEMUNET
    did 21
    ip tuntap add dev qn-one-net2 mode tap vnet_hdr user "$user"
    did 22
    ip link property add dev qn-one-net2 altname qemunet.vm-one.net2
    sysctl -e -qw net.ipv6.conf.qn-one-net2.disable_ipv6=1
    ip link set dev qn-one-net2 address fe:54:00:c5:ae:d9 mtu 1500 group 1392881450 master qn-lab up
    ip link add link eth1 name qn-one-net3 address 52:54:00:8a:48:bf mtu 1500 group 1392881450 type macvtap mode bridge
    did 23
    ip link property add dev qn-one-net3 altname qemunet.vm-one.net3
    sysctl -e -qw net.ipv6.conf.qn-one-net3.disable_ipv6=1
    nft -f - <<'QEMUNET'
create table netdev qemunet-one-net3-5305af2a
table netdev qemunet-one-net3-5305af2a {
    comment "qemunet.vm-one.net3.guard"
    counter bad-mac { }
    counter bad-arp { }
    counter bad-vlan { }
    counter bad-dhcp { }
    counter bad-ra { }
    counter bad-redirect { }
    counter bad-ip { }
    counter bad-other { }
    chain card {
        ether saddr != 52:54:00:8a:48:bf counter name "bad-mac" drop
        ether type { 8021q, 8021ad, 0x9100 } counter name "bad-vlan" drop
        ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name "bad-other" drop
        arp htype != 1 counter name "bad-arp" drop
        arp hlen != 6 counter name "bad-arp" drop
        arp plen != 4 counter name "bad-arp" drop
        arp saddr ether != 52:54:00:8a:48:bf counter name "bad-arp" drop
        arp saddr ip != { 0.0.0.0, 192.0.2.77 } counter name "bad-arp" drop
        udp dport { 68, 546 } counter name "bad-dhcp" drop
        udp sport 68 udp dport 67 @th,288,48 != 0x5254008a48bf counter name "bad-dhcp" drop
        icmpv6 type nd-router-advert counter name "bad-ra" drop
        ip6 saddr fe80::/10 exthdr frag exists counter name "bad-ra" drop
        icmpv6 type nd-redirect counter name "bad-redirect" drop
        icmp type redirect counter name "bad-redirect" drop
        ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
        ip saddr 0.0.0.0 ip protocol igmp accept
        ip saddr != { 192.0.2.77 } counter name "bad-ip" drop
        ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept
        ip6 saddr :: counter name "bad-ip" drop
    }
    chain guest {
        type filter hook egress device "qn-one-net3" priority 0; policy accept;
        goto card
    }
}
QEMUNET
    did 25
    ip link set dev qn-one-net3 up
    nft -f - <<'QEMUNET'
create table inet qemunet-one-net4-5305af2a
table inet qemunet-one-net4-5305af2a {
    comment "qemunet.vm-one.net4.guard"
    counter bad-mac { }
    counter bad-dhcp { }
    counter bad-ra { }
    counter bad-redirect { }
    counter bad-ip { }
    chain card {
        ether saddr != 52:54:00:d8:35:d4 counter name "bad-mac" drop
        udp dport { 68, 546 } counter name "bad-dhcp" drop
        udp sport 68 udp dport 67 @th,288,48 != 0x525400d835d4 counter name "bad-dhcp" drop
        icmpv6 type nd-router-advert counter name "bad-ra" drop
        ip6 saddr fe80::/10 exthdr frag exists counter name "bad-ra" drop
        icmpv6 type nd-redirect counter name "bad-redirect" drop
        icmp type redirect counter name "bad-redirect" drop
        ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
        ip saddr 0.0.0.0 ip protocol igmp accept
        ip saddr != { 10.0.0.2, 10.99.0.0/24 } counter name "bad-ip" drop
        ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept
        ip6 saddr :: counter name "bad-ip" drop
    }
    chain guest {
        type filter hook prerouting priority -300; policy accept;
        iifname "qn-one-net4" goto card
    }
}
QEMUNET
    did 28
    nft -f - <<'QEMUNET'
create table arp qemunet-one-net4-5305af2a-arp
table arp qemunet-one-net4-5305af2a-arp {
    comment "qemunet.vm-one.net4.guard-arp"
    counter bad-arp { }
    chain card {
        arp htype != 1 counter name "bad-arp" drop
        arp hlen != 6 counter name "bad-arp" drop
        arp plen != 4 counter name "bad-arp" drop
        arp saddr ether != 52:54:00:d8:35:d4 counter name "bad-arp" drop
        arp saddr ip != { 0.0.0.0, 10.0.0.2 } counter name "bad-arp" drop
    }
    chain guest {
        type filter hook input priority -300; policy accept;
        iifname "qn-one-net4" goto card
    }
}
QEMUNET
    did 29
    ip tuntap add dev qn-one-net4 mode tap vnet_hdr user "$user"
    did 30
    ip link property add dev qn-one-net4 altname qemunet.vm-one.net4
    ip link set dev qn-one-net4 address fe:54:00:d8:35:d4 mtu 1500 group 1392881450 up
    sysctl -e -qw net.ipv6.conf.qn-one-net4.accept_ra=0
    sysctl -qw net.ipv4.conf.qn-one-net4.forwarding=1
    ip address add 10.0.0.1/30 dev qn-one-net4
    ip route add 10.99.0.0/24 dev qn-one-net4 proto static
    did 34
    did 37
    mkdir -m 700 "${run}"/one
    give "${run}"/one
    node qn-one-net3 "${run}"/one/net3
    exec 3<>"${run}"/one/net3
    rm "${run}"/one/net3
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
    -device '{"driver":"pcie-root-port","id":"rp.10","chassis":11,"port":10,"addr":"0x3.2"}' \
    -device '{"driver":"pcie-root-port","id":"rp.11","chassis":12,"port":11,"addr":"0x3.3"}' \
    -device '{"driver":"pcie-root-port","id":"rp.12","chassis":13,"port":12,"addr":"0x3.4"}' \
    -netdev '{"type":"tap","id":"host-net0","ifname":"qn-one-net0","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:20:6a:a8","bus":"rp.0","addr":"0x0","acpi-index":1,"romfile":""}' \
    -netdev '{"type":"tap","id":"host-net1","ifname":"qn-one-net1","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net1","netdev":"host-net1","mac":"52:54:00:64:7a:08","bus":"rp.1","addr":"0x0","acpi-index":2,"romfile":""}' \
    -netdev '{"type":"tap","id":"host-net2","ifname":"qn-one-net2","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net2","netdev":"host-net2","mac":"52:54:00:c5:ae:d9","bus":"rp.2","addr":"0x0","acpi-index":3,"romfile":""}' \
    -netdev '{"type":"tap","id":"host-net3","fd":"3"}' \
    -device '{"driver":"virtio-net-pci","id":"net3","netdev":"host-net3","mac":"52:54:00:8a:48:bf","bus":"rp.3","addr":"0x0","acpi-index":4,"romfile":""}' \
    -netdev '{"type":"tap","id":"host-net4","ifname":"qn-one-net4","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net4","netdev":"host-net4","mac":"52:54:00:d8:35:d4","bus":"rp.4","addr":"0x0","acpi-index":5,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/one/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=one qemunet.nic=52:54:00:c5:ae:d9,192.168.50.12/24,fd77::12/64 qemunet.nic=52:54:00:8a:48:bf,192.0.2.77/24 qemunet.nic=52:54:00:d8:35:d4,10.0.0.2/30' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -daemonize \
    -pidfile "${run}"/one/pid
    exec 3>&-
}

down() {
    undo 37 end one
    undo 34 ip route del 10.99.0.0/24 dev qn-one-net4
    undo 30 ip link del dev qn-one-net4
    undo 29 nft delete table arp qemunet-one-net4-5305af2a-arp
    undo 28 nft delete table inet qemunet-one-net4-5305af2a
    undo 25 nft delete table netdev qemunet-one-net3-5305af2a
    undo 23 ip link del dev qn-one-net3
    undo 22 ip link del dev qn-one-net2
    undo 21 nft delete table bridge qemunet-one-net2-5305af2a
    undo 20 ip link del dev qn-one-net1
    undo 19 nft delete table bridge qemunet-one-net1-5305af2a
    undo 18 ip link del dev qn-one-net0
    undo 17 nft delete table bridge qemunet-one-net0-5305af2a
    undo 2 ip link del dev qn-lab
    undo 1 nft delete table inet qemunet-lab-42388020
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
