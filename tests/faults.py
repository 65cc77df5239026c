#!/usr/bin/env python3
"""Plants faults in copies of zoocache.h: s_linear must find a history that shows each of them.

faults.py DIRECTORY [PART OF A NAME]: builds and runs in DIRECTORY with $CC. The text that a fault
replaces must be in the header once. The last line is the count."""

import os
import pathlib
import subprocess
import sys

FAULTS = {
    "a flight begins after its loader": (
        "int rc = loader(t, user);",
        "int rc = loader(t, user);\n        t->begin = t->flight->begin = zc__seen(&c->trie);",
    ),
    "a put does not look at its begin": ("bool dead = begin && begin < seen &&", "bool dead = 0 &&"),
    "a put that is refused leaves what is there": ("(void)zc_del(c, key);", "(void)key;"),
    "a put or del does not overtake a flight": ("if (f) f->fenced = true;", "(void)f;"),
    "a flight stores what was invalidated meanwhile": (
        "bool fresh = !zc__trie_killer(&c->trie, t->deps, t->ndeps, t->begin);",
        "bool fresh = true;",
    ),
    "a follower gets what was invalidated before it joined": (
        "if (t->begin <= f->good_up_to ?",
        "if (true ?",
    ),
    "a follower gets what was overtaken before it joined": ("? t->unfenced ||", "? true ||"),
    "two lead at once": (
        "st->f = s->nflights ? zc__flight_find(s, st->hash, st->key) : NULL;",
        "st->f = NULL;",
    ),
    "a version is published before it is in its node": (
        "    for (size_t i = 0; i < n; i++) {\n        zc__store_rel(&nodes[i]->version, v);",
        "    zc__store_rel(&t->seen, v);\n    zc__yield();\n"
        "    for (size_t i = 0; i < n; i++) {\n        zc__store_rel(&nodes[i]->version, v);",
    ),
    "tags of one call are published one by one": (
        "        zc__store_rel(&nodes[i]->version, v);",
        "        zc__store_rel(&nodes[i]->version, v);\n"
        "        zc__store_rel(&t->seen, v);\n        zc__yield();\n        v = zc_hlc_now(t->hlc);",
    ),
    "a put takes its begin when it stores": (
        "zc__entry *e = zc__fill_entry(t, key, value, seen, 0);",
        "zc__entry *e = zc__fill_entry(t, key, value, seen, 0);\n"
        "    if (e) e->begin = zc__seen(&c->trie);",
    ),
    "a walk does not climb": (
        "for (; n; n = n->parent) {\n        uint64_t v = zc__load_acq(&n->version);",
        "for (; n; n = NULL) {\n        uint64_t v = zc__load_acq(&n->version);",
    ),
    "an entry is dead when anything was invalidated": (
        "if (ZC__LIKELY(newest <= begin)) return NULL;",
        "if (begin == zc__seen(t)) return NULL;",
    ),
}


def build(name, directory):
    """Starts the compiler on the header with one fault; None if its text is not there once."""
    old, new = FAULTS[name]
    header = pathlib.Path("zoocache.h").read_text()
    if header.count(old) != 1:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "zoocache.h").write_text(header.replace(old, new))
    command = [os.environ.get("CC", "gcc"), "-std=c11", "-O1", f"-I{directory}", "-Itests"]
    command += ["tests/s_linear.c", "-o", f"{directory}/s_linear", "-llz4", "-pthread"]
    return subprocess.Popen(command)


def found(directory):
    """The number of histories that it took; None: it was not found, or something else is wrong."""
    command = [directory / "s_linear", "--seed", "random", "with_dependencies"]
    env = os.environ | {"LINEAR_ROUNDS": "20"}
    out = subprocess.run(command, env=env, capture_output=True, text=True).stdout
    good = [int(line.split()[0]) for line in out.splitlines() if " histories, " in line]
    return min(good) + 1 if "not linearizable" in out and good else None


def main():
    directory = pathlib.Path(sys.argv[1])
    names = [name for name in FAULTS if "".join(sys.argv[2:]) in name]
    failed = 0
    for name in names:
        where = directory / name.replace(" ", "-")
        compiler = build(name, where)
        if compiler is None:
            verdict = "FAILED: zoocache.h has not this text once"
        elif compiler.wait() != 0:
            verdict = "FAILED: does not compile"
        else:
            rounds = found(where)
            verdict = f"found in history {rounds}" if rounds else "FAILED: not found"
        failed += "FAILED" in verdict
        print(f"{name}: {verdict}", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
