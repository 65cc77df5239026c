"""A process with a cache, for tests of what watches it: a node.py URL PREFIX [OPTION=VALUE ...], until its input ends.

Each line of its input is run as Python, with ``cache``, ``zoocache`` and ``load``, a cached function with tags; the
value of an expression is answered by its repr.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import zoocache


class Process:
    """Such a process, from outside."""

    def __init__(self, url, prefix, **options):
        command = [sys.executable, __file__, url, prefix, *[f"{name}={value}" for name, value in options.items()]]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def run(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def kill(self):
        self.process.kill()
        self.end()

    def end(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def main(url, prefix, *options):
    if "telemetry=redis" in options:
        from zoocache.telemetry import TelemetryManager
        from zoocache.telemetry.adapters.redis_adapter import RedisTelemetryAdapter

        more = {"telemetry": TelemetryManager([RedisTelemetryAdapter()])}
    else:
        more = dict(option.split("=", 1) for option in options)
    more = {name: int(value) if isinstance(value, str) and value.isdigit() else value for name, value in more.items()}
    with zoocache.Cache(bus_url=url, prefix=prefix, **more) as cache:
        load = cache.cacheable(deps=lambda x: [f"user:{x}", "all"])(lambda x: x)
        space = {"cache": cache, "zoocache": zoocache, "load": load}
        print("ready", flush=True)
        for line in sys.stdin:
            print(repr(eval(line, space)), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(*sys.argv[1:])
