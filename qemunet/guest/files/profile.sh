# shellcheck shell=sh
# The login shell's settings: a prompt that a program can wait for, whatever the directory.
read -r name </proc/sys/kernel/hostname
PS1="$name:~# "
unset name
