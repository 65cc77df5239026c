#!/bin/bash
# fuzz.sh SECONDS PROGRAM: fuzzes from tests/corpus/NAME (if any) and what earlier runs have found.
set -euo pipefail
name=$(basename "$2")
work=${BUILD:-build}/corpus/$name
mkdir -p "$work"
seeds=()
[ -d "tests/corpus/$name" ] && seeds=("tests/corpus/$name")
"$2" -max_total_time="$1" -print_final_stats=1 -artifact_prefix="$work-" "$work" "${seeds[@]}"
