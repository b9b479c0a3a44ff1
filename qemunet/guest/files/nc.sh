#!/bin/sh
# The nc of busybox, with the -z of others: connects, and says by its status alone whether somebody listens.
# -v and -n go with that, as in `nc -zvw2 db 5432`.

seconds=
scan=
while getopts :znvw: option; do
    case $option in
        z) scan=yes ;;
        n | v) ;;
        w) seconds=$OPTARG ;;
        *) exec busybox nd "$@" ;; # what it has, and what it will complain of
    esac
done
[ -n "$scan" ] || exec busybox nd "$@"
shift $((OPTIND - 1))
exec busybox nd ${seconds:+-w "$seconds"} "$@" -e true </dev/null
