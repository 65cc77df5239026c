#!/usr/bin/env python3
"""The program in the manual at the top of zoocache.h: it must be the example that it names, but for
the style of comments (a C comment cannot hold another), compile without a warning, and print what
the example prints."""

import os
import re
import subprocess
import sys
import tempfile

WARN = ("-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Wstrict-prototypes "
        "-Wmissing-prototypes -Werror").split()


def manual_program(path):
    """(name of the example, its lines as they stand in the manual)"""
    name, lines = None, []
    for line in open(path, encoding="utf-8"):
        text = line.rstrip("\n")
        if name is None:
            found = re.match(r"^ \* A PROGRAM \((examples/\S+\.c)\)", text)
            name = found.group(1) if found else None
        elif re.match(r"^ \* \S", text) or text == " */":
            break
        else:
            lines.append(text[2:])
    indents = [len(l) - len(l.lstrip()) for l in lines if l.strip()]
    return name, [l[min(indents):].rstrip() for l in lines] if indents else []


def normal(lines):
    """Without a comment at the top, with // comments, without empty lines at the ends."""
    text = re.sub(r"\A\s*/\*.*?\*/", "", "\n".join(lines), flags=re.S)
    text = re.sub(r"/\* (.*?) \*/", r"// \1", text)
    return text.strip("\n").split("\n")


def main():
    results = []

    def check(what, good, detail=""):
        results.append(good)
        print(f"{'good  ' if good else 'FAILED'} {what}" + ("" if good else f"\n{detail}"))

    name, program = manual_program("zoocache.h")
    check("the manual has a program", bool(program))
    if program:
        example = open(name, encoding="utf-8").read().split("\n")
        check(f"it is {name}", normal(example) == normal(program))
        with tempfile.TemporaryDirectory() as d:
            source, binary = os.path.join(d, "program.c"), os.path.join(d, "program")
            with open(source, "w", encoding="utf-8") as f:
                f.write("\n".join(program) + "\n")
            built = subprocess.run([os.environ.get("GCC", "gcc"), "-std=gnu11", *WARN, "-I.", source, "-o", binary,
                                    "-llz4", "-pthread"], capture_output=True, text=True)
            check("it compiles without a warning", built.returncode == 0, built.stderr)
            if built.returncode == 0:
                ran = subprocess.run([binary], capture_output=True, text=True)
                expected = open(name.replace(".c", ".expected"), encoding="utf-8").read()
                check("it prints what the example prints", ran.returncode == 0 and ran.stdout == expected, ran.stdout)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


sys.exit(main())
