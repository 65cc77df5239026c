#!/bin/bash
# Takes single checks out of copies of the header: chaos must find each. The last line is the count.
#
#   chaos.sh FOLDER [PART OF A NAME]     CC, SEED (1) from the environment
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
folder=$1 part=${2:-} passed=0 failed=0

verdict() { # NAME, what is wrong (empty: found)
    echo "$1: ${2:+FAILED: }${2:-found}"
    if [ -z "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# NAME, the text to replace (once in the header), its replacement, arguments of chaos...
without() {
    local name=$1 old=$2 new=$3 where=$folder/${1// /-} text output
    shift 3
    [[ $name == *"$part"* ]] || return
    mkdir -p "$where"
    text=$(<zoocache.h)
    rest=${text/"$old"/}
    [ $((${#text} - ${#rest})) -eq ${#old} ] && [[ $rest != *"$old"* ]] || {
        verdict "$name" "zoocache.h has not this text once"
        return
    }
    printf '%s\n' "${text/"$old"/"$new"}" >"$where/zoocache.h"
    "${CC:-gcc}" -std=c11 -O1 -I"$where" -Itests tests/chaos.c -o "$where/chaos" \
        -llz4 -lhiredis -pthread || {
        verdict "$name" "does not compile"
        return
    }
    output=$("$where/chaos" --seed "${SEED:-1}" "$@" 2>&1)
    if [[ $output == *"STALE (version"* || $output == *"not the last version"* ]]; then
        verdict "$name" ""
    else
        verdict "$name" "not found"
        tail -n 12 <<<"$output"
    fi
}

without "the lease is not looked at" \
    "return lease && (now <= lease || now - lease <= c->bus.serve_for);" \
    "return lease || now;" --seconds 30 --only partition
without "an empty reply is believed" \
    "if (range->elements == 0) return ZC_RETRY;" \
    "if (range->elements == 0) return ZC_OK;" \
    --seconds 30 --only FLUSHALL
without "the fence is no write" \
    'zc__req_cmd(q, "SET $fence %x PX 60000", r->node);' \
    'zc__req_cmd(q, "EXISTS $fence");' --replicas --seconds 60 --only "old master"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
