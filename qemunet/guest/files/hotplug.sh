#!/bin/sh
# What `uevent` runs for each announcement of the kernel: loads the driver of a new device, wakes the card follower.
# shellcheck disable=SC2154  # the variables come from the kernel

case $ACTION:$SUBSYSTEM in
add:pci | add:virtio) modprobe -q "$MODALIAS" ;;
*:net) echo "$ACTION $INTERFACE" >/run/events ;;
esac
