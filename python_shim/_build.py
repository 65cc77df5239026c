"""The build backend: setuptools', with the shared library compiled first.

``zoocache.h`` is taken from the checkout around this directory, or from the copy that an sdist carries;
``ZOOCACHE_H`` names another. ``CC`` and ``CFLAGS`` are heeded, so that a sanitizer build is

    CFLAGS="-fsanitize=address -g" python _build.py [OUTPUT]

which compiles into the source tree, as an editable install needs it. LMDB, Redis, Redis over TLS
and sealing are built in if their libraries are there; ``ZOOCACHE_WITHOUT=lmdb,redis,tls,seal`` leaves out what it
names.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import build_meta as _setuptools
from setuptools.command.bdist_wheel import bdist_wheel

HERE = Path(__file__).resolve().parent
PACKAGE = HERE / "zoocache"
LIBRARY = PACKAGE / ("_native.dll" if os.name == "nt" else "_native.so")
COPY = PACKAGE / "zoocache.h"

get_requires_for_build_sdist = _setuptools.get_requires_for_build_sdist
get_requires_for_build_wheel = _setuptools.get_requires_for_build_wheel
get_requires_for_build_editable = _setuptools.get_requires_for_build_editable
prepare_metadata_for_build_wheel = _setuptools.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = _setuptools.prepare_metadata_for_build_editable


def header():
    """The directory of zoocache.h."""
    given = os.environ.get("ZOOCACHE_H")
    for path in [Path(given)] if given else [HERE.parent / "zoocache.h", COPY]:
        if path.is_file():
            return path.resolve()
    sys.exit("zoocache: zoocache.h was not found beside the python_shim directory; say where it is: ZOOCACHE_H=PATH")


VERSION = re.search('#define ZOOCACHE_VERSION "(.*)"', header().read_text())[1]


def compiler():
    """The C compiler as a command."""
    wanted = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), "")
    if not wanted:
        sys.exit("zoocache: no C compiler was found; on Debian and Ubuntu: apt install gcc libc6-dev")
    return shlex.split(wanted)


def check_headers(command):
    """Says which package is missing, instead of the compiler's message."""
    missing = []
    for name, package in (("stdio.h", "libc6-dev"), ("xxhash.h", "libxxhash-dev"), ("lz4.h", "liblz4-dev")):
        flags = shlex.split(os.environ.get("CPPFLAGS", ""))
        done = subprocess.run(
            [*command, *flags, "-E", "-x", "c", "-", "-o", os.devnull],
            input=f"#include <{name}>\n",
            text=True,
            capture_output=True,
        )
        if done.returncode:
            missing.append((name, package))
    if missing:
        names = ", ".join(name for name, _ in missing)
        packages = " ".join(package for _, package in missing)
        sys.exit(f"zoocache: headers not found: {names}; on Debian and Ubuntu: apt install {packages}")


# Optional parts: their macro, the package of pkg-config, the libraries without it, a program that needs them.
PARTS = {
    "lmdb": (
        "ZOOCACHE_WITH_LMDB",
        "lmdb",
        ["-llmdb"],
        "#include <lmdb.h>\nint main(void) { return !mdb_strerror(0); }",
    ),
    "redis": (
        "ZOOCACHE_WITH_REDIS",
        "hiredis",
        ["-lhiredis"],
        "#include <hiredis/hiredis.h>\nint main(void) { return !redisReaderCreate(); }",
    ),
    "tls": (
        "ZOOCACHE_WITH_REDIS_TLS",
        "openssl >= 1.1.1",
        ["-lssl", "-lcrypto"],
        "#include <openssl/ssl.h>\nint main(void) { return !SSL_CTX_new(TLS_client_method()); }",
    ),
    "seal": (
        "ZOOCACHE_WITH_SEAL",
        "libcrypto >= 1.1.1",
        ["-lcrypto"],
        "#include <openssl/evp.h>\nint main(void) { return !EVP_aes_256_gcm(); }",
    ),
}


def pkg_config(package):
    """What pkg-config says about a package; nothing if it does not know it."""
    tool = os.environ.get("PKG_CONFIG") or shutil.which("pkg-config")
    if not tool:
        return []
    done = subprocess.run([tool, "--cflags", "--libs", package], capture_output=True, text=True)
    return [] if done.returncode else [f for f in shlex.split(done.stdout) if not f.endswith("/hiredis")]


def links(command, flags, program, more):
    """Whether a program compiles and links."""
    with tempfile.TemporaryDirectory() as directory:
        line = [*command, *flags, "-x", "c", "-", "-o", os.path.join(directory, "probe"), "-x", "none", *more]
        return not subprocess.run(line, input=program, text=True, capture_output=True).returncode


def parts(command):
    """The optional parts that can be built here: macros, libraries."""
    without = set(os.environ.get("ZOOCACHE_WITHOUT", "").replace(",", " ").split())
    if "redis" in without:
        without.add("tls")
    macros, libraries = [], []
    flags = shlex.split(os.environ.get("CPPFLAGS", "")) + shlex.split(os.environ.get("LDFLAGS", ""))
    for name, (macro, package, plain, program) in PARTS.items():
        if name in without or (name == "tls" and "-DZOOCACHE_WITH_REDIS" not in macros):
            continue
        for more in (pkg_config(package), plain):
            if more and links(command, flags, program, [*more, *libraries]):
                macros.append(f"-D{macro}")
                libraries = [*more, *libraries]
                break
    return macros, libraries


def compile_library(output=LIBRARY):
    """Compiles _native.c with zoocache.h into the package's directory."""
    command = compiler()
    check_headers(command)
    flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=default", f"-I{header().parent}"]
    for name in ("CPPFLAGS", "CFLAGS"):
        flags += shlex.split(os.environ.get(name, ""))
    macros, libraries = parts(command)
    temporary = output.with_name(f"{output.name}.{os.getpid()}")
    line = [*command, *flags, *macros, str(PACKAGE / "_native.c"), "-o", str(temporary)]
    line += [*shlex.split(os.environ.get("LDFLAGS", "")), *libraries, "-llz4", "-pthread"]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"zoocache: the compiler has failed:\n{shlex.join(line)}\n{done.stderr}")
    os.replace(temporary, output)
    return output


class Wheel(bdist_wheel):
    """A wheel with machine code, for any Python 3."""

    def finalize_options(self):
        self.distribution.has_ext_modules = lambda: True
        super().finalize_options()

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


@contextlib.contextmanager
def carried():
    """What comes from the checkout around this directory is copied into it while something is built."""
    pairs = [(header(), COPY), (HERE.parent / "LICENSE", HERE / "LICENSE")]
    copies = [(source, to) for source, to in pairs if source != to and source.is_file()]
    for source, to in copies:
        shutil.copyfile(source, to)
    try:
        yield
    finally:
        for _, to in copies:
            to.unlink()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """A wheel with the shared library inside."""
    compile_library()
    shutil.rmtree(HERE / "build", ignore_errors=True)
    with carried():
        return _setuptools.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """An editable install: the shared library stays in the source tree."""
    compile_library()
    return _setuptools.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    """An sdist with all that comes from the checkout, so that it can be built anywhere."""
    with carried():
        return _setuptools.build_sdist(sdist_directory, config_settings)


if __name__ == "__main__":
    print(compile_library(Path(sys.argv[1]).resolve() if sys.argv[1:] else LIBRARY))
