# shellcheck shell=sh
# The network cards of the built-in guest: loads their drivers, sets them up as the kernel command line says, else
# by DHCP, and follows them while they come and go.
#
# What is known of a card lies in /run: CARD.index (the kernel's number: another one means another card of the same
# name), CARD.ups (how often it had gained its carrier when DHCP was last asked, "none" before), CARD.dhcp (the
# client's process), CARD.addresses (the comma separated addresses that it was given).

SYS=${SYS:-/sys} # the tests put other trees here
RUN=${RUN:-/run}

# The word qemunet.name=NAME of $cmdline, in $name.
find_name() {
    name=guest
    for word in $cmdline; do
        case $word in qemunet.name=?*) name=${word#*=} ;; esac
    done
}

# What $cmdline wishes for the card with this MAC, in $wish: "none", or addresses and via=GATEWAY; "dhcp" if nothing.
find_wish() {
    wish=dhcp
    for word in $cmdline; do
        case $word in qemunet.nic="$1",?*) wish=${word#*,} ;; esac
    done
}

# Whether a driver for this modalias may be among ours: the loader would read all its tables for each of the others.
concerns_us() {
    case $1 in
    virtio:* | pci:*bc02sc* | pci:v00001AF4d*) ;;
    *) return 1 ;;
    esac
}

# A virtio card is two devices: the second appears on the virtio bus when the first has its driver.
load_drivers() {
    seen=
    # microvm has no PCI bus: its virtio devices are these.
    [ -e "$SYS/bus/acpi/devices/LNRO0005:00" ] && modprobe -q virtio_mmio
    load_drivers_of "$SYS"/bus/pci/devices/*
    load_drivers_of "$SYS"/bus/virtio/devices/*
}

load_drivers_of() {
    aliases=
    for device; do
        seen="$seen $device"
        [ -e "$device/modalias" ] && [ ! -e "$device/driver" ] && read -r alias <"$device/modalias" || continue
        concerns_us "$alias" && aliases="$aliases $alias"
    done
    # shellcheck disable=SC2086  # a list, and no modalias has blanks
    [ -z "$aliases" ] || modprobe -aq $aliases
}

# Sets up the cards that are new and forgets those that are gone.
adopt_cards() {
    for device in "$SYS"/class/net/*/device; do
        card=${device%/device}
        card=${card##*/}
        [ "$card" != "*" ] || continue
        { read -r index <"$SYS/class/net/$card/ifindex"; } 2>/dev/null || continue  # it may have just gone
        known=
        [ -e "$RUN/$card.index" ] && read -r known <"$RUN/$card.index"
        [ "$index" = "$known" ] || adopt_card "$card" "$index"
    done
    for record in "$RUN"/*.index; do
        card=${record%.index}
        card=${card##*/}
        [ "$card" = "*" ] || [ -e "$SYS/class/net/$card" ] || forget_card "$card"
    done
}

adopt_card() {
    forget_card "$1"
    read -r mac <"$SYS/class/net/$1/address" || return
    find_wish "$mac"
    echo "$2" >"$RUN/$1.index"
    case $wish in
    dhcp) ip link set "$1" up && echo none >"$RUN/$1.ups" ;;
    *) set_addresses "$1" "$2" ;;
    esac
}

forget_card() {
    [ -e "$RUN/$1.index" ] || return 0
    stop_dhcp "$1"
    rm -f "$RUN/$1".*
}

# Addresses of the card $1 with the number $2, from $wish. The number is also the metric of its default routes, so
# that those of two cards do not clash.
set_addresses() {
    # With duplicate detection an IPv6 address would be unusable for more than a second after the ready line.
    case $wish in *:*/*) echo 0 >"/proc/sys/net/ipv6/conf/$1/accept_dad" ;; esac
    ip link set "$1" up
    given=
    for word in $(IFS=,; echo $wish); do # shellcheck disable=SC2086
        case $word in
        none) ;;
        via=*) ;;
        *) ip addr add "$word" dev "$1" && given="$given,${word%/*}" ;;
        esac
    done
    [ -z "$given" ] || echo "${given#,}" >"$RUN/$1.addresses"
    for word in $(IFS=,; echo $wish); do
        case $word in
        via=*:*) set_gateway -6 "${word#via=}" "$@" ;;
        via=*) set_gateway -4 "${word#via=}" "$@" ;;
        esac
    done
}

# The default route of family $1 by way of $2, on the card $3 with the metric $4. A gateway outside the card's subnets
# is on the wire all the same, where the other end is the host itself.
set_gateway() {
    ip "$1" route add default via "$2" dev "$3" metric "$4" 2>/dev/null && return
    ip "$1" route add "$2" dev "$3" && ip "$1" route add default via "$2" dev "$3" metric "$4"
}

# Asks for a lease on each card that has gained its carrier since it was last asked on: the cable may lead elsewhere
# now. The count, not the state, so that a short interruption is not missed.
follow_carriers() {
    for record in "$RUN"/*.ups; do
        card=${record%.ups}
        card=${card##*/}
        [ "$card" != "*" ] || continue
        carrier=0
        read -r carrier <"$SYS/class/net/$card/carrier" || continue
        [ "$carrier" = 1 ] || continue
        read -r before <"$record"
        read -r ups <"$SYS/class/net/$card/carrier_up_count" || continue
        [ "$ups" = "$before" ] || ask_dhcp "$card" "$ups"
    done 2>/dev/null # a card may go between two lines
}

ask_dhcp() {
    stop_dhcp "$1"
    echo "$2" >"$RUN/$1.ups"
    udhcpc -f -i "$1" -s /lib/guest/lease -x "hostname:$name" -T 1 -t 5 -A 2 >/dev/null 2>&1 &
    echo $! >"$RUN/$1.dhcp"
}

stop_dhcp() {
    [ -e "$RUN/$1.dhcp" ] || return 0
    read -r client <"$RUN/$1.dhcp"
    kill "$client" 2>/dev/null
    rm -f "$RUN/$1.dhcp"
}

# Whether no card is to be waited for any longer: each that asks for a lease has one, or it has no carrier when
# $carriers_due has come. Then it has no cable, or takes seconds (the e1000 family: 2 to 3); it is served when it can.
all_settled() {
    for record in "$RUN"/*.ups; do
        card=${record##*/}
        card=${card%.ups}
        [ "$card" != "*" ] || continue
        [ -e "$RUN/$card.addresses" ] && continue
        carrier=0
        read -r carrier 2>/dev/null <"$SYS/class/net/$card/carrier"
        [ "$carrier" = 0 ] && [ "$now" -ge "$carriers_due" ] || return 1
    done
}

# The time in centiseconds, in $now. (1 before the digits, because 08 would be an octal number.)
read_clock() {
    read -r uptime _ </proc/uptime
    now=$((${uptime%.*} * 100 + 1${uptime#*.} - 100))
}

# Waits until all cards are settled, but no longer than $1 centiseconds, or $2 for cards without a carrier.
settle_cards() {
    exec 3<>"$RUN/events" # both ways, so that it never ends
    read_clock
    deadline=$((now + $1))
    carriers_due=$((now + $2))
    follow_carriers
    until all_settled || [ "$now" -ge "$deadline" ]; do
        read -r -t 0.05 event <&3 # lease writes here
        follow_carriers
        read_clock
    done
}

# For ever: reacts at once to what the kernel announces, and looks itself now and then, because the kernel does not
# announce a carrier, and announced nothing to us before `uevent` was there.
watch_cards() {
    uevent /lib/guest/hotplug &
    agent=
    while :; do
        read -r -t 0.5 event <&3
        [ -n "$agent" ] || [ -s "$RUN/ready" ] || start_agent # when the line is out: nothing is to delay that
        before=$seen
        seen=
        for device in "$SYS"/bus/pci/devices/* "$SYS"/bus/virtio/devices/*; do seen="$seen $device"; done
        [ "$seen" = "$before" ] || load_drivers
        adopt_cards
        follow_carriers
        [ "$agent" != yes ] || note_changes
    done
}

# Begins to talk to the keeper, if there is a port for that; $agent is then yes, else no.
start_agent() {
    . /lib/guest/agent.sh
    agent=no
    find_agent_port
    [ -n "$agent_port" ] || return 0
    agent=yes
    told=nothing
    exec 5<>"$RUN/asked" # both ways, so that nobody who writes there has to wait for a reader
    serve_keeper &
}
