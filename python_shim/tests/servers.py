"""Servers that the tests start and stop themselves, on free ports of the loopback."""

import contextlib
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

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


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


class Program:
    """A server on a free port, which can be stopped, continued, killed and started again."""

    def __init__(self, directory, *options):
        self.port = free_port()
        self.directory = str(directory)
        self.options = options
        self.start()

    def start(self):
        command = self.command()
        assert shutil.which(command[0]), f"{command[0]} is not there: make deps, and build/ferretdb/ferretdb"
        environment = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}  # no sanitizer in it
        with open(os.path.join(self.directory, "output"), "ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            env=environment, preexec_fn=_die_with_parent,
                                            start_new_session=True)  # fmt: skip  # Apache ends all of its group
        until(self.there)

    def there(self):
        assert self.process.poll() is None, f"it has ended: {command_output(self.directory)}"
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def pause(self):
        os.killpg(self.process.pid, signal.SIGSTOP)
        until(lambda: set(self.states()) == {"T"})

    def states(self):
        """Of its threads and children, a letter each."""
        for path in glob.glob("/proc/[0-9]*/task/*/stat"):
            with contextlib.suppress(OSError), open(path) as file:
                state, _, group = file.read().rpartition(")")[2].split()[:3]
                if int(group) == self.process.pid:
                    yield state

    def go_on(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self):
        """As the machine would, if it lost its power: with threads and children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.go_on()
            self.process.kill()
        self.process.wait()


def command_output(directory):
    with open(os.path.join(directory, "output"), errors="replace") as output:
        return output.read()[-2000:]


class Memcached(Program):
    """Who runs as root has it run as nobody."""

    def command(self):
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return ["memcached", "-l", "127.0.0.1", "-p", str(self.port), "-t", "2", *user, *self.options]

    @property
    def url(self):
        return f"memcached://127.0.0.1:{self.port}"

    def ask(self, command, end):
        """What it answers to a command, up to this."""
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.sendall(command + b"\r\n")
            answer = b""
            while not answer.endswith(end + b"\r\n"):
                answer += s.recv(65536)
        return answer


class FerretDB(Program):
    """MongoDB's protocol, over SQLite: see the Makefile."""

    def command(self):
        binary = os.path.join(os.environ.get("BUILD", os.path.join(ROOT, "build")), "ferretdb", "ferretdb")
        return [binary, "--handler=sqlite", f"--sqlite-url=file:{self.directory}/", f"--state-dir={self.directory}",
                f"--listen-addr=127.0.0.1:{self.port}", "--debug-addr=-", "--telemetry=disable",
                "--log-level=error"]  # fmt: skip

    @property
    def url(self):
        return f"mongodb://127.0.0.1:{self.port}/shop"


class AWS(Program):
    """DynamoDB and S3 by moto, one request at a time, as what it does under a condition is not one step."""

    def command(self):
        serve = "from werkzeug.serving import run_simple; from moto.server import DomainDispatcherApplication as App; "
        serve += "from moto.server import create_backend_app as make; "
        serve += f"run_simple('127.0.0.1', {self.port}, App(make))"
        return [sys.executable, "-c", serve]

    def client(self, service):
        import boto3

        return boto3.session.Session("id", "secret").client(
            service, region_name="eu-central-1", endpoint_url=f"http://127.0.0.1:{self.port}"
        )

    def table(self, name):
        """The URL of a table, which is made if it is not there."""
        client = self.client("dynamodb")
        if name not in client.list_tables()["TableNames"]:
            client.create_table(
                TableName=name, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
            )  # fmt: skip
        client.close()
        return f"dynamodb://eu-central-1/{name}?endpoint=http://127.0.0.1:{self.port}&timeout=5"

    def bucket(self, name):
        """The URL of a bucket."""
        client = self.client("s3")
        if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        client.close()
        return f"http://127.0.0.1:{self.port}/{name}/cache?s3=eu-central-1"


class Apache(Program):
    """WebDAV by Apache, one request at a time; who runs as root has it run as www-data. There is a user with a password."""

    CONFIG = """
ServerRoot {directory}
ServerName localhost
PidFile {directory}/pid
Listen 127.0.0.1:{port}
ErrorLog {directory}/error.log
{modules}
{user}
StartServers 1
MinSpareServers 1
MaxSpareServers 1
MaxRequestWorkers 1
KeepAlive Off
DAVLockDB {directory}/locks
DocumentRoot {directory}/files
FileETag {etag}
<Directory {directory}/files>
DAV On
AuthType Basic
AuthName cache
AuthUserFile {directory}/users
Require user shop
</Directory>
"""

    def __init__(self, *options):
        super().__init__(tempfile.mkdtemp(prefix="zoocache-apache-"), *options)

    MODULES = ("mpm_prefork", "authz_core", "authz_user", "authn_core", "authn_file", "auth_basic", "dav", "dav_fs")

    def command(self):
        (etag,) = self.options or ("Digest",)
        modules = "\n".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so" for m in self.MODULES)
        user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
        hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], check=True, capture_output=True, text=True)
        config = self.CONFIG.format(directory=self.directory, port=self.port, modules=modules, user=user, etag=etag)
        self.file("conf", config)
        self.file("users", f"shop:{hashed.stdout}")
        self.collection("")
        return ["/usr/sbin/apache2", "-f", os.path.join(self.directory, "conf"), "-DFOREGROUND"]

    def file(self, name, text):
        with open(os.path.join(self.directory, name), "w") as file:
            file.write(text)

    def collection(self, name):
        """The URL of a directory, which is made if it is not there."""
        path = os.path.join(self.directory, "files", name)
        os.makedirs(path, exist_ok=True)
        if os.geteuid() == 0:
            os.chmod(self.directory, 0o755)
            for place in (self.directory, path):
                shutil.chown(place, "www-data", "www-data")
        return f"http://shop:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory)


PASSWORD = "f00l-no-body"


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
            "autovacuum": "off",  # its transactions are in the snapshots that tests compare
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
