"""A real PostgreSQL server, made for the tests: its own folder, a Unix socket and a free port of loopback, ended by whoever
made it. Not as root, which it refuses: then as the user `postgres`, or nobody."""
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import kms

def _bin():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    if not found:
        raise RuntimeError("there is no PostgreSQL server: tests/install-deps")
    return found[-1].parent


def _owner():
    """Whom the server runs as; None: this very user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise RuntimeError("neither postgres nor nobody is a user here")


class Held:
    def __init__(self, cluster, db):
        self.p = subprocess.Popen([cluster.bin / "psql", "-qAtX", "-h", cluster.folder, "-p", str(cluster.port), "-U",
                                   "postgres", "-d", db], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.p.stdin.write("BEGIN; SELECT 'held' FROM kmsgate.meta FOR UPDATE;\n")
        self.p.stdin.flush()
        assert self.p.stdout.readline() == "held\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.communicate("ROLLBACK;\n", timeout=60)


class Cluster:
    def __init__(self, settings="", hba=None, folder=None):
        self.bin, self.owner = _bin(), _owner()
        self.folder = Path(folder or tempfile.mkdtemp(prefix="kmsgate-pg-", dir="/tmp"))
        self.own(self.folder)
        self.data, self.port, self.password = self.folder / "data", kms.free_port(), "p@ss/word:%41"
        self.log, self.server, self.stopped = self.folder / "log", None, False
        self.settings, self.hba, self.names = settings, hba, itertools.count()
        if not self.data.exists():
            secret = self.folder / "password"
            secret.write_text(self.password)
            self.own(secret)
            self.call("initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync",
                      "--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile", secret)
        self.configure(settings)
        self.start()

    def configure(self, settings):
        conf = self.data / "kmsgate.conf"
        conf.write_text("listen_addresses = '127.0.0.1'\nport = %d\nunix_socket_directories = '%s'\nfsync = off\n"
                        "shared_buffers = 64MB\nmax_connections = 100\nlog_statement = none\n%s\n"
                        % (self.port, self.folder, settings))
        self.own(conf)
        whole = self.data / "postgresql.conf"
        if "kmsgate.conf" not in whole.read_text():
            with open(whole, "a") as f:
                f.write("\ninclude 'kmsgate.conf'\n")
        if self.hba:
            (self.data / "pg_hba.conf").write_text(self.hba)

    def own(self, path):
        if self.owner:
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)

    def as_owner(self, argv):
        argv = list(map(str, argv))
        if self.owner:
            argv = ["setpriv", "--reuid=%d" % self.owner.pw_uid, "--regid=%d" % self.owner.pw_gid, "--clear-groups",
                    *argv]
        return argv

    def call(self, program, *argv):
        r = subprocess.run(self.as_owner([self.bin / program, *argv]), capture_output=True, text=True, timeout=120,
                           cwd=self.folder)
        assert r.returncode == 0, r.stdout + r.stderr

    def start(self):
        out = open(self.log, "ab")
        self.server = subprocess.Popen(self.as_owner([self.bin / "postgres", "-D", self.data]), stdout=out, stderr=out,
                                       cwd=self.folder)
        out.close()
        kms.wait_for(self.answers, 60)

    def answers(self):
        assert self.server.poll() is None, self.log.read_text()
        return subprocess.run([self.bin / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port)]).returncode == 0

    def stop(self, how=signal.SIGINT):
        """SIGINT: in order, clients cut off. SIGQUIT: at once, as after a crash."""
        if self.server and self.server.poll() is None:
            if self.stopped:
                self.resume()
            self.server.send_signal(how)
            self.server.wait(60)

    def processes(self):
        pids, left = [], [self.server.pid]
        while left:
            pid = left.pop()
            pids.append(pid)
            try:
                left += map(int, Path("/proc/%d/task/%d/children" % (pid, pid)).read_text().split())
            except OSError:
                pass
        return pids

    def pause(self):
        """Its kernel still accepts and acknowledges; nobody answers."""
        self.stopped = True
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def resume(self):
        self.stopped = False
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)

    def sql(self, text, db="postgres", user="postgres"):
        r = subprocess.run([self.bin / "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", str(self.port),
                            "-U", user, "-d", db, "-c", text], capture_output=True, text=True, timeout=120)
        assert r.returncode == 0, r.stderr
        return r.stdout.strip()

    def database(self):
        name = "keys%d" % next(self.names)
        self.sql("CREATE DATABASE %s" % name)
        return name

    def held(self, db):
        """Holds the one row that every writer needs, until the end of the `with`."""
        return Held(self, db)

    def url(self, db, user="postgres", password=None, host="127.0.0.1", more=""):
        return "postgresql://%s:%s@%s:%d/%s?sslmode=prefer%s" % (user, quote(password or self.password, safe=""), host,
                                                               self.port, db, more)

    def socket_url(self, db, user="postgres"):
        return "postgresql://%s@%s:%d/%s" % (user, quote(str(self.folder), safe=""), self.port, db)

    def end(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
