#!/bin/busybox sh
# The first process: the host's files, of which nothing changes, and the command on them; what it printed is the console.
PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r name; do
    insmod "/lib/$name.ko" || echo "$name could not be loaded"
done </modules
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /host &&
    mount -t tmpfs tmpfs /upper && mkdir /upper/files /upper/work &&
    mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work overlay /new &&
    mount -t proc proc /new/proc && mount -t sysfs sysfs /new/sys && mount -t devtmpfs dev /new/dev &&
    mount -t tmpfs tmpfs /new/run &&
    ip link set lo up &&
    cp /command /new/run/command
chroot /new /bin/sh /run/command </dev/null
echo "in-guest status: $?"
poweroff -f
