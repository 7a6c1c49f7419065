#!/bin/sh
# Builds the programs written in Go that tests call the CRI door with: the official crictl, and tests/go/criprobe.
# In: tests/go (go.mod pins crictl and its dependencies by checksum). Out: build/go/crictl, build/go/criprobe.
# Needs Go and, the first time, its module proxy. Does nothing where the programs are current; without Go it says so and fails.
set -eu

home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
cd "$home/tests/go"
out=$home/build/go

is_current() { # program, inputs…
  program=$out/$1
  shift
  [ -x "$program" ] && [ -z "$(find "$@" -newer "$program" -print -quit)" ]
}
if is_current crictl go.mod go.sum && is_current criprobe go.mod go.sum criprobe; then exit 0; fi

PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin
command -v go >/dev/null 2>&1 || {
  echo "build-go-tools: build crictl: go is not installed" >&2
  exit 1
}
mkdir -p "$out"
# Read-only: whoever changes a version does it in go.mod, with its checksums.
export CGO_ENABLED=0 GOFLAGS='-mod=readonly -trimpath -buildvcs=false' GOTOOLCHAIN=local
is_current criprobe go.mod go.sum criprobe || go build -o "$out/criprobe" ./criprobe
is_current crictl go.mod go.sum || go build -ldflags='-s -w' -o "$out/crictl" sigs.k8s.io/cri-tools/cmd/crictl
