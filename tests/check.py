#!/usr/bin/env python3
"""Checks how zoocache.h is laid out, and prints the figures that its style is judged by.

Fails if: the manual's list of contents and the sections differ; a static function is declared ahead
of its definition; a line is longer than 100 columns, or has a tab or trailing space; the version
macros disagree with each other or with CHANGELOG.md; a conditional is nested deeper than four; the
page "Follow one key" names what is not there; the text of a fault to be planted (tests/faults.py,
tests/chaos.sh) is not in the header once; `import zoocache` loads more than 5,000 lines of the
Python package.
"""

import os
import re
import statistics
import subprocess
import sys

import faults

WIDTH = 100
NESTING = 4
PACKAGE = 5000

results = []


def check(what, problems):
    results.append(not problems)
    print(("good   " if not problems else "FAILED ") + what)
    for p in problems[:20]:
        print("       " + p)


def strip_comments(text):
    """The text with comments and the contents of literals blanked out, line structure kept."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)

    def blank(m):
        s = m.group(0)
        if s[0] in "\"'":
            return s[0] + "_" * (len(s) - 2) + s[0]
        return re.sub(r"[^\n]", " ", s)

    return pattern.sub(blank, text)


def contents_of(lines):
    """The tags that the manual lists: from its line "Contents" to the end of that comment or to the
    next heading that follows them."""
    tags, started = [], False
    for line in lines:
        if not started:
            started = re.match(r"^[\s*/#=-]*contents\b", line, re.I) is not None
            continue
        tag = re.match(r"^[\s*/]*>>([a-z0-9_]+)\b", line)
        if tag:
            tags.append(tag.group(1))
        elif "*/" in line or (tags and not line.strip(" */\n")):
            break
    return tags


def functions(code):
    """(name, first line, lines) of every function defined at column 0."""
    found, i = [], 0
    while i < len(code):
        line = code[i]
        if not re.match(r"^[A-Za-z_]", line) or "(" not in line or re.match(r"^(typedef|struct|enum|union)\b.*\{\s*$", line):
            i += 1
            continue
        j = i
        while j < len(code) and not re.search(r"[{;]", code[j]):
            j += 1
        head = " ".join(code[i : j + 1])
        if j == len(code) or ";" in head.split("{")[0] or "{" not in head or "=" in head.split("{")[0]:
            i = j + 1
            continue
        name = re.search(r"([A-Za-z_]\w*)\s*\(", re.sub(r"\b(ZC__ALIGNED|__attribute__|ZC__THREAD_FN)\b\s*\(+", "", head))
        end = j
        if not re.search(r"\}\s*$", code[j]):
            while end < len(code) and not code[end].startswith("}"):
                end += 1
        found.append((name.group(1) if name else "?", i + 1, end - i + 1))
        i = end + 1
    return found


def ratio(raw, code):
    """Comment-only lines for each line with code."""
    with_code = sum(1 for c in code if c.strip())
    comment = sum(1 for r, c in zip(raw, code) if r.strip() and not c.strip())
    return comment / with_code if with_code else 0.0


def walk_of(raw, code):
    """Problems of the page "Follow one key": each zc_name() and zc__name() in it must be defined below."""
    first = next((i for i, l in enumerate(raw) if "FOLLOW ONE KEY" in l), None)
    if first is None:
        return ["there is none"]
    last = next(i for i in range(first, len(raw)) if "*/" in raw[i])
    names = set(re.findall(r"\b(zc_\w+)\(\)", "\n".join(raw[first:last])))
    defined = set(re.findall(r"\b(zc_\w+)", "\n".join(code[last:])))
    return [f"it names {name}(), which is nowhere" for name in sorted(names - defined)]


# What `import zoocache` loads. The module of the shared library, which need not be built, has a stand-in.
LOADED = """
import sys
from unittest.mock import MagicMock
sys.modules["zoocache._ffi"] = MagicMock()
import zoocache
print(*[name for name in sys.modules if name.partition(".")[0] == "zoocache"])
"""


def package_lines():
    """The modules that `import zoocache` always loads, and how many lines each has."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ZOOCACHE_")}
    names = subprocess.run([sys.executable, "-c", LOADED], env={**env, "PYTHONPATH": "python_shim"},
                           check=True, capture_output=True, text=True).stdout.split()
    found = {}
    for name in names:
        place = "python_shim/" + name.replace(".", "/")
        with open(place + ".py" if os.path.exists(place + ".py") else place + "/__init__.py", encoding="utf-8") as f:
            found[name] = len(f.readlines())
    return found


def main(path):
    text = open(path, encoding="utf-8").read()
    raw, code = text.split("\n"), strip_comments(text).split("\n")
    impl = next(i for i, l in enumerate(raw) if l.startswith("#if defined(ZOOCACHE_IMPLEMENTATION) && !defined(ZC__IMPLEMENTED)"))
    decl = next(i for i, l in enumerate(raw) if l.startswith("#include <stdbool.h>"))

    sections = [(m.group(1), i + 1) for i, l in enumerate(raw) if i > impl and (m := re.match(r"^ \* >>([a-z0-9_]+)\b", l))]
    tags = [name for name, _ in sections]
    listed = contents_of(raw[:impl])
    problems = [] if listed else ["the manual has no list of contents"]
    if listed and listed != tags:
        problems = [f"listed: {' '.join(listed)}", f"found:  {' '.join(tags)}"]
    check(f"the list of contents names the {len(tags)} sections in their order", problems)

    check("no static function is declared ahead", [
        f"{path}:{i + 1}: {l}" for i, l in enumerate(code) if i > impl and re.match(r"^static\b[^=({]*\([^{}]*\)\s*;\s*$", l)])
    check(f"no line is longer than {WIDTH} columns", [
        f"{path}:{i + 1}: {len(l)} columns" for i, l in enumerate(raw) if len(l) > WIDTH])
    check("no tabs, no trailing spaces", [
        f"{path}:{i + 1}" for i, l in enumerate(raw) if "\t" in l or l != l.rstrip()])

    parts = [re.search(rf"^#define ZOOCACHE_VERSION_{p} (\d+)$", text, re.M).group(1) for p in ("MAJOR", "MINOR", "PATCH")]
    version = re.search(r'^#define ZOOCACHE_VERSION "(.*)"$', text, re.M).group(1)
    problems = [] if ".".join(parts) == version else [f"macros say {'.'.join(parts)} and {version}"]
    if f"[{version}]" not in open("CHANGELOG.md", encoding="utf-8").read():
        problems.append(f"CHANGELOG.md has no [{version}]")
    check(f"version {version} everywhere", problems)

    depth, deepest, ifs, deep = 0, 0, 0, []
    for i, l in enumerate(code):
        word = re.match(r"^\s*#\s*(if|ifdef|ifndef|elif|else|endif)\b", l)
        if not word:
            continue
        if word.group(1) == "endif":
            depth -= 1
            continue
        ifs += 1
        if word.group(1).startswith("if"):
            depth += 1
            deepest = max(deepest, depth)
            if depth > NESTING:
                deep.append(f"{path}:{i + 1}")
    check(f"conditionals nest at most {NESTING} deep", deep)

    check('"Follow one key" names functions that exist', walk_of(raw, code))
    planted = faults.LINEAR | faults.THROUGH | faults.BEHIND | faults.SIMULATION
    planted |= faults.HOOKS | faults.HOLDS | faults.PLACE | faults.SEALED | faults.NONCES
    planted |= faults.READERS | faults.SLEPT
    chaos = open("tests/chaos.sh").read()
    for name, _, old in re.findall(r'^without "(.*)" \\\n +(["\'])(.*)\2 \\$', chaos, re.M):
        planted[name] = old, ""
    check(f"the {len(planted)} faults to be planted find their texts once", [
        f"{name}: {text.count(old)} times: {old}"
        for name, changes in planted.items() for old in changes[::2] if text.count(old) != 1])

    loaded = package_lines()
    total = sum(loaded.values())
    check(f"`import zoocache` loads {total} lines in {len(loaded)} modules, at most {PACKAGE}", [
        f"{count:5} {name}" for name, count in loaded.items() if total > PACKAGE])

    lengths = functions(code[impl:])
    n = sorted(size for _, _, size in lengths)
    print(f"\n{len(raw)} lines: manual {decl}, declarations {impl - decl}, implementation {len(raw) - impl}")
    print(f"{len(n)} functions: median {statistics.median(n):.0f}, p90 {n[len(n) * 9 // 10]}, max {n[-1]} lines")
    for size, name, line in sorted(((s, f, l) for f, l, s in lengths), reverse=True)[:5]:
        print(f"    {size:4} {name} (line {line + impl})")
    print(f"comment lines for each code line: declarations {ratio(raw[decl:impl], code[decl:impl]):.2f}, "
          f"implementation {ratio(raw[impl:], code[impl:]):.2f}")
    print(f"conditionals per 1000 lines {1000 * ifs / len(raw):.1f}, deepest nesting {deepest}")
    ends = [line for _, line in sections[1:]] + [len(raw)]
    print("sections, with comment lines for each code line:")
    for (tag, line), end in zip(sections, ends):
        print(f"    {tag:10} {end - line:5} lines {ratio(raw[line - 1:end - 1], code[line - 1:end - 1]):.2f}")
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "zoocache.h"))
