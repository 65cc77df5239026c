#!/usr/bin/env python3
"""Checks the Promela models, and that each part of the protocol is needed.

    model.py short|full [MODEL...]

Every model is searched as it is, which must find nothing, and once for each ablation (a macro that takes
one part out), which must find a counterexample of the kind expected. A search counts only if it was
exhaustive: memory, depth or a hash that loses states end it as failed. A model in which nothing
happens proves nothing, so its WITNESS (a value is served after all writes and faults) must be found.
The last line is "N passed, N failed".
"""

import concurrent.futures
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.abspath(os.path.join(os.environ.get("BUILD", "build"), "model"))
JOBS = int(os.environ.get("JOBS", "2"))
MEMORY_MB = 3500 // JOBS  # of one search
STALE, STUCK = "assertion violated", "invalid end state"

# The ablations of each model, with the bounds that show them where the defaults do not.
LEASE = {
    "WITNESS": "",
    "NO_LEASE": "",
    "LEASE_FROM_REPLY": "",
    "NO_RECHECK": "",
    "RECHECK_RENEWED": "",
    "NO_CURSOR_CHECK": "",
    "NO_RUN_ID": "",
    "CHECK_BEFORE_READ": "",
    "FULL_RENEWS": "FILLERS=1",
    "VERSION_AFTER_LOADER": "",
    "NO_STAMP_AT_ATTACH": "",
}
REPLICAS = {
    "WITNESS": "WRITES=1 FAULTS=2",
    "NO_WAIT": "WRITES=1",
    "NO_FENCE": "WRITES=1",
    "NO_RUN_ID": "WRITES=1 FAULTS=2",
    "PROCESS_RUN_ID": "WRITES=1 FAULTS=2",
}
FILL = {
    "WITNESS": "",
    "VERSION_AFTER_LOADER": "",
    "UNKNOWN_IS_ZERO": "",
    "LEARN_ANY_HISTORY": "",
    "FLOOR_FORGOTTEN": "",
    "ANY_IDENTITY": "",
    "NO_CLAMP": "",
    "LOCAL_BEGIN": "",
    "RECORD_WHILE_PENDING": "",
    "PENDING_TO_APPEND": "",
    "READ_BACK_BY_POSITION": "",
    "STAMP_POSITION": "",
    "NO_ROOT_STAMP": "",
}
FLIGHT = {
    "WITNESS": "",
    "NO_FENCE": "",
    "PUT_NO_FENCE": "",
    "SLEEP_NO_CHECK": "LEASES=0 LISTENERS=0",
    "WAKE_FIRST": "LEASES=0",
    "ANY_FOLLOWER": "",
    "UNFENCED_FOLLOWER": "",
    "LIST_NO_CHECK": "",
    "NO_POLL": "",
    "NO_WAKE_AT_TAKEOVER": "",
    "FAIL_NO_WAKE": "LEASES=0",
    "VERSION_AFTER_LOADER": "",
}
HOLD = {
    "WITNESS": "",
    "BEGIN_AFTER_SNAPSHOT": "HOLDS=0 DEATHS=0 TRANSACTIONS=2",
    "FILL_BEGINS_NOW": "HOLDS=0 DEATHS=0 TRANSACTIONS=2",
    "STORE_OWN_WRITES": "DEATHS=0",
    "INVALIDATE_BEFORE_COMMIT": "HOLDS=0 DEATHS=0",
    "NO_HOLD": "",
    "HOLD_AFTER_COMMIT": "",
    "HOLD_NO_STAMP": "",
    "STORE_WHILE_HELD": "",
    "EXPIRE_NO_STAMP": "",
    "EXPIRE_EARLY": "",
    "END_NO_STAMP": "",
    "ATTACH_NO_LIST": "",
    "LIST_AFTER_LOG": "",
    "LIST_BEFORE_POSITION": "",
}
RCU = {
    "WITNESS": "",
    "NO_EXCHANGE": "",
    "SLOT_FIRST": "",
    "LEAVE_FIRST": "",
    "NO_FRESH": "",
    "NO_FENCE": "",
    "NO_LOOK": "",
    "ONE_SEAT": "READERS=2 READS=1 WRITES=1",
    "FREE_FIRST": "",
    "NO_RELEASE": "",
    "NO_TURN": "",
    "TURN_LATE": "",
    "TURN_LOOSE": "",
}
PLACE = {
    "WITNESS": "",
    "NO_LEASE": "",
    "NO_NONCE": "",
    "NO_GENERATION": "",
    "STALE_READ": "",
    "ANY_TOKEN": "",
}
IS_STUCK = {"SLEEP_NO_CHECK", "WAKE_FIRST", "NO_POLL", "NO_WAKE_AT_TAKEOVER", "FAIL_NO_WAKE"}
# name: source, what is always defined, the bounds of the whole model (short, full), ablations
MODELS = {
    "lease": (
        "lease", "",
        ["WRITES=2 FAULTS=0", "WRITES=1 FILLERS=1"],
        ["WRITES=2 FILLERS=1", "WRITES=2 T=2 COUNT=2"],
        LEASE,
    ),
    "replicas": ("lease", "REPLICA", ["WRITES=1"], ["WRITES=2", "WRITES=1 FAULTS=2"], REPLICAS),
    "fill": (
        "fill", "",
        ["WRITES=1 FILLERS=0", "WRITES=1 FAULTS=0", "WRITES=2 FILLERS=0 FAULTS=0"],
        ["WRITES=1", "WRITES=2 FAULTS=0 BOTH_WRITE"],
        FILL,
    ),
    "hold": (
        "hold", "",
        ["", "HOLDS=0 DEATHS=0 TRANSACTIONS=2"],
        ["DEATHS=2 TRANSACTIONS=2", "DEATHS=2 TRANSACTIONS=2 READ_COMMITTED"]
        + ["HOLDS=0 DEATHS=0 TRANSACTIONS=2", "HOLDS=0 DEATHS=0 TRANSACTIONS=2 READ_COMMITTED"],
        HOLD,
    ),
    "rcu": ("rcu", "", ["", "READERS=2 READS=1 WRITES=1"], ["READS=3 WRITES=3", "READERS=2 READS=1"], RCU),
    "place": ("place", "", [""], ["", "T=2"], PLACE),
    "flight": ("flight", "", ["FAILS=0 LISTENERS=0", "CALLERS=2 WRITES=2"], ["", "LEASES=0"], FLIGHT),
}


class Search:
    def __init__(self, model, variant, defines, expected):
        self.model, self.variant, self.expected = model, variant, expected
        self.defines = defines.split()
        self.source = os.path.join(HERE, MODELS[model][0] + ".pml")
        self.dir = os.path.join(OUT, "-".join([model, variant] + self.defines).replace("=", ""))
        self.states, self.seconds, self.result, self.log = "", 0.0, "", ""

    def command(self, *args, **kw):
        return subprocess.run(
            args, cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw
        ).stdout

    def spin(self, *args):
        return self.command("spin", *args, *["-D" + d for d in self.defines], self.source)

    def run(self):
        os.makedirs(self.dir, exist_ok=True)
        start = time.monotonic()
        self.log = self.spin("-a")
        flags = ["-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=%d" % MEMORY_MB]
        self.log += self.command("gcc", "-O1", "-w", *flags, "-o", "pan", "pan.c")
        self.log += self.command(os.path.join(self.dir, "pan"), "-m100000", "-w20")
        self.seconds = time.monotonic() - start
        self.result = self.judge()
        return self

    def judge(self):
        states = re.search(r"(\d+) states, stored", self.log)
        errors = re.search(r"errors: (\d+)", self.log)
        if not states or not errors or "Full statespace search" not in self.log:
            return "no search"
        self.states = states.group(1)
        if errors.group(1) != "0":
            found = re.search(r"pan:1: (assertion violated|invalid end state)", self.log)
            return found.group(1) if found else "another error"
        if re.search(r"not completed|too small|out of memory|MEMLIM|truncated", self.log):
            return "not exhaustive"
        return "nothing"

    def passed(self):
        return self.result == self.expected

    def explain(self):
        if self.result in (STALE, STUCK):
            return "\n".join(self.spin("-t", "-p", "-l", "-g").splitlines()[-120:])
        return "\n".join(self.log.splitlines()[-40:])


def searches(size, names):
    for name in names:
        _, always, short, full, ablations = MODELS[name]
        base = short if size == "short" else full
        for bounds in base:
            yield Search(name, "whole", (always + " " + bounds), "nothing")
        for ablation, extra in ablations.items():
            yield Search(name, ablation, " ".join([always, ablation, extra]), STUCK if ablation in IS_STUCK else STALE)


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("short", "full"):
        sys.exit(__doc__)
    names = sys.argv[2:] or list(MODELS)
    work = list(searches(sys.argv[1], names))
    print("%-9s %-22s %-34s %-20s %-20s %10s %6s" % ("model", "variant", "bounds", "expected", "result", "states", "s"))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for s in pool.map(Search.run, work):
            bounds = " ".join(d for d in s.defines if "=" in d)
            print("%-9s %-22s %-34s %-20s %-20s %10s %6.1f%s" % (
                s.model, s.variant, bounds, s.expected, s.result, s.states, s.seconds,
                "" if s.passed() else "  <----"), flush=True)
            if not s.passed():
                failed += 1
                print(s.explain())
    total = len(work)
    print("%d passed, %d failed" % (total - failed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
