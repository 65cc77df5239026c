#!/usr/bin/env python3
"""cover.py DIRECTORY LINES BRANCHES TEST...: runs the tests that are built with clang's coverage in
DIRECTORY, and prints how much of zoocache.h they reach together.

Each test compiles its own copy of the header, so each is reported by itself and the results are
united: a line or branch counts as reached if any test has reached it. Branches inside macros count
at the place where the macro is used. Writes DIRECTORY/uncovered: what is not reached.
Fails if a test fails, or below LINES or BRANCHES per cent."""

import collections
import os
import shutil
import subprocess
import sys

HEADER = "zoocache.h"


def tool(name):
    for candidate in (name, name + "-14", name + "-15", name + "-16"):
        if shutil.which(candidate):
            return candidate
    sys.exit(f"{name} is not installed: make deps")


def run(directory, test):
    program, profile = os.path.join(directory, test), os.path.join(directory, test)
    env = dict(os.environ, LLVM_PROFILE_FILE=profile + ".profraw")
    done = subprocess.run([program], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout[-2000:] + done.stderr[-2000:])
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", profile + ".profraw", "-o", profile + ".profdata"], check=True)
    report = subprocess.run(
        [tool("llvm-cov"), "export", "-format=lcov", "-instr-profile", profile + ".profdata", program, HEADER],
        check=True, capture_output=True, text=True).stdout
    return done.returncode == 0, report


def collect(report, lines, branches, functions):
    ours = False
    for record in report.splitlines():
        kind, _, rest = record.partition(":")
        if kind == "SF":
            ours = os.path.basename(rest) == HEADER
        elif not ours:
            continue
        elif kind == "DA":
            number, count = rest.split(",")[:2]
            lines[int(number)] += int(count)
        elif kind == "BRDA":
            number, block, branch, taken = rest.split(",")
            branches[(int(number), block, branch)] += 0 if taken == "-" else int(taken)
        elif kind == "FN":
            number, name = rest.split(",", 1)
            functions.setdefault(name.split(":")[-1], int(number))


def percent(counts):
    return 100.0 * sum(1 for c in counts.values() if c) / len(counts) if counts else 0.0


def main(directory, least_lines, least_branches, *tests):
    lines, branches, functions = collections.Counter(), collections.Counter(), {}
    good = True
    for test in tests:
        passed, report = run(directory, test)
        good = good and passed
        collect(report, lines, branches, functions)
        print(f"{test:24} {'good  ' if passed else 'FAILED'}  together: lines {percent(lines):6.2f} %, branches {percent(branches):6.2f} %")
    text = open(HEADER, encoding="utf-8").read().split("\n")
    with open(os.path.join(directory, "uncovered"), "w", encoding="utf-8") as out:
        missed = collections.Counter(n for (n, _, _), count in branches.items() if not count)
        for n in sorted({n for n, c in lines.items() if not c} | set(missed)):
            what = "line  " if not lines[n] else f"{missed[n]} br  "
            out.write(f"{HEADER}:{n}: {what} {text[n - 1]}\n")
    print(f"what is not reached: {directory}/uncovered")
    print(f"lines    {percent(lines):6.2f} % of {len(lines)}, at least {least_lines} %")
    print(f"branches {percent(branches):6.2f} % of {len(branches)}, at least {least_branches} %")
    enough = percent(lines) >= float(least_lines) and percent(branches) >= float(least_branches)
    return 0 if good and enough else 1


sys.exit(main(*sys.argv[1:]))
