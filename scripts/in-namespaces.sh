#!/bin/sh
# Runs a command in mount, network and PID namespaces of its own, so that whatever a test makes ends with it.
# In: the command. Out: its exit status. Called as `unshare -m -n -p -f --kill-child scripts/in-namespaces.sh COMMAND…`.
# This shell is the init there: it waits for everything that loses its parent.
set -eu
PATH=$PATH:/usr/sbin:/sbin
mount --make-rprivate /
mount -t proc -o nosuid,nodev,noexec proc /proc
# Propagation between a host volume and a container can only be shown where the root is shared, as systemd makes it.
mount --make-rshared /
ip link set lo up
status=0
"$@" &
wait $! || status=$?
exit $status
