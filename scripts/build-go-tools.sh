#!/bin/sh
# Builds programs written in Go. Without an argument those that tests call the CRI door with: the official crictl, and tests/go/criprobe.
# With `containerd`: the containerd and ctr that the image benchmark measures against.
# In: tests/go or bench/go (go.mod pins each program and its dependencies by checksum). Out: build/go/crictl and criprobe, or build/go/containerd/.
# Needs Go and, the first time, its module proxy. Does nothing where the programs are current; without Go it says so and fails.
set -eu

home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
case ${1-} in
  '') cd "$home/tests/go" ;;
  containerd) cd "$home/bench/go" ;;
  *) echo "usage: scripts/build-go-tools.sh [containerd]" >&2; exit 2 ;;
esac
out=$home/build/go

is_current() { # program, inputs…
  program=$out/$1
  shift
  [ -x "$program" ] && [ -z "$(find "$@" -newer "$program" -print -quit)" ]
}
if [ $# = 1 ]; then
  if is_current containerd/containerd go.mod go.sum && is_current containerd/ctr go.mod go.sum; then exit 0; fi
elif is_current crictl go.mod go.sum && is_current criprobe go.mod go.sum criprobe; then exit 0; fi

PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin
command -v go >/dev/null 2>&1 || {
  echo "build-go-tools: build ${1-crictl}: go is not installed" >&2
  exit 1
}
mkdir -p "$out"
# Read-only: whoever changes a version does it in go.mod, with its checksums.
export CGO_ENABLED=0 GOFLAGS='-mod=readonly -trimpath -buildvcs=false' GOTOOLCHAIN=local
if [ $# = 1 ]; then
  # Without the snapshotters that need C libraries or devices of their own: only the overlay one is measured.
  go build -tags no_btrfs,no_zfs,no_devmapper -ldflags='-s -w' -o "$out/containerd/" github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/ctr
  exit 0
fi
is_current criprobe go.mod go.sum criprobe || go build -o "$out/criprobe" ./criprobe
is_current crictl go.mod go.sum || go build -ldflags='-s -w' -o "$out/crictl" sigs.k8s.io/cri-tools/cmd/crictl
