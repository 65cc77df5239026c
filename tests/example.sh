#!/bin/bash
# Runs an example and compares what it prints with examples/NAME.expected, if there is one.
set -euo pipefail
expected=examples/$(basename "$1").expected
if [ -f "$expected" ]; then
    "$@" | diff -u "$expected" -
else
    "$@"
fi
