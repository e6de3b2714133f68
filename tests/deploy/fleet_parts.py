"""A fleet on loopback from the files of docker/compose/fleet: gateways by its gateway.yaml and HAProxy by its haproxy.cfg,
with other addresses and folders; handsets that never stop asking, and somebody who sends everything once more."""
import collections
import http.client
import os
import random
import re
import shutil
import ssl
import threading
import time
from pathlib import Path

import kms

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docker/compose/fleet"
PUBLIC = "https://kms.example.org:8443"


def changed(text, *pairs):
    """Each of them is there, once or more: a file that has become another is noticed."""
    for old, new in pairs:
        assert re.search(old, text, re.M), old
        text = re.sub(old, new.replace("\\", "\\\\"), text, flags=re.M)
    return text


class Gate:
    """One gateway: its program may be changed while it is down."""

    def __init__(self, folder, name, program, keys, replay, upstream, secrets, certs, rules=None):
        self.folder, self.name, self.program = folder / name, name, program
        self.folder.mkdir()
        self.port, self.admin_port, self.running = kms.free_port(), kms.free_port(), None
        for f in secrets:
            shutil.copy(f, self.folder)
        (self.folder / "rules.yaml").write_text(rules or (ROOT / "rules/spec.yaml").read_text())
        for f in ("server.pem", "server.key", "ca.pem"):
            shutil.copy(certs / f, self.folder)
        self.context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
        self.config = self.folder / "gateway.yaml"
        self.config.write_text(changed(
            (FILES / "gateway.yaml").read_text(), (r"0\.0\.0\.0:8443", "127.0.0.1:%d" % self.port),
            (r"0\.0\.0\.0:9090", "127.0.0.1:%d" % self.admin_port), (r"172\.30\.95\.2/32", "127.0.0.1/32"),
            (r"http://kms:9000", upstream), (r"^keys: .*$", "keys: " + keys),
            (r"^  url: redis.*$", "  timeout: 2s\n  url: " + replay), (r"^  user: .*\n  password: .*\n  ca: .*\n", ""),
            (r"/run/kmsgate/", str(self.folder) + "/"), (r"^state: \S+", "state: ."),
            (r"^decisions: stdout", "decisions: decisions.jsonl")))

    def start(self, wait=True):
        self.running = kms.Process([self.program, *kms.SERVE, "--config", self.config], self.folder, "gateway")
        if wait:
            kms.wait_for(self.ready, 60)

    def ready(self):
        assert self.running.p.poll() is None, self.running.err
        try:
            return self.admin("/readyz")[0] == 200
        except OSError:
            return False

    def admin(self, path):
        c = http.client.HTTPSConnection("localhost", self.admin_port, timeout=10, context=self.context)
        token = (self.folder / "admin.token").read_text()
        c.request("GET", path, headers={"Authorization": "Bearer " + token})
        r = c.getresponse()
        text = r.read().decode()
        c.close()
        return r.status, text

    def accepted(self):
        path = self.folder / "decisions.jsonl"
        return path.read_text().count('"verdict":"accept"') if path.exists() else 0

    def stop(self):
        code = self.running.stop()
        assert code == 0 and "ERROR: " not in self.running.err and "runtime error" not in self.running.err, self.running.err


class Balancer:
    def __init__(self, folder, gates, certs):
        self.port, self.watch, folder = kms.free_port(), kms.free_port(), folder / "haproxy"
        folder.mkdir()
        (folder / "both.pem").write_text((certs / "server.pem").read_text() + (certs / "server.key").read_text())
        shutil.copy(certs / "ca.pem", folder)
        text = changed((FILES / "haproxy.cfg").read_text(), (r"bind :8443 ", "bind 127.0.0.1:%d " % self.port),
                       (r"127\.0\.0\.1:8404", "127.0.0.1:%d" % self.watch), (r"/run/fleet/", str(folder) + "/"),
                       *((r"%s:8443$" % g.name, "127.0.0.1:%d check port %d" % (g.port, g.admin_port)) for g in gates))
        (folder / "haproxy.cfg").write_text(text)
        self.process = kms.Process(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], folder, "haproxy")
        kms.wait_for(self.ready, 60)

    def ready(self):
        """By what compose's health check asks."""
        assert self.process.p.poll() is None, self.process.err
        try:
            c = http.client.HTTPConnection("127.0.0.1", self.watch, timeout=5)
            c.request("GET", "/ready")
            return c.getresponse().status == 200
        except OSError:
            return False


class Load:
    """Handsets on connections of their own, and a thief who has all that was accepted. `where`: host and port."""

    def __init__(self, where, context, users, each=2):
        self.where, self.context, self.end = where, context, threading.Event()
        self.lock, self.sent, self.spent = threading.Lock(), collections.Counter(), collections.deque(maxlen=400)
        self.good, self.errors, self.stolen, self.replies = 0, [], [], collections.Counter()
        self.threads = [threading.Thread(target=self.handset, args=(u,), daemon=True) for u in users for _ in range(each)]
        self.threads.append(threading.Thread(target=self.thief, daemon=True))
        [t.start() for t in self.threads]

    def connect(self):
        return http.client.HTTPSConnection(*self.where, timeout=30, context=self.context)

    def post(self, c, path, body):
        c.request("POST", path, body, {"Content-Type": "application/xml"})
        r = c.getresponse()
        return kms.Reply(r.status, r.headers, r.read())

    def count(self, began, reply, path, body):
        with self.lock:
            if reply.status == 200:
                self.good += 1
                self.spent.append((path, body))
            else:
                self.errors.append((began, reply.status, reply.error))

    def handset(self, user):
        c, mine = None, 0
        while not self.end.is_set():
            path, began = kms.BASE + "/keyprov?of=%s" % os.urandom(8).hex(), time.time()
            body = kms.signed_request(user, PUBLIC + path)
            try:
                c = c or self.connect()
                reply = self.post(c, path, body)
                if reply.status == 200:
                    reply.verify(user.ink, user.ink_id)
                self.count(began, reply, path, body)
                mine += 1
                time.sleep(0.02)
                if mine % 7 == 0:  # handsets come and go
                    c.close()
                    c = None
            except (OSError, http.client.HTTPException, ssl.SSLError) as e:
                with self.lock:
                    self.errors.append((began, 0, repr(e)))
                c = None
                time.sleep(0.05)

    def thief(self):
        """What was accepted just now is the most dangerous: its Time is good for longest."""
        c = None
        while not self.end.is_set():
            with self.lock:
                one = random.choice(self.spent) if self.spent else None
            if not one:
                time.sleep(0.05)
                continue
            try:
                c = c or self.connect()
                reply = self.post(c, *one)
                with self.lock:
                    self.replies[reply.status] += 1
                    if reply.status == 200:
                        self.stolen.append(one[0])
                time.sleep(0.02)
            except (OSError, http.client.HTTPException, ssl.SSLError):
                c = None
                time.sleep(0.05)

    def more(self, n=10, seconds=60):
        """So many further good replies."""
        before = self.good
        kms.wait_for(lambda: self.good >= before + n, seconds)

    def stop(self):
        self.end.set()
        [t.join(40) for t in self.threads]
        assert not self.stolen, self.stolen
