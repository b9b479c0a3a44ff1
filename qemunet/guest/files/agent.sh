#!/bin/sh
# The guest's side of its keeper's port: tells what the cards are called, and runs commands for `exec`.
#
# A line each way is a kind, a number, and what the kind says. The number is that of a request, or of a call: one command
# with what goes in and comes out of it. What is not such a line is passed over.
#   cards N                                              asks
#   cards N NAME/MAC,CARRIER[,ADDRESS/LENGTH...] ...     answers, and is said whenever something has changed
#   run N MARK SIZE in|- ''|fullblock 'WORD'...           a command, in the shell's own quotes; $nl is a line's end
#   began N                                              it runs, and input may come
#   out N BASE64, err N BASE64                           what it wrote; MARK ends it when the command has ended
#   more N out|err                                       a piece was taken, another may come
#   in N SLOT SIZE, then SIZE bytes and a line's end     a piece of its input, in base64
#   took N                                               it went in, and its slot is free
#   lost N                                               there is no room for its input, or for the call
#   eof N                                                the input has ended; so has, said here, the output `eof N out`:
#                                                        without its MARK, for want of room
#   kill N SIGNAL                                        for the command and all in its session
#   end N STATUS                                         it has ended
#   over N                                               nobody wants what it may still write
#   started 0                                            another agent: nothing runs any more of what the last one ran
#   reset 0                                              another keeper: whatever runs for the last one is to end
# No name of a card has a slash, a colon or a blank in it: the kernel sees to that. Base64 has no blanks either: should
# the two sides ever disagree where a line begins, nothing that goes in or comes out of a command is taken for a kind.
#
# One process listens, one tells of the cards, and each call has some of its own. If the keeper does not read, only those
# wait that speak. Wishes about the cards go over /run/asked, descriptor 5; /run/untold is not empty while a change
# waits there to be told, so that one is enough however many there are. Who has the one byte that is in /run/turn,
# descriptor 6, may speak on the port, descriptor 4.

AGENT_NAME=org.qemunet.agent.0 # of the port
WINDOW=4                       # pieces that may be under way before the keeper has taken one
nl='
'

# The device of the port, in $agent_port; empty if there is none.
find_agent_port() {
    agent_port=
    for port in "$SYS"/class/virtio-ports/*/name; do
        { read -r called <"$port"; } 2>/dev/null || continue
        [ "$called" = "$AGENT_NAME" ] || continue
        port=${port%/name}
        agent_port=${port##*/}
    done
}

# For ever: listens, and tells of the cards when that is asked, one after the other.
serve_keeper() {
    export HOME=/root # that of commands; a service may have none
    exec 4<>"/dev/$agent_port" 6<>"$RUN/turn"
    spare -1000
    echo >&6
    say "${nl}started 0" # the last one may have ended in the middle of a line
    while :; do # without a keeper the port has an end; with the next one it goes on
        hear_keeper
        sleep 1
    done &
    while read -r kind number <&5; do
        case $kind in cards) tell_cards "$number" ;; esac
    done
}

hear_keeper() {
    while read -r kind number rest <&4; do
        case $number in "" | *[!0-9]*) continue ;; esac
        obey "$kind" "$number" "$rest"
    done
}

obey() {
    call=$RUN/calls/$2
    case $1 in
    cards) echo "cards $2" >&5 ;;
    run) run_call "$2" "$3" & ;;
    in) take_input "${3%% *}" "${3##* }" ;;
    eof) [ ! -p "$call.feed" ] || echo eof 1<>"$call.feed" ;;
    more) [ ! -p "$call.more-$3" ] || echo 1<>"$call.more-$3" ;;
    kill) kill_call "$call" "$3" ;;
    over) forget_call "$call" ;;
    reset) reset_calls ;;
    esac
}

say() {
    read -r _ <&6
    printf '%s\n' "$1" >&4
    echo >&6
}

# When memory is short, the kernel kills last what has the least, and never what has -1000.
spare() {
    { echo "$1" >/proc/self/oom_score_adj; } 2>/dev/null
}

# Runs what $2 says as call $1: a mark; how many bytes of output make one line at most; whether there is input; whether
# it may wait until there are so many; and the command. That has a session of its own, so that all of it can be killed,
# and none of our descriptors.
run_call() {
    call=$RUN/calls/$1 number=$1
    eval "set -- $2"
    mark=$1 size=$2 input=$3 whole=$4
    shift 4
    spare -500
    if ! mkfifo "$call.out" "$call.err" "$call.more-out" "$call.more-err" "$call.in" "$call.feed" ||
        ! echo >"$call.pid"; then
        rm -f "$call".*
        say "lost $number"
        return
    fi 2>/dev/null
    exec 9<>"$call.feed"
    pump out <"$call.out" &
    pump err <"$call.err" &
    exec 7>"$call.out" 8>"$call.err"
    [ "$input" = in ] && feed >"$call.in" 7>&- 8>&- & # else it ends at once
    [ "$input" = in ] && input=$call.in || input=/dev/null
    cd "${HOME:-/}" 2>/dev/null || cd /
    { spare 0; exec setsid "$@"; } <"$input" >&7 2>&8 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
    command=$!
    trap '' PIPE                   # an output that was lost has no reader
    echo "$command" 1<>"$call.pid" # not shortened before, it has its room
    say "began $number"
    wait "$command"
    status=$?
    : >"$call.pid"
    echo eof >&9
    printf %s "$mark" >&7
    printf %s "$mark" >&8
    exec 7>&- 8>&-
    say "end $number $status"
    wait # for whatever the command has left that may still write
    rm -f "$call".*
}

# Says what comes on standard input, as `out` or `err`.
pump() {
    exec 9<>"$call.more-$1" 7>&-
    left=$WINDOW
    # shellcheck disable=SC2086  # an option or none
    while dd bs="$size" count=1 ${whole:+iflag=$whole} of="$call.part-$1" 2>/dev/null && [ -s "$call.part-$1" ]; do
        if [ "$left" = 0 ]; then read -r _ <&9; else left=$((left - 1)); fi
        [ ! -e "$call.over" ] || exec cat >/dev/null
        say "$1 $number $(base64 -w 0 <"$call.part-$1" 2>/dev/null || base64 <"$call.part-$1" | tr -d '\n')"
    done
    say "eof $number $1"
}

# Writes the pieces of input to standard output in the order in which they came.
feed() {
    while read -r piece <&9 && [ "$piece" != eof ]; do
        cat "$call.slot-$piece"
        say "took $number"
    done 2>/dev/null
}

# The piece is read even if nobody wants it: behind it comes the next line.
take_input() {
    if [ -p "$call.feed" ]; then
        dd bs="$2" count=1 iflag=fullblock <&4 2>/dev/null | base64 -d 2>/dev/null >"$call.slot-$1" || say "lost ${call##*/}"
        echo "$1" 1<>"$call.feed"
    else
        dd bs="$2" count=1 iflag=fullblock <&4 >/dev/null 2>&1
    fi
}

kill_call() {
    { read -r command <"$1.pid" && [ -n "$command" ]; } 2>/dev/null || return 0
    # It may not have its session yet.
    kill "-$2" "-$command" 2>/dev/null || kill "-$2" "$command" 2>/dev/null
}

forget_call() {
    [ -p "$1.out" ] || return 0
    : >"$1.over"
    echo 1<>"$1.more-out"
    echo 1<>"$1.more-err"
}

reset_calls() {
    for call in "$RUN"/calls/*.pid; do
        call=${call%.pid}
        kill_call "$call" KILL
        forget_call "$call"
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
    say "$line"
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

# In a guest that is not the built-in one this file is the whole agent, and is run by the name that it is installed by.
be_agent() {
    SYS=${SYS:-/sys} RUN=${RUN:-/run/qemunet-agent}
    find_agent_port
    if [ -z "$agent_port" ]; then
        echo "no virtio port $AGENT_NAME: is it a guest of qemunet with \`agent = true\`, and virtio_console loaded?" >&2
        exit 1
    fi
    rm -rf "$RUN"
    mkdir -p "$RUN/calls" && mkfifo "$RUN/asked" "$RUN/turn" || exit
    exec 5<>"$RUN/asked"
    echo "cards 0" >&5
    serve_keeper
}

case ${0##*/} in qemunet-agent*) be_agent ;; esac
