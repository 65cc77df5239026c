#!/bin/bash
# Installs into a staging directory, builds a program against that by pkg-config alone, uninstalls.
set -euo pipefail
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
make=${MAKE:-make}
$make --no-print-directory install DESTDIR="$stage" PREFIX=/opt/zoo
for f in include/zoocache.h lib/pkgconfig/zoocache.pc share/doc/zoocache/LICENSE; do
    test -s "$stage/opt/zoo/$f" || { echo "missing: $f"; exit 1; }
done
cat >"$stage/program.c" <<'END'
#define ZOOCACHE_IMPLEMENTATION
#include <stdio.h>
#include <zoocache.h>
int main(void) {
    zc_cache *cache;
    zc_view view;
    if (zc_open(NULL, &cache) != ZC_OK) return 1;
    if (zc_put(cache, zc_str("k"), zc_str("v"), NULL) != ZC_OK) return 1;
    if (zc_get(cache, zc_str("k"), &view) != ZC_OK) return 1;
    puts(ZOOCACHE_VERSION);
    zc_release(cache, &view);
    zc_close(cache);
    return 0;
}
END
export PKG_CONFIG_PATH="$stage/opt/zoo/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$stage"
cd "$stage"
# shellcheck disable=SC2046
cc -std=gnu11 program.c -o program $(PKG_CONFIG_SYSROOT_DIR='' pkg-config \
    --define-variable=prefix="$stage/opt/zoo" --cflags --libs zoocache)
test "$(./program)" = "$(pkg-config --modversion zoocache)" || { echo "versions differ"; exit 1; }
cd "$OLDPWD"
$make --no-print-directory uninstall DESTDIR="$stage" PREFIX=/opt/zoo
left=$(find "$stage/opt" -type f)
test -z "$left" || { echo "left behind: $left"; exit 1; }
$make --no-print-directory lib BUILD="$stage/build"
cc -std=gnu11 -I. -x c <(sed '/IMPLEMENTATION/d' "$stage/program.c") -o "$stage/dynamic" \
    -L"$stage/build" -lzoocache
LD_LIBRARY_PATH="$stage/build" "$stage/dynamic"
cc -std=gnu11 -I. -x c <(sed '/IMPLEMENTATION/d' "$stage/program.c") -x none \
    "$stage/build/libzoocache.a" -o "$stage/static" -llz4 -pthread
"$stage/static"
