# shellcheck shell=sh
# The login shell's settings: a prompt that a program can wait for, whatever the directory; and, the first time, the
# line that says that the guest is ready.
read -r name </proc/sys/kernel/hostname
PS1="$name:~# "
if [ -s /run/ready ]; then
    read -r line </run/ready
    : >/run/ready
    # The firmware or the kernel may have left the cursor in the middle of a line.
    printf '\n%s\n' "$line"
    echo ready >/run/events # the agent waits for this
fi
unset name line
