#!/bin/bash
# One check of the Python package, in the virtual environment $VENV, from the project's root.
#   python.sh tests   pytest, with line coverage of at least 95 %
#   python.sh quick   pytest without the tests that are marked as slow
#   python.sh asan    the same tests, but those marked as plain, against the library with AddressSanitizer and its
#                     own assertions
#   python.sh django VERSION PYTHON   the tests of the Django integration, but the slow ones, in an environment of their own
#   python.sh types   mypy --strict, of the package and of what a user of it sees (tests/typed.py)
#   python.sh lint    ruff: rules and format
set -euo pipefail
BUILD=$(cd "${BUILD:-build}" && pwd)
VENV=$(cd "${VENV:-$BUILD/venv}" && pwd)
cd python_shim
case $1 in
tests)
    status=0
    "$VENV/bin/coverage" run -m pytest -q >"$BUILD/log/pytest.txt" 2>&1 || status=$?
    "$VENV/bin/coverage" report || status=1
    cat "$BUILD/log/pytest.txt" # its last line is the count
    exit $status
    ;;
quick) "$VENV/bin/python" -m pytest -q -m "not slow" ;;
asan)
    CC=gcc CFLAGS="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -DZOOCACHE_DEBUG" \
        "$VENV/bin/python" _build.py "$BUILD/zoocache_native_asan.so"
    # CPython itself leaks at its end.
    export ASAN_OPTIONS=detect_leaks=0 ZOOCACHE_LIB="$BUILD/zoocache_native_asan.so"
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
        "$VENV/bin/python" -m pytest -q -m "not plain"
    ;;
django)
    env="$BUILD/django-$2"
    "$3" -m venv "$env"
    "$env/bin/pip" install --quiet --disable-pip-version-check "django==$2.*" djangorestframework \
        django-debug-toolbar "psycopg[binary]" pytest pytest-asyncio -e ".[msgpack]"
    "$env/bin/python" -m pytest -q -m "not slow" tests/test_django*.py
    ;;
types) "$VENV/bin/mypy" ;;
lint) "$VENV/bin/ruff" check . && "$VENV/bin/ruff" format --check . ;;
*) exit 2 ;;
esac
