#!/bin/bash
# The compile matrix: the header by each compiler, standard and option, without a warning; what it
# exports; two translation units, two static copies, C++; the size of its code.
# Last line: N passed, N failed. Each passed one is a line that begins with "good".
set -uo pipefail
GCC=${GCC:-gcc} CLANG=${CLANG:-clang} GXX=${GXX:-g++} CLANGXX=${CLANGXX:-clang++}
out=${BUILD:-build}/matrix
hiredis1="-isystem ${BUILD:-build}/hiredis/include"
text_limit=40960 total_limit=40960
mkdir -p "$out"
export out
warn_cxx="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Werror"
warn="$warn_cxx -Wstrict-prototypes -Wmissing-prototypes"
posix=-D_POSIX_C_SOURCE=200809L

good() { echo "good   $1"; }
bad() { echo "FAILED $1"; }
try() { # WHAT COMMAND...
    local what=$1 log
    shift
    log=$("$@" 2>&1 </dev/null) && good "$what" || { bad "$what: $*"; echo "$log" | head -n 30; }
}
export -f good bad try

# One job a line, for xargs: everything that is only compiled. All that clang has to say comes from
# its front end; what gcc's optimizer says does not depend on the standard.
objects() {
    local n=0 cc std option tls full="-O2 -c" how
    for cc in "$GCC" "$CLANG"; do
        for std in c11 c17 c2x; do
            [ "$cc,$std" = "$GCC,c11" ] && how=$full || how=-fsyntax-only
            for option in "" NO_THREADS NO_LZ4 STATIC DEBUG WITH_BUS WITH_LMDB WITH_REDIS WITH_SEAL WITH_WALK; do
                echo "$cc -std=$std $warn $posix ${option:+-DZOOCACHE_$option} $how tests/c_impl.c -o $out/$((n++)).o"
            done
            echo "$cc -std=$std $warn $how tests/c_impl.c -o $out/$((n++)).o"
            echo "$cc -std=$std $warn -include stdint.h $how tests/c_impl.c -o $out/$((n++)).o"
            echo "$cc -std=$std $warn $posix -DZC__C11_THREADS $how tests/c_impl.c -o $out/$((n++)).o"
            echo "$cc -std=$std $warn $how tests/c_decl.c -o $out/$((n++)).o"
            echo "$cc -std=$std $warn $how tests/c_freestanding.c -o $out/$((n++)).o"
        done
        [ "$cc" = "$GCC" ] && how=$full || how=-fsyntax-only
        echo "$cc -std=gnu11 $warn $how tests/c_impl.c -o $out/$((n++)).o"
        for option in "" -DZOOCACHE_NO_THREADS; do
            tls="-DZOOCACHE_WITH_REDIS -DZOOCACHE_WITH_REDIS_TLS $option $how tests/c_impl.c"
            echo "$cc -std=c11 $warn $posix $tls -o $out/$((n++)).o"
            echo "$cc -std=c11 $warn $posix $hiredis1 $tls -o $out/$((n++)).o"
        done
        for option in WITH_BUS WITH_LMDB WITH_REDIS WITH_SEAL WITH_WALK; do
            echo "$cc -std=c11 $warn $posix -DZOOCACHE_NO_THREADS -DZOOCACHE_$option $how tests/c_impl.c -o $out/$((n++)).o"
        done
        for option in NO_STORE NO_TEXT "NO_STORE -DZOOCACHE_NO_TEXT -DZOOCACHE_NO_THREADS"; do
            echo "$cc -std=c11 $warn $posix -DZOOCACHE_$option -O2 -c tests/c_impl.c -o $out/$((n++)).o"
        done
        echo "$cc -std=c11 $warn $posix -O0 -c tests/c_impl.c -o $out/$((n++)).o"
        echo "$cc -std=c11 $warn $posix -O3 -c tests/c_impl.c -o $out/$((n++)).o"
        echo "$cc -std=c99 $warn -c tests/c_decl.c -o $out/$((n++)).o"
        echo "$cc -std=c11 $warn -O3 -c tests/t_api.c -o $out/$((n++)).o" # bounds of literal keys
        if [ -e /usr/include/x86_64-linux-gnu/gnu/stubs-32.h ] || [ -e /usr/include/gnu/stubs-32.h ]; then
            for option in "" NO_THREADS DEBUG; do
                echo "$cc -m32 -std=c11 $warn $posix ${option:+-DZOOCACHE_$option} $how tests/c_impl.c -o $out/$((n++)).o"
            done
        fi
    done
    for cc in "$GXX" "$CLANGXX"; do
        [ "$cc" = "$GXX" ] && how=$full || how=-fsyntax-only
        for option in "" NO_THREADS NO_LZ4 STATIC DEBUG WITH_BUS WITH_LMDB WITH_REDIS WITH_SEAL WITH_WALK; do
            echo "$cc -std=c++17 -x c++ $warn_cxx ${option:+-DZOOCACHE_$option} $how tests/c_impl.c -o $out/$((n++)).o"
        done
        echo "$cc -std=c++17 -x c++ $warn_cxx -DZOOCACHE_NO_STORE -DZOOCACHE_NO_TEXT -O2 -c tests/c_impl.c -o $out/$((n++)).o"
        for option in "" "$hiredis1"; do
            echo "$cc -std=c++17 -x c++ $warn_cxx $option -DZOOCACHE_WITH_REDIS -DZOOCACHE_WITH_REDIS_TLS $how tests/c_impl.c -o $out/$((n++)).o"
        done
        echo "$cc -std=c++17 -x c++ $warn_cxx $how tests/c_decl.c -o $out/$((n++)).o"
        echo "$cc -std=c++20 -x c++ $warn_cxx $how tests/c_impl.c -o $out/$((n++)).o"
        echo "$cc -std=c++17 $warn_cxx $how tests/t_cxx.cc -o $out/$((n++)).o"
    done
}

compile() {
    local name
    name=$(echo "$*" | sed 's/ -W[^ ]*//g; s/ -D_POSIX_C_SOURCE=[^ ]*//; s/ -o [^ ]*//')
    try "$name" "$@" -I. -Itests
}
export -f compile

exports() {
    # What is declared, against what is exported.
    sed '/^#endif \/\* ZOOCACHE_H/q; /^#if.*ZOOCACHE_WITH_/,/^#endif/d' zoocache.h | grep '^ZOOCACHE_API' |
        sed -E 's/^[^(]*[ *](zc_[a-z0-9_]+)\(.*/\1/' | sort >"$out/declared"
    nm -g --defined-only "$out/multi_a.o" | awk '{print $3}' | sort >"$out/exported"
    try "exports are the $(wc -l <"$out/declared") declared functions" \
        diff "$out/declared" "$out/exported"
    try "a static copy exports nothing" test -z \
        "$(nm -g --defined-only "$out/static_a.o" | grep -v ' static_a_remembers$')"
    try "a static program exports no zc_" test -z \
        "$(nm -g --defined-only "$out/t_static" | grep -E ' zc_')"
    try "no writable data in the library but the numbers of threads (>>rcu)" test -z \
        "$(nm "$out/implstatic.o" | grep -E ' [BbDdCc] ' | grep -Ev ' zc__numbers?$')"
}

programs() {
    local c="-std=c11 $warn -I. -Itests -O1 -g" cxx="-std=c++17 $warn_cxx -I. -Itests -O1 -g"
    local libs="-llz4 -pthread"
    # shellcheck disable=SC2086
    {
        try "t_multi_a" $GCC $c -c tests/t_multi_a.c -o "$out/multi_a.o"
        try "implementation, position-dependent" $GCC $c -fno-pie -c tests/c_impl.c -o "$out/implstatic.o"
        try "t_multi" $CLANG $c tests/t_multi_b.c "$out/multi_a.o" -o "$out/t_multi" $libs
        try "t_static_a" $GCC $c -c tests/t_static_a.c -o "$out/static_a.o"
        try "t_static" $GCC $c tests/t_static_b.c "$out/static_a.o" -o "$out/t_static" $libs
        try "t_cxx, library in C" $GXX $cxx tests/t_cxx.cc "$out/multi_a.o" -o "$out/t_cxx" $libs
        try "library in C++" $CLANGXX -x c++ $cxx -c tests/c_impl.c -o "$out/implcc.o"
        try "t_cxx, library in C++" $CLANGXX $cxx tests/t_cxx.cc "$out/implcc.o" -o "$out/t_cxx2" $libs
    }
    local programs="t_multi t_static t_cxx t_cxx2" how n=3 exact
    exact=$(setarch -R true 2>/dev/null && echo setarch -R) # as ThreadSanitizer needs it
    for how in "$GXX -std=c++20 $out/implcc.o" "$CLANGXX -std=c++20 $out/implcc.o" \
        "$GXX -std=c++2b $out/implcc.o" "$CLANGXX -std=c++2b $out/implcc.o" \
        "$CLANGXX -std=c++17 -fno-exceptions $out/implcc.o" \
        "$CLANGXX -std=c++17 -fsanitize=thread -x c++ tests/c_impl.c" \
        "$CLANGXX -std=c++17 -fsanitize=address,undefined -fno-sanitize-recover=all -x c++ tests/c_impl.c"; do
        # shellcheck disable=SC2086
        try "t_cxx, $how" $how tests/t_cxx.cc $warn_cxx -I. -Itests -O1 -g -o "$out/t_cxx$n" $libs
        programs="$programs t_cxx$((n++))"
    done
    local no_text=-DZOOCACHE_NO_TEXT
    # Sections without a storage and without texts; with NO_TEXT, those that ask for none.
    for how in t_trie:$no_text t_flight:$no_text t_walk:$no_text t_fetch: t_expiry: t_policy: t_table:; do
        # shellcheck disable=SC2086
        try "$how, NO_STORE" $GCC $c $posix -DZOOCACHE_DEBUG -DZOOCACHE_NO_STORE ${how#*:} \
            "tests/${how%:*}.c" -o "$out/${how%:*}" -pthread
        programs="$programs ${how%:*}"
    done
    for program in $programs; do
        try "run $program" $exact "$out/$program"
    done
}

refuses() { # COMMAND...: compiles the declarations, and refuses the implementation in a sentence
    try "$1: declarations" "$@" -I. -c tests/c_decl.c -o "$out/refused.o"
    "$@" -I. -c tests/c_impl.c -o "$out/refused.o" >"$out/refused" 2>&1
    try "$1: refuses the implementation" grep -q 'error.*zoocache: the implementation needs' "$out/refused"
}

size_and_time() {
    local text begin
    # shellcheck disable=SC2086
    $GCC -std=c11 $posix -I. -Os -DZOOCACHE_NO_THREADS -DZOOCACHE_NO_LZ4 -c tests/c_impl.c -o "$out/small.o"
    # The bar is for code; `size` counts constants and unwinding tables to "text", too.
    text=$(size -A "$out/small.o" | awk '$1 == ".text" {print $2}')
    try "code of -Os NO_THREADS NO_LZ4: $text bytes, at most $text_limit" test "$text" -le $text_limit
    size -A "$out/small.o" | awk '$1 ~ /rodata|rel.ro/ {c += $2} $1 == ".eh_frame" {e = $2}
        END {print "       constants: " c " bytes, unwinding tables: " e " bytes"}'
    # shellcheck disable=SC2086
    $GCC -std=c11 $posix -I. -Os -DZOOCACHE_NO_THREADS -DZOOCACHE_NO_STORE -DZOOCACHE_NO_TEXT -c tests/c_impl.c -o "$out/small.o"
    text=$(size -A "$out/small.o" | awk '$1 ~ /text|rodata|rel.ro|eh_frame/ {t += $2} END {print t}')
    try "all of -Os NO_THREADS NO_STORE NO_TEXT: $text bytes, at most $total_limit" test "$text" -le $total_limit
    begin=$(date +%s%N)
    # shellcheck disable=SC2086
    $GCC -std=c11 $posix -I. -O2 -c tests/c_impl.c -o "$out/timed.o"
    echo "gcc -O2 -c took $((($(date +%s%N) - begin) / 1000000)) ms"
}

{
    objects | xargs -P "${JOBS:-2}" -I{} bash -c 'compile {}'
    programs
    exports
    refuses tcc
    refuses "$GCC" -std=c99
    size_and_time
} | tee "$out/log"
passed=$(grep -c '^good' "$out/log")
failed=$(grep -c '^FAILED' "$out/log")
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
