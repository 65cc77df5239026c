#!/bin/bash
# Runs tests and adds up their closing counts.
#
#   run.sh each LABEL PROGRAM...   runs each program ($RUN before it, $ARGS after it), $JOBS at once
#   run.sh step LABEL COMMAND...   runs one command
#   run.sh stages TARGET...        makes each target, then prints every count and the total
#
# The last line of a program, "N passed, N failed" (or pytest's), is its count; a program without
# one counts as one test, by its exit status. A program that ends badly after a clean count has
# failed once more. The output goes to $BUILD/log and is shown when something has failed, or
# always with VERBOSE=1. Counts are appended to $SUMMARY; to $SUMMARY.why, the lines that say what
# has failed, which stages prints at its end. Exit status 1 if anything has failed.
set -uo pipefail
BUILD=${BUILD:-build}
mkdir -p "$BUILD/log"
SUMMARY=${SUMMARY:-$BUILD/summary.$$}
[ "$1" = stages ] || [ -n "${STAGES:-}" ] || trap 'rm -f "$SUMMARY" "$SUMMARY.why"' EXIT
group_passed=0 group_failed=0

why() { # LABEL LOG: its failed checks, tests, sanitizer's first words; else how it ended
    local said
    said=$(grep -aE '(^    left |: failed: |failed checks$|^(FAILED|ERROR) |ERROR: [A-Z]|WARNING: Thread|runtime error: |: error: )' "$2" |
        head -n 12)
    echo "$1:"
    echo "${said:-$(tail -n 5 "$2")}" | cut -c 1-300 | sed 's/^ */    /'
}

count() { # LABEL LOG STATUS: reads the closing count, reports, adds up
    local passed failed line
    line=$(tail -n 1 "$2")
    if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        passed=${BASH_REMATCH[1]} failed=${BASH_REMATCH[2]}
    elif [[ $line =~ (passed|failed|error).*\ in\ [0-9.]+s ]]; then # pytest
        passed=0 failed=0
        [[ $line =~ ([0-9]+)\ passed ]] && passed=${BASH_REMATCH[1]}
        [[ $line =~ ([0-9]+)\ failed ]] && failed=${BASH_REMATCH[1]}
        [[ $line =~ ([0-9]+)\ error ]] && failed=$((failed + BASH_REMATCH[1]))
    else
        passed=$(($3 == 0)) failed=0
    fi
    [ "$3" -ne 0 ] && [ "$failed" -eq 0 ] && failed=1
    if [ "$failed" -ne 0 ] || [ -n "${VERBOSE:-}" ]; then
        echo "---- $1 (exit status $3)"
        tail -n 200 "$2"
        echo "----"
    fi
    [ "$failed" -eq 0 ] || why "$1" "$2" >>"$SUMMARY.why"
    printf '%-28s %d passed, %d failed\n' "$1" "$passed" "$failed"
    echo "$1 $passed $failed" >>"$SUMMARY"
    group_passed=$((group_passed + passed)) group_failed=$((group_failed + failed))
}

log_of() { echo "$BUILD/log/${1//\//-}.log"; }

run() { # LABEL COMMAND...: leaves the output and the exit status in files
    local log status=0
    log=$(log_of "$1")
    shift
    "$@" >"$log" 2>&1 </dev/null || status=$?
    [ -s "$log" ] || echo "(no output)" >"$log"
    echo "$status" >"$log.status"
}

report() { # LABEL
    local log
    log=$(log_of "$1")
    count "$1" "$log" "$(cat "$log.status")"
}

mode=$1
shift
case $mode in
each)
    label=$1
    shift
    for program; do
        while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-1}" ]; do wait -n || :; done
        # shellcheck disable=SC2086
        run "$label/$(basename "$program")" ${RUN:-} "$program" ${ARGS:-} &
    done
    wait
    for program; do report "$label/$(basename "$program")"; done
    ;;
step)
    run "$@"
    report "$1"
    ;;
stages)
    export STAGES=1 SUMMARY
    : >"$SUMMARY"
    : >"$SUMMARY.why"
    for stage; do
        echo "==== $stage"
        start=$SECONDS before=$(awk '{n += $3} END {print n + 0}' "$SUMMARY")
        ${MAKE:-make} --no-print-directory "$stage" </dev/null && status=0 || status=$?
        after=$(awk '{n += $3} END {print n + 0}' "$SUMMARY")
        [ "$status" -eq 0 ] || [ "$after" -gt "$before" ] || echo "make-$stage 0 1" >>"$SUMMARY"
        echo "==== $stage took $((SECONDS - start)) s"
    done
    echo "==== summary"
    awk '{printf "%-28s %d passed, %d failed%s\n", $1, $2, $3, $3 ? "  <----" : ""}' "$SUMMARY"
    [ -s "$SUMMARY.why" ] && echo "==== what failed" && cat "$SUMMARY.why"
    group_passed=$(awk '{n += $2} END {print n + 0}' "$SUMMARY")
    group_failed=$(awk '{n += $3} END {print n + 0}' "$SUMMARY")
    ;;
esac
[ "$mode" = step ] || echo "$group_passed passed, $group_failed failed"
[ "$group_failed" -eq 0 ] && [ "$group_passed" -gt 0 ]
