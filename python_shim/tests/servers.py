"""Servers that the tests start and stop themselves, on free ports of the loopback."""

import ctypes
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _die_with_parent():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Redis:
    """A redis-server, which can be stopped, continued, killed and started again, empty."""

    def __init__(self, directory, *options):
        self.port = free_port()
        self.options = options
        self.directory = str(directory)
        self.process = None
        self.start()

    @staticmethod
    def there():
        return shutil.which("redis-server") is not None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.directory,
             "--unixsocket", os.path.join(self.directory, "s"), *self.options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_die_with_parent,
        )  # fmt: skip
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert self.process.poll() is None, "redis-server has ended"
                time.sleep(0.01)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process.poll() is None:
            self.go_on()
            self.process.kill()
        self.process.wait()


class Postgres:
    """A PostgreSQL server with a cluster of its own; one who runs as root has it run as the user postgres."""

    def __init__(self, *options):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres")) or [shutil.which("postgres")]
        assert found[-1], "postgres is not installed: apt install postgresql"
        self.bin = os.path.dirname(found[-1])
        self.options = options
        self.environment = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}  # it hangs
        self.port = free_port()
        self.directory = tempfile.mkdtemp(prefix="zoocache-postgres-")
        self.as_user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self.as_user:
            shutil.chown(self.directory, "postgres", "postgres")
        self.data = os.path.join(self.directory, "data")
        self.make()
        self.process = None
        self.start()

    def make(self):
        self.run("initdb", "-D", self.data, "-U", "test", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    @property
    def dsn(self):
        return f"postgresql://test@127.0.0.1:{self.port}/postgres"

    def database(self, name):
        """Another database of the server, empty; returns where it is."""
        self.run("dropdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", "--if-exists", "--force", name)
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "test", name)
        return f"postgresql://test@127.0.0.1:{self.port}/{name}"

    def run(self, program, *arguments):
        subprocess.run([os.path.join(self.bin, program), *arguments], check=True, capture_output=True,
                       cwd=self.directory, env=self.environment, **self.as_user)  # fmt: skip

    def start(self):
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        self.process = subprocess.Popen(
            [os.path.join(self.bin, "postgres"), "-D", self.data,
             *(f"--{name}={value}" for name, value in settings.items()), *self.options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=self.directory, env=self.environment, preexec_fn=_die_with_parent, **self.as_user,
        )  # fmt: skip
        while True:
            try:
                self.run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port))
                return
            except subprocess.CalledProcessError:
                assert self.process.poll() is None, "postgres has ended"
                time.sleep(0.02)

    def stop(self):
        """At once; what was committed is there when it is started again."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def close(self):
        self.stop()
        shutil.rmtree(self.directory)


class Standby(Postgres):
    """A replica of another server."""

    def __init__(self, primary):
        self.primary = primary
        super().__init__()

    def make(self):
        self.run("pg_basebackup", "-D", self.data, "-R", "-d", self.primary.dsn, "-c", "fast", "--no-sync")


def certificate(directory, names):
    """A certificate that vouches for itself, and its key."""
    files = [str(directory / "cert.pem"), str(directory / "key.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=x", "-addext", f"subjectAltName={names}", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


def until(condition, seconds=30):
    """Waits for it; fails if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.01)
