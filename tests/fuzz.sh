#!/bin/bash
# fuzz.sh SECONDS PROGRAM: fuzzes from tests/corpus/NAME (if any) and what earlier runs have found.
# With FUZZ_SEED (and FUZZ_RUNS, the inputs tried) it starts from tests/corpus alone: the same each time.
set -euo pipefail
name=$(basename "$2")
work=${BUILD:-build}/corpus/$name
[ -z "${FUZZ_SEED:-}" ] || rm -rf "$work"
mkdir -p "$work"
seeds=()
[ -d "tests/corpus/$name" ] && seeds=("tests/corpus/$name")
"$2" -seed="${FUZZ_SEED:-0}" -runs="${FUZZ_RUNS:--1}" -max_total_time="$1" -print_final_stats=1 \
    -artifact_prefix="$work-" "$work" "${seeds[@]}"
