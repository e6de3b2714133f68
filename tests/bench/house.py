"""What the benchmarks' commands share: programs that run on their own cores, and what they cost there."""
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = "https://kms.example.org/keymanagement/identity/v1/"
URL = BASE + "keyprov"
CORES = os.cpu_count()
HERE, THERE = 0, CORES - 1  # what is measured; the load and the upstream
CROWDED = 0.03              # of the cores: more than this by others, and the figures count for nothing
TICK = os.sysconf("SC_CLK_TCK")


def built(folder, source=ROOT, bench=True):
    """A release build with the benchmarks' programs."""
    launcher = ["-DCMAKE_C_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    subprocess.run(["cmake", "-S", source, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", *launcher,
                    "-DKMSGATE_BENCH=%s" % ("ON" if bench else "OFF")], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "-j", str(CORES)] + ([] if bench else ["--target", "kmsgate"]), check=True,
                   stdout=subprocess.DEVNULL)
    return folder


def machine():
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", info, re.M)
    return {"cores": CORES, "model": model.group(1) if model else "?",
            "has": (", SHA" if "sha_ni" in info else "") + (", AES" if " aes" in info else "")}


def free_port():
    for _ in range(100):  # below those that the kernel gives to clients meanwhile
        port = random.randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no port is free")


def threads(pid):
    with contextlib.suppress(OSError):
        return [Path("/proc/%d/task" % pid) / t for t in os.listdir("/proc/%d/task" % pid)]
    return []


class Cost:
    """CPU, page faults and switches of a process so far."""

    def __init__(self, pid):
        self.ns = self.faults = self.switches = 0
        for task in threads(pid):
            with contextlib.suppress(OSError):
                self.ns += int((task / "schedstat").read_text().split()[0])
                status = (task / "status").read_text()
                self.switches += sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", status)))
        stat = Path("/proc/%d/stat" % pid).read_text().rsplit(") ", 1)[1].split()
        self.faults = int(stat[7]) + int(stat[9])
        self.user, self.system = int(stat[11]) / TICK, int(stat[12]) / TICK


def machine_busy():
    """Seconds that programs have had of all cores together, or that another machine has had (interrupts are nobody's)."""
    user, nice, system, _, _, _, _, steal = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + steal) / TICK


def rss_kb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/%d/status" % pid).read_text()).group(1))


class House:
    """A folder, and what runs in it. Everything ends with it."""

    def __init__(self, build):
        self.build = Path(build).resolve()
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        self.running = []
        self.up, self.words = None, []
        self.rows = []
        self.crowded = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for p in list(self.running):
            self.end(p)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, argv, core, **kw):
        argv = list(map(str, argv))
        if core is not None:
            argv = ["taskset", "-c", str(core)] + argv
        p = subprocess.Popen(argv, cwd=self.folder, stdin=subprocess.DEVNULL, **kw)
        self.running.append(p)
        return p

    def end(self, p, sig=signal.SIGTERM):
        if p.poll() is None:
            p.send_signal(sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(30)
        if p.poll() is None:
            p.kill()
            p.wait()
        if p in self.running:
            self.running.remove(p)

    def note(self, **row):
        self.rows.append(row)
        return row

    # --- what is needed ---

    def users(self, n, first=0):
        """A file of so many users' key pairs; a file stays what it is."""
        if isinstance(n, Path):
            return n
        path = self.folder / ("keys-%d-%d.jsonl" % (n, first))
        if not path.exists():
            with open(path, "wb") as f:
                os.fchmod(f.fileno(), 0o600)
                subprocess.run([self.build / "bench_load", "keys", str(n), str(first)], stdout=f, check=True)
        return path

    def certificate(self):
        pem, key = self.folder / "server.pem", self.folder / "server.key"
        if not pem.exists():
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                            "-keyout", key, "-out", pem, "-subj", "/CN=kms.example.org", "-days", "2", "-addext",
                            "subjectAltName=DNS:kms.example.org"], check=True, capture_output=True)
            key.chmod(0o600)
        return pem, key

    @contextlib.contextmanager
    def upstream(self, sets=1, hang=False):
        """A program of its own; without it, the load is the upstream, too."""
        port = free_port()
        p = self.start([self.build / "bench_load", "upstream", port, sets] + (["hang"] if hang else []), THERE)
        self.up = port
        self.wait(lambda: connects(port), "the upstream")
        yield port
        self.end(p)
        self.up = None

    @contextlib.contextmanager
    def in_load(self, sets=1, hang=False):
        """The load is the upstream, too: its core never sleeps."""
        self.up = free_port()
        self.words = ["upstream=%d" % self.up, "sets=%d" % sets] + (["hang"] if hang else [])
        yield self.up
        self.up, self.words = None, []

    def wait(self, done, what, seconds=60, log=None):
        until = time.monotonic() + seconds
        while not done():
            if time.monotonic() > until:
                sys.stderr.write(log.read_text()[-2000:] if log and log.exists() else "")
                raise RuntimeError("%s does not start" % what)
            time.sleep(0.05)

    @contextlib.contextmanager
    def gateway(self, program=None, users=1000, workers=1, tls=False, under=(), core=HERE, limits="", keep=None, **more):
        """Yields it with .port, .admin and .pid (the gateway's, also under a tool)."""
        program = program or self.build / "kmsgate"
        port, admin = free_port(), free_port()
        place = keep or Path(tempfile.mkdtemp(dir=self.folder))
        config = place / "gateway.yaml"
        lines = ["listen: [{ address: \"127.0.0.1:%d\"%s }]" % (port, ", tls: { certificate: %s, key: %s }" %
                                                             self.certificate() if tls else ""),
                 "admin: 127.0.0.1:%d" % admin, "public_url: https://kms.example.org",
                 "upstream: { url: \"http://127.0.0.1:%d\", connections: 1024 }" % self.up,
                 "rules: rules.yaml", "keys: sqlite:kmsgate.db", "master_key: file:master.key", "replay: memory",
                 "decisions: %s" % more.pop("decisions", "decisions.jsonl"), "workers: %d" % workers]
        lines += ["limits: { %s }" % limits] if limits else []
        lines += ["%s: %s" % item for item in more.items()]
        config.write_text("\n".join(lines) + "\n")
        shutil.copy(ROOT / "rules/spec.yaml", place / "rules.yaml")
        if not (place / "master.key").exists():
            (place / "master.key").write_text(os.urandom(32).hex() + "\n")
            (place / "master.key").chmod(0o600)
            first = [program, "keys", "import", "--config", config, self.users(users)]
            if subprocess.run(first[:3] + ["--first"] + first[3:], capture_output=True).returncode:
                subprocess.run(first, check=True, capture_output=True)  # a release that does not know --first
        log = place / "gateway.log"
        known = subprocess.run([program, "serve", "--help"], capture_output=True, text=True).stdout
        argv = [*under, program, "serve", "--config", config] + (["--allow-root"] if "--allow-root" in known else [])
        with open(log, "w") as f:
            p = self.start(argv, core, stderr=f, stdout=subprocess.DEVNULL)
        self.wait(lambda: p.poll() is not None or healthy(admin), "the gateway", 300, log)
        if p.poll() is not None:
            raise RuntimeError("the gateway has ended: " + log.read_text()[-2000:])
        p.port, p.admin, p.folder = port, admin, place
        yield p
        self.end(p)

    def nginx_program(self):
        """The one that is there, else Debian's, unpacked: installing it would start a server on every address."""
        unpacked = self.build / "nginx/usr/sbin/nginx"
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or unpacked
        if not Path(program).exists():
            subprocess.run(["apt-get", "-qq", "download", "nginx"], cwd=self.folder, check=True)
            subprocess.run(["dpkg-deb", "-x", next(self.folder.glob("nginx_*.deb")), self.build / "nginx"], check=True)
        return program

    @contextlib.contextmanager
    def nginx(self, tls=False, core=HERE):
        program = self.nginx_program()
        port, place = free_port(), Path(tempfile.mkdtemp(dir=self.folder))
        listen = "%d%s" % (port, " ssl" if tls else "")
        certificate = "ssl_certificate %s; ssl_certificate_key %s; ssl_session_cache off; ssl_session_tickets on; " \
            "ssl_protocols TLSv1.2 TLSv1.3;" % \
            self.certificate() if tls else ""
        (place / "nginx.conf").write_text("""daemon off; worker_processes 1; pid %s/pid; error_log %s/error.log;
events { worker_connections 16384; }
http { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u;
  scgi_temp_path s; keepalive_requests 1000000000; %s
  upstream kms { server 127.0.0.1:%d; keepalive 1024; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:%s; client_body_buffer_size 128k; proxy_buffers 8 64k; proxy_buffer_size 64k;
    location / { proxy_pass http://kms; proxy_http_version 1.1; proxy_set_header Connection ""; } } }
""" % (place, place, certificate, self.up, listen))
        p = self.start([program, "-p", place, "-c", place / "nginx.conf"], core, stderr=subprocess.DEVNULL)
        self.wait(lambda: connects(port), "nginx")
        p.port, p.admin = port, None
        p.worker = int(Path("/proc/%d/task/%d/children" % (p.pid, p.pid)).read_text().split()[0])
        yield p
        self.end(p)

    # --- what is done ---

    def load(self, port, connections, seconds, *words, users=1000, url=URL):
        run = subprocess.run(["taskset", "-c", str(THERE), self.build / "bench_load", "run", str(port), url,
                              self.users(users), str(connections), str(seconds), *self.words, *words],
                             capture_output=True, text=True, check=False)
        if run.returncode or not run.stdout:
            raise RuntimeError("the load failed: " + run.stderr)
        return json.loads(run.stdout)

    def begin(self, port, connections, seconds, *words, users=1000, url=URL):
        """The same beside others: .wait() for it."""
        return self.start([self.build / "bench_load", "run", port, url, self.users(users), connections, seconds, *self.words, *words],
                          THERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @contextlib.contextmanager
    def alone(self, who):
        """Says whether others had the cores meanwhile. It counts all that is started from here."""
        own = os.times()
        before, busy = sum(Cost(p.pid).user + Cost(p.pid).system for p in self.tree()), machine_busy()
        began = time.monotonic()
        verdict = {}
        yield verdict
        after = os.times()
        ours = sum(Cost(p.pid).user + Cost(p.pid).system for p in self.tree()) - before
        ours += sum(after[:4]) - sum(own[:4])
        others = (machine_busy() - busy - ours) / (time.monotonic() - began) / CORES
        verdict["others"] = round(max(0, others), 3)
        verdict["crowded"] = others > CROWDED
        if verdict["crowded"]:
            self.crowded = True
            print("bench: others had %.0f %% of the cores while %s was measured" % (100 * others, who), file=sys.stderr)

    def tree(self):
        """Processes that were started, and their children."""
        todo, found = [p.pid for p in self.running if p.poll() is None], []
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                for task in threads(pid):
                    todo += map(int, (task / "children").read_text().split())
                found.append(Pid(pid))
        return found

    def measure(self, who, p, connections, seconds, *words, users=1000, url=URL):
        """Load for one program on its core, after a short one that warms it."""
        pid = getattr(p, "worker", p.pid)
        self.load(p.port, connections, 1, *words, users=users, url=url)
        with self.alone(who) as verdict:
            before, began = Cost(pid), time.monotonic()
            row = self.load(p.port, connections, seconds, *words, users=users, url=url)
            after, wall = Cost(pid), time.monotonic() - began
        n = max(1, row["requests"])
        row.update(who=who, connections=connections, cpu_us=round((after.ns - before.ns) / 1000 / n, 2),
                   busy=round((after.ns - before.ns) / 1e9 / row["seconds"], 3), rss_kb=rss_kb(pid), wall=round(wall, 2),
                   faults=round((after.faults - before.faults) / n, 4),
                   switches=round((after.switches - before.switches) / n, 3), **verdict)
        return self.note(**row)


class Pid:
    def __init__(self, pid):
        self.pid = pid


def connects(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def healthy(admin):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", admin), 5) as s:
        s.settimeout(30)
        s.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return b" 200 " in s.recv(64)
    return False
