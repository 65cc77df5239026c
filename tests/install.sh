#!/bin/bash
# The ways to have the header in a program: an installation with pkg-config or CMake, a tarball with CMake or Meson,
# a library. Each builds a program by what it says alone, and runs it.
set -euo pipefail
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
make="${MAKE:-make} --no-print-directory"
root=$PWD
version=$(sed -n 's/^#define ZOOCACHE_VERSION "\(.*\)"/\1/p' zoocache.h)
cat >"$stage/program.c" <<'END'
#ifndef SHARED
#  define ZOOCACHE_IMPLEMENTATION
#endif
#include <zoocache.h>
#include <stdio.h>
int main(void) {
    zc_cache *cache;
    zc_view view;
    if (zc_open(NULL, &cache) != ZC_OK) return 1;
    if (zc_put(cache, zc_str("k"), zc_str("v"), NULL) != ZC_OK) return 1;
    if (zc_get(cache, zc_str("k"), &view) != ZC_OK) return 1;
    zc_release(cache, &view);
    zc_close(cache);
#ifdef ALL_PARTS
    zc_store store;
    zc_lmdb_desc lmdb = {0};
    zc_redis_desc redis = {.url = "rediss://host", .tls_ca = "/nowhere"};
    zc_seal_desc seal = {0};
    zc_sealer sealer;
    if (zc_lmdb_open(&lmdb, &store, NULL) >= 0 || zc_redis_open(&redis, &store, NULL) >= 0) return 1;
    if (zc_seal_open(&seal, &sealer) >= 0) return 1;
#endif
    puts(zc_version());
    return zc_abi() != ZOOCACHE_ABI;
}
END
try() { # PROGRAM [ENVIRONMENT]: it runs, and is of this version
    test "$(env ${2:-} "$1")" = "$version" || { echo "$1 does not say $version"; exit 1; }
}
fails() { # TEXT COMMAND...: it fails, and says that
    local text=$1 out
    shift
    if out=$("$@" 2>&1); then echo "no failure: $*"; exit 1; fi
    grep -q "$text" <<<"$(tr -s ' \n' ' ' <<<"$out")" || { echo "$out"; echo "does not say: $text"; exit 1; }
}

echo "==== installed: pkg-config"
prefix=$stage/opt/zoo
$make install PREFIX="$prefix"
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
test "$(pkg-config --modversion zoocache)" = "$version"
test -s "$prefix/share/doc/zoocache/LICENSE"
# shellcheck disable=SC2046
cc -std=gnu11 "$stage/program.c" -o "$stage/linked" $(pkg-config --cflags --libs zoocache)
# shellcheck disable=SC2046
cc -std=gnu11 -static "$stage/program.c" -o "$stage/static" $(pkg-config --static --cflags --libs zoocache)
try "$stage/linked"
try "$stage/static"

echo "==== installed: CMake"
project() { # DIRECTORY, how zoocache is found on standard input: a program with it, one with all its parts
    mkdir -p "$1"
    cp "$stage/program.c" "$1"
    {
        printf 'cmake_minimum_required(VERSION 3.16)\nproject(user C)\n'
        cat
        printf 'add_executable(small program.c)\ntarget_link_libraries(small zoocache::zoocache)\n'
        printf 'add_executable(parts program.c)\ntarget_compile_definitions(parts PRIVATE ALL_PARTS)\n'
        printf 'target_link_libraries(parts zoocache::lmdb zoocache::redis zoocache::tls zoocache::seal)\n'
    } >"$1/CMakeLists.txt"
}
configure() { cmake -S "$1" -B "$1/build" -DCMAKE_PREFIX_PATH="$prefix"; }
built() { # DIRECTORY
    configure "$1"
    cmake --build "$1/build" -j2
    try "$1/build/small"
    try "$1/build/parts"
}
project "$stage/found" <<<"find_package(zoocache ${version%.*} REQUIRED COMPONENTS lmdb redis tls seal)"
built "$stage/found"
project "$stage/newer" <<<'find_package(zoocache 99.1 REQUIRED)'
fails "version: $version" configure "$stage/newer"
project "$stage/older" <<<'find_package(zoocache 0.0 REQUIRED)'
fails "version: $version" configure "$stage/older"
project "$stage/unknown" <<<'find_package(zoocache REQUIRED COMPONENTS memcached)'
fails "component memcached is not known" configure "$stage/unknown"

$make uninstall PREFIX="$prefix"
left=$(find "$stage/opt" -type f)
test -z "$left" || { echo "left behind: $left"; exit 1; }
cmake -S . -B "$stage/cmake" -DCMAKE_INSTALL_PREFIX="$prefix"
cmake --install "$stage/cmake"
# shellcheck disable=SC2046
cc -std=gnu11 "$stage/program.c" -o "$stage/linked" $(pkg-config --cflags --libs zoocache)
try "$stage/linked"
rm -r "$stage/found/build"
built "$stage/found"
rm -r "$prefix"

echo "==== the tarball: CMake's FetchContent, Meson's wrap"
$make dist BUILD="$stage/dist"
(cd "$stage/dist" && sha256sum -c zoocache-*.sha256)
sum=$(cut -d' ' -f1 "$stage/dist/zoocache-$version.tar.gz.sha256")
project "$stage/fetched" <<END
include(FetchContent)
FetchContent_Declare(zoocache URL file://$stage/dist/zoocache-$version.tar.gz URL_HASH SHA256=$sum)
FetchContent_MakeAvailable(zoocache)
END
built "$stage/fetched"
mkdir -p "$stage/meson/subprojects"
cp "$stage/program.c" "$stage/meson"
cat >"$stage/meson/subprojects/zoocache.wrap" <<END
[wrap-file]
directory = zoocache-$version
source_url = file://$stage/dist/zoocache-$version.tar.gz
source_filename = zoocache-$version.tar.gz
source_hash = $sum
[provide]
dependency_names = zoocache, zoocache-lmdb, zoocache-redis, zoocache-tls, zoocache-seal
END
cat >"$stage/meson/meson.build" <<'END'
project('user', 'c')
executable('small', 'program.c', dependencies: dependency('zoocache'))
names = ['lmdb', 'redis', 'tls', 'seal']
parts = []
foreach part : names
  parts += dependency('zoocache-' + part)
endforeach
executable('parts', 'program.c', c_args: '-DALL_PARTS', dependencies: parts)
END
meson setup "$stage/meson/build" "$stage/meson"
meson compile -C "$stage/meson/build"
try "$stage/meson/build/small"
try "$stage/meson/build/parts"

echo "==== libraries"
$make lib BUILD="$stage/build"
cc -std=gnu11 -DSHARED -I"$root" "$stage/program.c" -o "$stage/dynamic" -L"$stage/build" -lzoocache
try "$stage/dynamic" LD_LIBRARY_PATH="$stage/build"
abi=$(sed -n "s/^#define ZOOCACHE_ABI \([0-9]*\).*/\1/p" zoocache.h)
readelf -d "$stage/dynamic" | grep -q "libzoocache.so.$abi]"
cc -std=gnu11 -DSHARED -I"$root" "$stage/program.c" "$stage/build/libzoocache.a" -o "$stage/archived" -llz4 -pthread
try "$stage/archived"
