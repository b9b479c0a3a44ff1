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

    # host/forward-eth0
    keep 1 net.ipv4.conf.eth0.forwarding
    sysctl -qw net.ipv4.conf.eth0.forwarding=1

    # net/lan
    nft -f - <<'QEMUNET'
create table inet qemunet-lan-687e5bbf
table inet qemunet-lan-687e5bbf {
    comment "qemunet.net-lan.firewall"

    chain early {
        type filter hook prerouting priority raw; policy accept;
        iifname "qn-lan" ip daddr 127.0.0.0/8 drop
        iifname "qn-lan" ip saddr 127.0.0.0/8 drop
    }

    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "qn-lan" oifname "qn-lan" accept
        iifname "qn-lan" jump from-guests
        oifname "qn-lan" jump to-guests
    }

    chain from-guests {
        oifname != "eth0" reject with icmpx admin-prohibited
        ct state invalid drop
        ct state established,related accept
        ip saddr 192.168.50.0/24 accept
        reject with icmpx admin-prohibited
    }

    chain to-guests {
        iifname != "eth0" reject with icmpx admin-prohibited
        ct state established,related accept
        ct status dnat ip daddr 192.168.50.80 tcp dport 80 accept
        ct status dnat ip daddr 192.168.50.80 udp dport 53-54 accept
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
        tcp dport 3128 accept
        meta l4proto tcp reject with tcp reset
        reject
    }

    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        iifname { "eth0", "qn-lan" } meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 192.168.50.80:80
    }

    chain output {
        type nat hook output priority -100; policy accept;
        meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 192.168.50.80:80
        ip daddr 127.0.0.1 udp dport 5300-5301 dnat ip to udp dport map { 5300 : 192.168.50.80 . 53, 5301 : 192.168.50.80 . 54 }
    }

    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "qn-lan" ct status dnat ip saddr 192.168.50.0/24 masquerade
        oifname "qn-lan" ct status dnat fib saddr type local masquerade
        oifname "qn-lan" accept
        oifgroup 0x40000000-0x7fffffff accept
        ip daddr { 224.0.0.0/4, 255.255.255.255 } accept
        ip saddr 192.168.50.0/24 meta l4proto { tcp, udp } masquerade to :1024-65535
        ip saddr 192.168.50.0/24 masquerade
    }
}
QEMUNET
    did 3
    ip link add name qn-lan address 52:54:00:ef:db:64 mtu 1501 group 1753111487 type bridge forward_delay 0 ageing_time 30000 stp_state 0 no_linklocal_learn 1
    did 4
    ip link property add dev qn-lan altname qemunet.net-lan.bridge
    ip link set dev qn-lan mtu 1500
    sysctl -e -qw net.ipv6.conf.qn-lan.disable_ipv6=1
    ip address add 192.168.50.1/24 dev qn-lan
    sysctl -qw net.ipv4.conf.qn-lan.forwarding=1
    sysctl -qw net.ipv4.conf.qn-lan.route_localnet=1
    ip link set dev qn-lan up
    if command -v ethtool >/dev/null; then ethtool -K qn-lan tx off >/dev/null; else echo "note: without ethtool some guests do not take the answers of DHCP" >&2; fi
    mkdir -p "$run"/lan.dnsmasq/hosts
    did 14
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
server=192.0.2.53
local=/lab.test/
rev-server=192.168.50.0/24
domain=lab.test
quiet-dhcp
quiet-dhcp6
quiet-ra
dhcp-name-match=set:wpad,wpad
dhcp-ignore-names=tag:wpad
dhcp-range=192.168.50.100,192.168.50.200,255.255.255.0,7200
dhcp-lease-max=358
dhcp-authoritative
dhcp-no-override
no-ping
dhcp-option=option:mtu,1500
dhcp-option=option:ntp-server,192.0.2.9
QEMUNET
    cat >"$run"/lan.dnsmasq/names <<'QEMUNET'
192.168.50.20 db
192.168.50.9 printer
QEMUNET
    cat >"$run"/lan.dnsmasq/hosts/known <<'QEMUNET'
52:54:00:aa:bb:cc,192.168.50.9,printer
QEMUNET
    dnsmasq --conf-file="$run"/lan.dnsmasq/dnsmasq.conf --dhcp-hostsdir="$run"/lan.dnsmasq/hosts --addn-hosts="$run"/lan.dnsmasq/names --dhcp-leasefile="$run"/lan.dnsmasq/leases --pid-file="$run"/lan.dnsmasq/pid

    # vm/web
    user=1879048192 group=1879048192
    printf '%s\n' 52:54:00:8a:f4:46,192.168.50.80,web >"$run"/lan.dnsmasq/hosts/web.net0
    did 18
    ip tuntap add dev qn-web-net0 mode tap vnet_hdr user "$user"
    did 19
    ip link property add dev qn-web-net0 altname qemunet.vm-web.net0
    sysctl -e -qw net.ipv6.conf.qn-web-net0.disable_ipv6=1
    ip link set dev qn-web-net0 address fe:54:00:8a:f4:46 mtu 1500 group 1378930277 master qn-lan up

    # vm/desk
    user=1879048193 group=1879048193
    printf '%s\n' 52:54:00:b0:3b:30,desk >"$run"/lan.dnsmasq/hosts/desk.net0
    did 23
    ip tuntap add dev qn-desk-net0 mode tap vnet_hdr user "$user"
    did 24
    ip link property add dev qn-desk-net0 altname qemunet.vm-desk.net0
    sysctl -e -qw net.ipv6.conf.qn-desk-net0.disable_ipv6=1
    ip link set dev qn-desk-net0 address fe:54:00:b0:3b:30 mtu 1500 group 2106195096 master qn-lan up

    # vm/web
    user=1879048192 group=1879048192
    did 29
    mkdir -m 700 "${run}"/web
    give "${run}"/web
    qemu -w /dev/net/tun -r /cache/tiny/vmlinuz -r /cache/tiny/initrd.gz -- qemu-system-x86_64 \
    -name guest=web,process=qemu-web \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/web/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/web/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/web/serial.sock,server=on,wait=off \
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
    -netdev '{"type":"tap","id":"host-net0","ifname":"qn-web-net0","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:8a:f4:46","bus":"rp.0","addr":"0x0","acpi-index":1,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/web/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=web' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -daemonize \
    -pidfile "${run}"/web/pid

    # vm/desk
    user=1879048193 group=1879048193
    did 30
    mkdir -m 700 "${run}"/desk
    give "${run}"/desk
    qemu -w /dev/net/tun -r /cache/tiny/vmlinuz -r /cache/tiny/initrd.gz -- qemu-system-x86_64 \
    -name guest=desk,process=qemu-desk \
    -nodefaults \
    -no-user-config \
    -machine q35 \
    -smp 1 \
    -m 512M \
    -chardev socket,id=qmp,path="${run}"/desk/qmp.sock,server=on,wait=off \
    -mon chardev=qmp,mode=control \
    -chardev socket,id=monitor,path="${run}"/desk/monitor.sock,server=on,wait=off \
    -mon chardev=monitor,mode=control \
    -chardev socket,id=serial,path="${run}"/desk/serial.sock,server=on,wait=off \
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
    -netdev '{"type":"tap","id":"host-net0","ifname":"qn-desk-net0","script":"no","downscript":"no"}' \
    -device '{"driver":"virtio-net-pci","id":"net0","netdev":"host-net0","mac":"52:54:00:b0:3b:30","bus":"rp.0","addr":"0x0","acpi-index":1,"romfile":""}' \
    -chardev socket,id=agent,path="${run}"/desk/agent.sock,server=on,wait=off \
    -device '{"id":"ports.0","driver":"virtio-serial-pci","bus":"pcie.0","addr":"0x1f.0x4","disable-legacy":"on"}' \
    -device '{"driver":"virtserialport","id":"agent.0","bus":"ports.0.0","chardev":"agent","name":"org.qemunet.agent.0"}' \
    -kernel /cache/tiny/vmlinuz \
    -initrd /cache/tiny/initrd.gz \
    -append 'console=ttyS0 quiet qemunet.name=desk' \
    -sandbox on,obsolete=deny,resourcecontrol=deny \
    -accel tcg \
    -daemonize \
    -pidfile "${run}"/desk/pid
}

down() {
    undo 30 end desk
    undo 29 end web
    undo 24 ip link del dev qn-desk-net0
    undo 23 rm -f "$run"/lan.dnsmasq/hosts/desk.net0
    undo 19 ip link del dev qn-web-net0
    undo 18 rm -f "$run"/lan.dnsmasq/hosts/web.net0
    undo 14 end lan.dnsmasq
    undo 4 ip link del dev qn-lan
    undo 3 nft delete table inet qemunet-lan-687e5bbf
    restore 1 net.ipv4.conf.eth0.forwarding 1
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
