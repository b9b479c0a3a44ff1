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

    # net/lan
    nft -f - <<'QEMUNET'
create table inet qemunet-lan-687e5bbf
table inet qemunet-lan-687e5bbf {
    comment "qemunet.net-lan.firewall"

    chain early {
        type filter hook prerouting priority raw; policy accept;
        iifname "virbr4" notrack
    }

    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "virbr4" oifname "virbr4" accept
        iifname "qn-lan-host" oifname "qn-lan-host" accept
        iifname "qn-lan-host" jump from-guests
        oifname "qn-lan-host" jump to-guests
    }

    chain from-guests {
        reject with icmpx admin-prohibited
    }

    chain to-guests {
        reject with icmpx admin-prohibited
    }

    chain input {
        type filter hook input priority filter; policy accept;
        iifname "qn-lan-host" jump to-host
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
    did 1
    ip link add name virbr4 address 52:54:00:ef:db:64 mtu 1401 group 1753111487 type bridge forward_delay 0 ageing_time 30000 stp_state 0 no_linklocal_learn 1
    did 2
    ip link property add dev virbr4 altname qemunet.net-lan.bridge
    ip link set dev virbr4 mtu 1400
    ip link add name qn-lan-host address 52:54:00:52:2b:d1 mtu 1400 group 1753111487 type veth peer name qn-lan-port address fe:54:00:52:2b:d1 mtu 1400 group 1753111487
    did 3
    ip link property add dev qn-lan-host altname qemunet.net-lan.host
    ip link property add dev qn-lan-port altname qemunet.net-lan.port
    sysctl -e -qw net.ipv6.conf.virbr4.disable_ipv6=1
    sysctl -e -qw net.ipv6.conf.qn-lan-port.disable_ipv6=1
    ip link set dev qn-lan-port master virbr4
    sysctl -e -qw net.ipv6.conf.qn-lan-host.accept_ra=0
    sysctl -e -qw net.ipv6.conf.qn-lan-host.autoconf=0
    ip address add 192.168.50.1/24 dev qn-lan-host
    ip address add fd77::1/64 dev qn-lan-host nodad
    sysctl -qw net.ipv4.conf.virbr4.arp_ignore=8
    sysctl -qw net.ipv4.conf.virbr4.rp_filter=1
    ip link set dev qn-lan-host up
    if command -v ethtool >/dev/null; then ethtool -K qn-lan-host tx off >/dev/null; else echo "note: without ethtool some guests do not take the answers of DHCP" >&2; fi
    sysctl -e -qw net.ipv6.conf.qn-lan-host.accept_dad=0
    mkdir -p "$run"/lan.dnsmasq/hosts
    did 19
    cat >"$run"/lan.dnsmasq/dnsmasq.conf <<'QEMUNET'
# network lan
interface=qn-lan-host
except-interface=lo
bind-dynamic
no-hosts
strict-order
domain-needed
expand-hosts
no-resolv
rev-server=192.168.50.0/24
rev-server=fd77::/64
quiet-dhcp
quiet-dhcp6
quiet-ra
dhcp-name-match=set:wpad,wpad
dhcp-ignore-names=tag:wpad
dhcp-range=192.168.50.128,192.168.50.254,255.255.255.0,3600
dhcp-lease-max=383
dhcp-authoritative
dhcp-no-override
no-ping
dhcp-option=option:router
dhcp-option=option:mtu,1400
enable-ra
ra-param=qn-lan-host,mtu:1400,60,0
dhcp-range=fd77::,ra-stateless,ra-names,64,3600
QEMUNET
    cat >"$run"/lan.dnsmasq/names <<'QEMUNET'
QEMUNET
    cat >"$run"/lan.dnsmasq/hosts/known <<'QEMUNET'
QEMUNET
    dnsmasq --conf-file="$run"/lan.dnsmasq/dnsmasq.conf --dhcp-hostsdir="$run"/lan.dnsmasq/hosts --addn-hosts="$run"/lan.dnsmasq/names --dhcp-leasefile="$run"/lan.dnsmasq/leases --pid-file="$run"/lan.dnsmasq/pid
    ip link set dev qn-lan-port up
    ip link set dev virbr4 up

    # vm/kali2
    user=1879048192 group=1879048192
    printf '%s\n' 52:54:00:79:38:12,192.168.50.12,kali2 >"$run"/lan.dnsmasq/hosts/kali2.net0
    did 25
    ip tuntap add dev qn-kali2-net0 mode tap vnet_hdr user "$user"
    did 26
    ip link property add dev qn-kali2-net0 altname qemunet.vm-kali2.net0
    sysctl -e -qw net.ipv6.conf.qn-kali2-net0.disable_ipv6=1
    ip link set dev qn-kali2-net0 address fe:54:00:79:38:12 mtu 1400 group 1767316584 master virbr4 up
    did 29
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
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:79:38:12","bus":"rp.0","addr":"0x0","host_mtu":1400,"acpi-index":1,"romfile":""}' \
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
    undo 29 end kali2
    undo 26 ip link del dev qn-kali2-net0
    undo 25 rm -f "$run"/lan.dnsmasq/hosts/kali2.net0
    undo 19 end lan.dnsmasq
    undo 3 ip link del dev qn-lan-host
    undo 2 ip link del dev virbr4
    undo 1 nft delete table inet qemunet-lan-687e5bbf
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
