"""Two gateways behind a balancer, one ends under load: no client sees an error. And what happens without drain_delay."""
import http.client
import re
import threading
import time

import kms
import pytest
from balancer import Balancer


class Client(threading.Thread):
    """One handset: keep-alive connections as long as the other side likes them, a fresh signed request each time."""

    def __init__(self, balancer, public, user, end):
        super().__init__(daemon=True)
        self.balancer, self.public, self.user, self.end = balancer, public, user, end
        self.good, self.errors = 0, []

    def run(self):
        c = None
        while not self.end.is_set():
            path = kms.BASE + "/keyprov"
            try:
                c = c or http.client.HTTPConnection("127.0.0.1", self.balancer.port, timeout=20)
                c.request("POST", path, kms.signed_request(self.user, self.public + path), {"Content-Type": "application/xml"})
                r = c.getresponse()
                reply = kms.Reply(r.status, r.headers, r.read())
                reply.verify(self.user.ink, self.user.ink_id)
                assert r.status == 200, r.status
                self.good += 1
                if self.good % 7 == 0: # handsets come and go
                    c.close()
                    c = None
            except Exception as e:
                self.errors.append(repr(e))
                c = None
                time.sleep(0.05)


@pytest.fixture
def pair(gateway, alice, bob):
    """Two gateways with the same public URL, users and upstream, and a balancer before them."""
    made = []

    def make(config):
        one = gateway(config=config)
        two = gateway(config=config, upstream=one.upstream)
        two.users = one.users
        balancer = Balancer([(g.port, g.admin_port) for g in (one, two)])
        made.append(balancer)
        public = "http://kms.example.org"
        for g in (one, two):
            g.running.stop()
            g.config.write_text(re.sub(r"public_url: .*", "public_url: " + public, g.config.read_text()))
            g.start()
        kms.wait_for(lambda: len(balancer.ready) == 2)
        return one, two, balancer, public
    yield make
    [b.stop() for b in made]


def under_load(balancer, public, users, during):
    end = threading.Event()
    clients = [Client(balancer, public, u, end) for u in users for _ in range(2)]
    [c.start() for c in clients]
    try:
        kms.wait_for(lambda: all(c.good > 3 for c in clients))
        during()
        before = [c.good for c in clients]
        kms.wait_for(lambda: all(c.good > n + 3 for c, n in zip(clients, before)) or any(c.errors for c in clients))
    finally:
        end.set()
        [c.join(30) for c in clients]
    return sum(c.good for c in clients), [e for c in clients for e in c.errors]


def test_one_ends_and_comes_back(pair, alice, bob):
    one, two, balancer, public = pair("drain_delay: 1500ms\nlimits: { idle_timeout: 30s }")

    def roll():
        for g in (one, two):  # each in turn, as an upgrade does
            began = time.monotonic()
            assert g.running.stop() == 0
            assert 1.4 < time.monotonic() - began < 6
            assert "ends: requests in flight" in g.running.err
            taken = dict(balancer.taken)
            time.sleep(0.5)
            assert balancer.taken[g.port] == taken[g.port]
            g.start()
            kms.wait_for(lambda: len(balancer.ready) == 2)
            kms.wait_for(lambda: balancer.taken[g.port] > taken[g.port])
    good, errors = under_load(balancer, public, (alice, bob), roll)
    assert not errors, errors[:5]
    assert good > 50


def test_the_twin_that_is_killed(pair, alice, bob):
    """What the test above would see: a gateway that does not drain makes errors."""
    one, two, balancer, public = pair("drain_delay: 0s")

    def kill():
        one.running.p.kill()
        one.running.p.wait()
        time.sleep(0.3)
    good, errors = under_load(balancer, public, (alice, bob), kill)
    assert good and errors
    one.running = None  # it did not end well, as was asked of it


def test_while_it_drains(gateway, alice):
    """/readyz says 503 at once, requests are still answered, each with `Connection: close`."""
    g = gateway(config="drain_delay: 2s")
    assert g.ask(alice, "/init").headers["Connection"] != "close"
    ending = threading.Thread(target=g.running.stop)
    ending.start()
    kms.wait_for(lambda: g.admin("/readyz")[0] == 503, 2)
    assert g.admin("/readyz")[1] == "draining\n" and g.admin("/healthz")[0] == 200
    reply = g.ask(alice, "/init")
    assert reply.status == 200 and reply.headers["Connection"] == "close"
    assert g.run("health", "--config", g.config, check=False).returncode == 1
    ending.join()
    assert g.running.p.returncode == 0
