#!/bin/sh
# Process 1 of the built-in guest: settles the cards, prints one ready line, keeps a root shell on the console.
#
# Programs are what costs time here (each exec is some 10 ms under emulation), so this reads files with `read`,
# writes them with `echo`, and passes values in variables instead of `$(…)`.
# shellcheck disable=SC2034  # name and cmdline are read by cards.sh

# Centiseconds that the ready line waits for DHCP answers, and for cards that have no carrier yet.
DHCP_PATIENCE=100
CARRIER_PATIENCE=20

. /lib/guest/cards.sh

start_kernel_interfaces() {
    mount -a # from /etc/fstab
    # Only panics on the console from here on: it belongs to the shell.
    echo 1 >/proc/sys/kernel/printk
    read -r cmdline </proc/cmdline
    find_name
    echo "$name" >/proc/sys/kernel/hostname
    echo "127.0.0.1 localhost $name" >/etc/hosts
    ip link set lo up
}

# The button is an input device; the first thing it ever says is that it was pressed. An event is 24 bytes, and the
# driver refuses a read of less.
watch_power_button() {
    for button in /sys/class/input/event*; do
        read -r kind <"$button/device/name" || continue
        [ "$kind" = "Power Button" ] || continue
        { dd bs=24 count=1 of=/dev/null <"/dev/input/${button##*/}" && poweroff -f; } 2>/dev/null &
    done
}

serve_web() {
    echo "$name" >/root/www/index.html
    httpd -h /root/www
}

# `poweroff`, `halt` and `reboot` without -f send these to process 1. Nothing here needs to be asked to stop first.
obey_signals() {
    trap 'poweroff -f' USR2
    trap 'halt -f' USR1
    trap 'reboot -f' TERM
}

# The first shell prints the line, just before its prompt: then whatever is typed after it reaches the shell.
prepare_ready_line() {
    line="qemunet guest ready: $name"
    for path in /sys/class/net/*/device; do
        card=${path%/device}
        card=${card##*/}
        [ "$card" = "*" ] && continue
        addresses=-
        [ -e "/run/$card.addresses" ] && read -r addresses <"/run/$card.addresses"
        line="$line $card=$addresses"
    done
    echo "$line" >/run/ready
}

# In the background, because only `wait` lets a trap run at once. A shell started so has ^C ignored, and so has all
# that it starts; login is the program that sets it back to what a user expects.
keep_shell() {
    export TERM=vt100
    while :; do
        setsid -c login -f root <"$console" >"$console" 2>&1 &
        shell=$!
        while kill -0 "$shell" 2>/dev/null; do wait "$shell"; done
    done
}

console=/dev/ttyS0
obey_signals
start_kernel_interfaces
load_drivers
adopt_cards
follow_carriers # asks for the leases; what comes until settle_cards is done while they are on their way
modprobe -aq button evdev
watch_power_button
serve_web
settle_cards "$DHCP_PATIENCE" "$CARRIER_PATIENCE"
prepare_ready_line
watch_cards &
keep_shell
