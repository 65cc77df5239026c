#!/bin/bash
# Runs an example and compares what it prints with examples/NAME.expected, if there is one. The
# catalogue must report no stale answer, and, built to note invalidations too late (NAME_wrong),
# some. Exit status 77: something that it needs is not installed.
set -uo pipefail
name=$(basename "$1")
expected=examples/$name.expected
if [ -f "$expected" ]; then
    "$@" | diff -u "$expected" -
    exit $?
fi
out=$("$@")
status=$?
echo "$out"
case $name in
08_catalogue) [ $status -eq 0 ] && grep -q '^stale answers 0, and 0 that differed' <<<"$out" ;;
08_catalogue_wrong) [ $status -eq 1 ] && grep -Eq '^stale answers [1-9]' <<<"$out" ;;
*) exit $status ;;
esac
