#!/bin/sh
# What udhcpc runs when a lease on $interface comes ($ip, $mask, $router, $dns, $mtu, $domain), changes or ends.
# shellcheck disable=SC2154  # they come from udhcpc

record=/run/$interface.addresses
resolver=/run/$interface.resolv

write_resolver() {
    [ -z "$domain" ] || echo "search $domain"
    for server in $dns; do echo "nameserver $server"; done
}

# With the shell's own means: a program more is 10 ms later.
merge_resolvers() {
    for part in /run/*.resolv; do
        [ -e "$part" ] || continue
        while read -r line; do echo "$line"; done <"$part"
    done >/etc/resolv.conf
}

drop() {
    [ -e "$record" ] || return 0 # a card that has just appeared: nothing to take back
    ip -4 addr flush dev "$interface"
    rm -f "$record" "$resolver"
    merge_resolvers
}

# The card's number is the metric, so that the default routes of two cards do not clash.
set_routes() {
    read -r metric <"/sys/class/net/$interface/ifindex"
    # The classless routes replace the router option where a server sends both.
    # shellcheck disable=SC2086  # pairs of words
    set -- ${staticroutes:-${router:+0.0.0.0/0 ${router%% *}}}
    while [ $# -ge 2 ]; do
        via="via $2"
        [ "$2" = 0.0.0.0 ] && via=
        # shellcheck disable=SC2086  # two words or none
        ip route replace "$1" $via dev "$interface" metric "$metric"
        shift 2
    done
}

take() {
    before=
    [ -e "$record" ] && read -r before <"$record"
    if [ "$before" != "$ip" ]; then
        [ -z "$before" ] || ip -4 addr flush dev "$interface"
        ip addr add "$ip/${mask:-24}" broadcast + dev "$interface"
    fi
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    set_routes
    write_resolver >"$resolver"
    merge_resolvers
    echo "$ip" >"$record"
    echo lease >/run/events
}

case $1 in
bound | renew) take ;;
deconfig) drop ;;
esac
