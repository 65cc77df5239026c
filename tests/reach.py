"""Other processors and systems: what is built for each, and runs there.

    reach.py BUILD short|all [TARGET...]    builds and runs
    reach.py packages short|all             Debian's packages for that

A target is a compiler, and what runs its programs: qemu, wine, wasmtime, node, or nothing, where linking is the
test. Each gets the header alone under all warnings, the examples and the section tests; the short form some of
each. Microcontrollers get examples/13_firmware.c, with a stack of 2 KiB. On Windows the Python package's
library is built and loaded as well. It runs in a virtual environment with ziglang, wasmtime and setuptools
(make reach). Last line: N passed, N failed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WARN = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wundef", "-Wstrict-prototypes", "-Werror"]
ZIG = [sys.executable, "-m", "ziglang", "cc"]
SHORT = "t_arena t_codec t_fetch t_table t_trie m_cache s_flights 01_hello".split()
# What needs POSIX: processes, signals, poll(), directories; and what watches glibc's allocator.
POSIX = """t_fork t_thread t_events s_linear s_readers
    04_event_loop 06_own_storage 09_replay 10_processes 12_memcached""".split()
GLIBC = "s_linear t_slab t_fork t_thread".split()
THREADED = re.compile(r'#include (<pthread.h>|"(log_bus|barrier|fault_store|linear).h")|pthread_create')
LIBRARY = re.compile(r"ZOOCACHE_WITH_(LMDB|REDIS|SEAL)|<sqlite3.h>")


@dataclass
class Target:
    compiler: list
    runner: list | None = None  # None: it is linked alone
    packages: str = ""
    without: tuple = ()  # programs
    threads: bool = True
    suffix: str = ""
    standard: str = "c11"
    linked: tuple = ()  # the linker's options
    short: bool = False


def zig(triple, *flags, **options):
    return Target([*ZIG, "-target", triple, *flags], **options)


def linux(triple, qemu, **options):
    return zig(triple, "-static", runner=[f"qemu-{qemu}"], packages="qemu-user", without=GLIBC, **options)


WINE = [shutil.which("wine") or "wine"]
STACK = "-Wl,--stack,8388608"  # as large as the tests have it elsewhere
WASI = [sys.executable, str(ROOT / "tests" / "wasi.py")]
NODE = ["node", "--no-experimental-fetch"]  # with it emscripten takes node for a browser
TARGETS = {
    "s390x": linux("s390x-linux-musl", "s390x", short=True),  # big-endian
    "armhf": linux("arm-linux-musleabihf", "arm", short=True),
    "aarch64": linux("aarch64-linux-musl", "aarch64"),
    "ppc64le": linux("powerpc64le-linux-musl", "ppc64le"),
    "riscv64": linux("riscv64-linux-musl", "riscv64"),
    "i386": Target(["gcc", "-m32", "-static"], [], "gcc-multilib"),
    "musl": zig("x86_64-linux-musl", "-static", runner=[], without=GLIBC),
    "windows": Target(
        ["x86_64-w64-mingw32-gcc", "-static", STACK],
        WINE,
        "gcc-mingw-w64-x86-64 wine wine64",
        POSIX,
        suffix=".exe",
        short=True,
    ),
    "windows-clang": zig("x86_64-windows-gnu", STACK, runner=WINE, without=POSIX, suffix=".exe"),
    "wasi": zig("wasm32-wasi", runner=WASI, without=POSIX, threads=False, suffix=".wasm", short=True),
    **{
        f"emscripten-{std}": Target(
            ["emcc"],
            NODE,
            "emscripten nodejs",
            POSIX,
            threads=False,
            suffix=".js",
            linked=("-sALLOW_MEMORY_GROWTH=1", "-sTOTAL_STACK=8388608"),
            standard=std,
        )
        for std in ("c11", "gnu11")
    },
    "macos": zig("aarch64-macos", without=GLIBC),
    "freebsd": zig("x86_64-freebsd", without=GLIBC),
    "netbsd": zig("x86_64-netbsd", without=GLIBC),
}

BOARDS = {"cortex-m4": "mps2-an386", "cortex-m0plus": "mps2-an385", "cortex-m0": "microbit"}
BOARDS_NEED = "gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"


def programs(target, short):
    found = [*sorted((ROOT / "tests").glob("[tms]_*.c")), *sorted((ROOT / "examples").glob("*.c"))]
    for file in found:
        text = file.read_text()
        if short and file.stem not in SHORT or file.stem in target.without or re.match("t_(multi|static)_", file.stem):
            continue
        if LIBRARY.search(text) or file.stem == "13_firmware" or (not target.threads and THREADED.search(text)):
            continue
        yield file


def run(*command):
    """Its output, and whether it ended well."""
    command = [str(c) for c in command]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode(errors="replace").replace("\r", ""), done.returncode == 0


def lz4(work):
    """Its source, which comes with the Python package of that name, and xxhash.h."""
    include = work / "include"
    if not (include / "lz4.c").exists():
        include.mkdir(parents=True, exist_ok=True)
        wanted = work / "lz4.txt"
        wanted.write_text(re.search("^lz4==.*", (ROOT / "tests/wheels.txt").read_text(), re.MULTILINE)[0])
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", "--require-hashes"]
        output, good = run(*pip, "-r", wanted, "-d", work)
        if not good:
            sys.exit(output)
        with tarfile.open(next(work.glob("lz4-*.tar.gz"))) as archive:
            for member in archive.getmembers():
                if re.search(r"/lz4libs/lz4\.[ch]$", member.name):
                    (include / Path(member.name).name).write_bytes(archive.extractfile(member).read())
        for header in Path("/usr/include").glob("xxh*.h"):
            shutil.copy(header, include)
    return include


def build_and_run(name, target, file, into, include):
    """What was wrong, or ""."""
    command = [*target.compiler, f"-std={target.standard}", "-I.", "-Itests", "-isystem", include]
    if not target.threads:
        command += ["-DZOOCACHE_NO_THREADS"]
    if file.stem == "c_impl":
        output, good = run(*command, *WARN, "-O2", "-c", file, "-o", into / "c_impl.o")
        return "" if good and not output else output or "failed"
    program = into / (file.stem + target.suffix)
    flags = ["-O1", "-g0", "-UNDEBUG", "-DZOOCACHE_DEBUG"]  # zig defines NDEBUG
    libraries = [into / "lz4.o", *target.linked, *(["-pthread"] if target.threads else [])]
    output, good = run(*command, *flags, file, "-o", program, *libraries)
    if not good or target.runner is None:
        return "" if good else output or "failed"
    output, good = run(*target.runner, program)
    expected = file.with_suffix(".expected")
    if expected.exists():
        good = good and output == expected.read_text()
    return "" if good else output or "failed"


def python_library(target, into, include):
    """The Python package's library, as its build makes it, is loaded and used: what was wrong, or ""."""
    shutil.copy(into / "lz4.o", into / "liblz4.a")  # a linker takes it for one
    names = {"CC": shlex.join(target.compiler), "CPPFLAGS": f"-isystem {include}", "LDFLAGS": f"-static -L{into}"}
    library = into / "_native.dll"
    output, good = run("env", *(f"{k}={v}" for k, v in names.items()), sys.executable, "python_shim/_build.py", library)
    if not good:
        return output
    program = into / ("w_native" + target.suffix)
    output, good = run(*target.compiler, "-std=c11", *WARN, "-I.", "tests/w_native.c", "-o", program)
    if not good:
        return output
    output, good = run(*target.runner, program, f"Z:{library}")
    return "" if good else output or "failed"


def board(cpu, machine, into, include):
    """The header whole, without floating point, and the example on a microcontroller: what was wrong, or ""."""
    into.mkdir(exist_ok=True)
    command = ["arm-none-eabi-gcc", "-std=c11", "-Os", f"-mcpu={cpu}", "-mthumb", "-ffreestanding", "-fno-builtin"]
    command += ["-I.", "-isystem", include]
    output, good = run(*command, "-c", "tests/c_freestanding.c", "-o", into / "whole.o")
    floating = re.search(r"\b__aeabi_([df]|u?[il]2[df])\w*", run("arm-none-eabi-nm", "-u", into / "whole.o")[0])
    if not good or floating:
        return output or floating[0]
    small = ["-DZOOCACHE_NO_STORE", "-DZOOCACHE_NO_TEXT"]
    output, good = run(*command, *small, "-c", "tests/c_freestanding.c", "-o", into / "small.o")
    if not good:
        return output
    size = int(run("arm-none-eabi-size", into / "small.o")[0].split()[6])
    if size > 32 * 1024:
        return f"{size} bytes"
    command += ["-nostdlib", "-DZOOCACHE_STATIC", "-T", "tests/board.ld"]
    output, good = run(*command, "examples/13_firmware.c", "tests/board.c", "-lgcc", "-o", into / "firmware")
    if not good:
        return output
    output, good = run("qemu-system-arm", "-M", machine, "-nographic", "-semihosting", "-kernel", into / "firmware")
    expected = (ROOT / "examples/13_firmware.expected").read_text()
    return "" if good and re.fullmatch(re.escape(expected) + r"stack: \d+ of 2048 bytes\n", output) else output


def main():
    short, wanted = sys.argv[2] == "short", sys.argv[3:]
    targets = {n: t for n, t in TARGETS.items() if (n in wanted if wanted else t.short or not short)}
    boards = {c: m for c, m in BOARDS.items() if c in wanted or not wanted}
    if sys.argv[1] == "packages":
        print(*sorted({p for t in targets.values() for p in t.packages.split()}), BOARDS_NEED)
        return 0
    work = Path(sys.argv[1]).resolve() / "reach"
    include = lz4(work)
    os.environ.update(WINEPREFIX=str(work / "wine"), WINEDEBUG="-all", WINEDLLOVERRIDES="mscoree,mshtml=")
    if any(t.runner is WINE for t in targets.values()):
        run("wineboot", "-i")
    jobs = []
    with ThreadPoolExecutor(int(os.environ.get("JOBS", "2"))) as pool:
        for name, target in targets.items():
            into = work / name
            into.mkdir(exist_ok=True)
            output, good = run(*target.compiler, "-O2", "-c", include / "lz4.c", "-o", into / "lz4.o")
            if not good:
                sys.exit(output)
            for file in [ROOT / "tests/c_impl.c", *programs(target, short)]:
                jobs.append((name, file.stem, pool.submit(build_and_run, name, target, file, into, include)))
            if name == "windows":
                jobs.append((name, "w_native", pool.submit(python_library, target, into, include)))
        for cpu, machine in boards.items():
            jobs.append((cpu, "13_firmware", pool.submit(board, cpu, machine, work / cpu, include)))
        failed = 0
        for name, stem, job in jobs:
            wrong = job.result()
            failed += bool(wrong)
            print(f"FAILED {name} {stem}\n{wrong[-2000:]}" if wrong else f"good   {name} {stem}", flush=True)
    print(f"{len(jobs) - failed} passed, {failed} failed")
    return failed != 0


sys.exit(main())
