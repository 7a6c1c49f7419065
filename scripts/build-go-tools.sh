#!/bin/sh
# Builds programs written in Go. Without an argument those that tests call the CRI door with: the official crictl, and tests/go/criprobe.
# With a name: `critest`, the official conformance suite and the ginkgo that runs it in parallel; `cni`, the
# newest of the official network plugins; `kubelet`, the newest one that this Go builds; `containerd`, the newest one with its shim
# and ctr, and `runc`, the newest one: peers that Berth is measured against; `oci`, the validation programs of runtime-tools and the root
# file system that these unpack.
# In: the target's folder, whose go.mod pins each program and its dependencies by checksum. Out: programs in build/go/.
# Needs Go and, the first time, its module proxy; runc also gcc and libseccomp's headers. Does nothing where the programs are current;
# without Go it says so and fails.
set -eu

home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
out=$home/build/go
target=${1-tests}
case $target in
  tests) folder=tests/go ;;
  critest) folder=tests/conformance/go ;;
  cni) folder=tests/cni ;;
  kubelet) folder=tests/kubelet ;;
  containerd) folder=bench/go ;;
  runc) folder=tests/conformance/runc ;;
  oci) folder=tests/conformance-oci/go ;;
  *) echo "usage: scripts/build-go-tools.sh [critest|cni|kubelet|containerd|runc|oci]" >&2; exit 2 ;;
esac
cd "$home/$folder"

PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin
# Read-only: whoever changes a version does it in go.mod, with its checksums.
export CGO_ENABLED=0 GOFLAGS='-mod=readonly -trimpath -buildvcs=false' GOTOOLCHAIN=local

is_current() { # program, inputs…
  program=$out/$1
  shift
  [ -x "$program" ] && [ -z "$(find go.mod go.sum "$@" -newer "$program" -print -quit)" ]
}

# Builds one program unless it is current. Several may build at the same time: what is there is replaced as a whole.
build() { # program, inputs that are not in go.mod (one word), command…
  name=$1 inputs=$2
  shift 2
  # shellcheck disable=SC2086 # a list of folders
  if is_current "$name" $inputs; then return 0; fi
  command -v go >/dev/null 2>&1 || {
    echo "build-go-tools: build $name: go is not installed" >&2
    exit 1
  }
  mkdir -p "$(dirname "$out/$name")"
  rm -f "$out/$name.$$"
  trap 'rm -f "$out/$name.$$"' EXIT
  "$@" -o "$out/$name.$$" || exit 1
  mv "$out/$name.$$" "$out/$name"
  # A build that found everything in its cache keeps the time of the earlier one.
  touch "$out/$name"
}
build_command() { # program, package
  build "$1" '' build_stripped "$2"
}
build_stripped() { # package, -o, path
  go build -tags "${tags-}" -ldflags='-s -w' "$2" "$3" "$1"
}
build_critest() { # -o, path
  # The suite's main is a test file.
  go test -c -ldflags='-s -w' "$1" "$2" sigs.k8s.io/cri-tools/cmd/critest
}
build_criprobe() { # -o, path
  go build "$1" "$2" ./criprobe
}
# All programs of the module's list into one folder, by one command that loads their packages once; the folder is replaced as a whole.
build_folder() { # folder, a program of it, its module, a file of the module's that goes along
  folder=$out/$1
  if is_current "$1/$2"; then return 0; fi
  command -v go >/dev/null 2>&1 || {
    echo "build-go-tools: build $1: go is not installed" >&2
    exit 1
  }
  rm -rf "$folder.$$"
  trap 'rm -rf "$folder.$$"' EXIT
  mkdir -p "$folder.$$"
  go build -ldflags='-s -w' -o "$folder.$$/" tool || exit 1
  cp "$(go list -m -f '{{.Dir}}' "$3")/$4" "$folder.$$/" || exit 1
  rm -rf "$folder"
  mv "$folder.$$" "$folder"
  touch "$folder/$2"
}

case $target in
  tests)
    build criprobe criprobe build_criprobe
    build_command crictl sigs.k8s.io/cri-tools/cmd/crictl
    ;;
  critest)
    build critest '' build_critest
    build_command ginkgo github.com/onsi/ginkgo/v2/ginkgo
    ;;
  cni)
    for name in ipam/host-local main/bridge main/loopback main/ptp meta/bandwidth meta/firewall meta/portmap meta/tuning; do
      build_command "cni/${name#*/}" "github.com/containernetworking/plugins/plugins/$name"
    done
    ;;
  kubelet)
    # Two thousand packages: one at a time, so that the machine stays usable meanwhile.
    export GOFLAGS="$GOFLAGS -p=1"
    build_command kubelet k8s.io/kubernetes/cmd/kubelet
    ;;
  containerd)
    # Without the snapshotters that need C libraries or devices of their own: only the overlay one is measured.
    tags=no_btrfs,no_zfs,no_devmapper
    for name in containerd ctr containerd-shim-runc-v2; do build_command "containerd/$name" "github.com/containerd/containerd/v2/cmd/$name"; done
    ;;
  runc)
    export CGO_ENABLED=1
    tags=seccomp
    build_command runc github.com/opencontainers/runc
    ;;
  oci)
    build_folder oci-validation runtimetest github.com/opencontainers/runtime-tools rootfs-amd64.tar.gz
    ;;
esac
