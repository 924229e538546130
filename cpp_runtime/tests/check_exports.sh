#!/bin/sh
# Usage: check_exports.sh liblcnn_ort.so. Fails unless the library exports exactly the functions listed here.
set -eu
expected="RegisterCustomOps lcnn_isa lcnn_runtime_version"
found=$(nm -D --defined-only "$1" | awk '{print $3}' | LC_ALL=C sort | tr '\n' ' ' | sed 's/ $//')
if [ "$found" != "$expected" ]; then
  echo "exports are '$found', expected '$expected'" >&2
  exit 1
fi
