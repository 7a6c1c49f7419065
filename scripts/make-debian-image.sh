#!/bin/sh
# Makes an image of Debian's minimal base system for the tests that compare unpacked trees: the largest real tree they use.
# In: the packages of this machine's own Debian mirror. Out: build/debian-image/, an OCI layout with the image `debian`.
# Needs root, debootstrap and the network, once. Does nothing where the image is there.
set -eu

home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
out=$home/build/debian-image
if [ -f "$out/index.json" ]; then exit 0; fi
PATH=$PATH:/usr/sbin:/sbin

fail() { echo "make-debian-image: $*" >&2; exit 1; }
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' "Codename: $suite" | head -n 1)
[ -n "$mirror" ] || fail "find a mirror: apt knows no source for $suite/main"

# Only the finished layout gets its name; whatever an interrupted run left is begun anew.
work=$out.part
rm -rf "$work"
mkdir -p "$work/layout/blobs/sha256"
# What debootstrap mounts goes with the namespace.
unshare -m -p -f --kill-child --mount-proc debootstrap --variant=minbase "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 ||
  { tail -n 20 "$work/log" >&2; fail 'debootstrap failed, its words are above'; }
rm -rf "$work/root"/var/cache/apt/archives/*.deb "$work/root"/var/lib/apt/lists/*

tar -C "$work/root" --format=pax --xattrs --xattrs-include='*' --numeric-owner --sort=name -cf "$work/layer.tar" .
diff_id=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
gzip -6 -n "$work/layer.tar"

put() { # file: moves it among the blobs; prints its digest and size
  digest=$(sha256sum "$1" | cut -d ' ' -f 1)
  size=$(stat -c %s "$1")
  mv "$1" "$work/layout/blobs/sha256/$digest"
  printf '"digest":"sha256:%s","size":%s' "$digest" "$size"
}
architecture=$(dpkg --print-architecture)
layer=$(put "$work/layer.tar.gz")
printf '{"os":"linux","architecture":"%s","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$architecture" "$diff_id" >"$work/config"
config=$(put "$work/config")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",%s}]}' "$config" "$layer" >"$work/manifest"
manifest=$(put "$work/manifest")
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":"debian"}}]}' "$manifest" >"$work/layout/index.json"
rm -rf "$out"
mv "$work/layout" "$out"
rm -rf "$work"
