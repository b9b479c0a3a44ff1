# shellcheck shell=sh
# Tells the keeper on the host, over the second serial port, what the cards are called and which addresses they have.
#
# A line each way is a kind, the number of the request that it is about (0: nobody asked), and what the kind says:
#   cards N                                              asks
#   cards N NAME/MAC,CARRIER[,ADDRESS/LENGTH...] ...     answers, and is said whenever something has changed
# No name has a slash, a colon or a blank in it: the kernel sees to that. What is not such a line is passed over; a blank
# line comes first, to end what firmware or somebody else has left there.
#
# Two processes, neither of which is the one that follows the cards: one listens, one speaks. If the keeper does not
# read, only the latter waits. Wishes reach it over /run/asked, descriptor 5; /run/untold is not empty while a change
# waits there to be told, so that one is enough however many there are.

# The port of $cmdline, in $agent_port; empty if nobody listens there.
find_agent_port() {
    agent_port=
    for word in $cmdline; do
        case $word in qemunet.agent=?*) agent_port=${word#*=} ;; esac
    done
}

# For ever: does what is asked, one after the other.
serve_keeper() {
    exec 4<>"/dev/$agent_port"
    stty raw -echo <&4 # a program, but the guest is up by now
    hear_keeper &
    while read -r kind number <&5; do
        case $kind in cards) tell_cards "$number" ;; esac
    done
}

hear_keeper() {
    while read -r kind number _ <&4; do
        case $number in "" | *[!0-9]*) continue ;; esac
        case $kind in cards) echo "cards $number" >&5 ;; esac
    done
}

# Asks for all to be told if they are not as they were when it was last done.
note_changes() {
    look_at_cards
    [ "$state" != "$told" ] || return 0
    told=$state
    [ ! -s "$RUN/untold" ] || return 0
    echo yes >"$RUN/untold"
    echo "cards 0" >&5
}

# What can be seen of the cards at no cost, in $state. An address that somebody gives one by hand cannot.
look_at_cards() {
    state=
    for device in "$SYS"/class/net/*/device; do
        card=${device%/device}
        card=${card##*/}
        find_facts "$card" || continue
        given=
        [ -e "$RUN/$card.addresses" ] && read -r given <"$RUN/$card.addresses"
        state="$state $card/$mac,$carrier,$given"
    done 2>/dev/null # a card may go between two lines
}

# The card's $mac and $carrier; the latter cannot be read while it is down. Fails if there is no such card.
find_facts() {
    read -r mac <"$SYS/class/net/$1/address" || return
    carrier=0
    read -r carrier <"$SYS/class/net/$1/carrier" || carrier=0
}

tell_cards() {
    : >"$RUN/untold"
    every=$(ip -o addr show)
    line="cards $1"
    for device in "$SYS"/class/net/*/device; do
        card=${device%/device}
        card=${card##*/}
        find_facts "$card" || continue
        find_addresses "$card"
        line="$line $card/$mac,$carrier$addresses"
    done 2>/dev/null
    printf '\n%s\n' "$line" >&4
}

# The addresses of a card out of $every, each with a comma before it, in $addresses.
find_addresses() {
    addresses=
    wanted=$1
    set -f
    IFS='
'
    for entry in $every; do
        IFS=' '
        # shellcheck disable=SC2086  # words: number, name, family, address
        set -- $entry
        case $2:$3 in "$wanted:inet" | "$wanted:inet6") addresses="$addresses,$4" ;; esac
    done
    unset IFS
    set +f
}
