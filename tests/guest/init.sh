#!/bin/sh
# The guest's init: mounts what a production machine has, a pure cgroup v2 tree, no systemd; runs the suites; powers off.
# In: /berth, the checkout. Out: progress on the first serial port, one JSON line per suite on the second.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 TERM=dumb BERTH_TEST_GUEST=1
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount --make-rshared /
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
hostname guest
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
stty -F /dev/ttyS1 raw -echo
cd /berth
echo "guest: $(uname -r), init after $(cut -d' ' -f1 /proc/uptime) s"
node tests/guest/inside.ts </dev/null >/dev/console 2>&1 &
wait $!
echo "{\"status\":$?}" >/dev/ttyS1
sync
poweroff -f
