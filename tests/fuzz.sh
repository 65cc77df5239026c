#!/bin/bash
# fuzz.sh SECONDS PROGRAM: fuzzes from tests/corpus/NAME (if any) and what earlier runs have found.
# FUZZ_SEED repeats a run (0, the default: random).
set -euo pipefail
name=$(basename "$2")
work=${BUILD:-build}/corpus/$name
mkdir -p "$work"
seeds=()
[ -d "tests/corpus/$name" ] && seeds=("tests/corpus/$name")
"$2" -seed="${FUZZ_SEED:-0}" -max_total_time="$1" -print_final_stats=1 -artifact_prefix="$work-" "$work" "${seeds[@]}"
