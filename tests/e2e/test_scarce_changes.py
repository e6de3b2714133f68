"""Memory that ends while something is replaced in a running gateway: settings, rules and certificates by a reload, a user's keys by a
renewal or by what the upstream issues. Each allocation of it in turn (some of them each time; all with SCARCE_EVERY=1)."""
import http.client
import json
import os
import re
import signal
import ssl

import pytest

import certs
import kms
import scripted
from conftest import Gateway
from renewing import Device, good
from scripted import certificate, init, response
from test_reload import in_force, peer, put, sha
from test_scarce import ENOUGH, RULES, SANITIZED, Scarce

pytestmark = pytest.mark.skipif(SANITIZED, reason="sanitizers have an allocator of their own")
EVERY = int(os.environ.get("SCARCE_EVERY", 0))


def steps(total, tries):
    """From the first allocation to a few behind the last: all, or about so many, others each time."""
    step = EVERY or max(1, total // tries)
    return range(1 + os.getpid() % step, total + 20, step)


def test_a_reload(tmp_path):
    """What was in force is in force after it, or what is new, each part whole; the next reload takes all."""
    alice, scarce = kms.User("sip:alice@example.org"), Scarce(tmp_path)
    ca = certs.authority(tmp_path, "ca")
    for name in ("first", "second"):
        certs.issue(tmp_path, "ca", name)
    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    state = {}

    def use(name, kms_id, body):
        state.update(name=name, rules=RULES.replace("kms-01", kms_id), body=body)
        for kind in (".pem", ".key"):
            put(tmp_path / ("server" + kind), (tmp_path / (name + kind)).read_text())
        put(tmp_path / "rules.yaml", state["rules"])
        put(g.config, re.sub("body: [0-9KiB]+", "body: " + body, g.config.read_text()))

    def hup():
        g.running.p.send_signal(signal.SIGHUP)

    def largest():
        return g.post("/keyprov", b"x" * 1500, context=context).status

    def rules_in_force():
        """None where memory ended in the answer."""
        try:
            return in_force(g)
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def all_new():
        return in_force(g) == sha(state["rules"]) and peer(g.port, ca) == state["name"] and \
            (largest() == 413) == (state["body"] == "1KiB")
    g = Gateway(tmp_path, [alice], start=False, rules=RULES, config="workers: 1\nlimits: { body: 64KiB }",
                listen="    tls: { certificate: server.pem, key: server.key }")
    try:
        g.public = g.public.replace("http:", "https:")
        g.config.write_text(g.config.read_text().replace("public_url: http:", "public_url: https:"))
        use("first", "kms-01", "64KiB")
        g.start(scarce.env)
        use("second", "kms-02", "1KiB")
        scarce.at(ENOUGH)
        hup()
        kms.wait_for(lambda: in_force(g) == sha(state["rules"]))
        total = scarce.seen()
        kms.wait_for(all_new)
        for _ in range(1000):  # as many decisions as the console remembers
            assert largest() == 413
        fds, live = len(os.listdir("/proc/%d/fd" % g.running.p.pid)), scarce.live()
        assert 100 < total < 100000
        tried = list(steps(total, 100))
        for at, n in enumerate(tried):
            old = dict(state)
            use(*(("first", "kms-01", "64KiB"), ("second", "kms-02", "1KiB"))[at % 2])
            scarce.at(n)
            hup()
            kms.wait_for(lambda: scarce.seen() >= n or rules_in_force() == sha(state["rules"]))
            scarce.at(0)
            assert g.running.p.poll() is None, (n, g.running.p.returncode, g.running.err[-2000:])
            assert in_force(g) in (sha(old["rules"]), sha(state["rules"])), n
            assert peer(g.port, ca) in ("first", "second"), n
            assert largest() in (400, 413), n
            kms.wait_for(all_new)  # what was refused for want of memory is read again by itself
            if state["body"] == "64KiB":
                assert g.post("/keyprov", kms.signed_request(alice, g.url("/keyprov")), context=context).status == 200, n
        refused = g.running.err.count("stay in force") + g.running.err.count("stays in use")
        assert refused
        assert len(os.listdir("/proc/%d/fd" % g.running.p.pid)) <= fds + 2
        assert scarce.live() < live + len(tried) // 2 + 100, "lost in %d failures: %d blocks" % (len(tried), scarce.live() - live)
        kms.wait_for(lambda: g.admin("/readyz")[1] == "ready\n")
    finally:
        assert g.stop() == 0, g.running.err[-3000:]


CHANGES = {"renew": "renew: { trk: 1s, ink: 1s, keep_old: 1h }", "learn": "new_keys: learn"}


@pytest.mark.parametrize("many", [1, 40])
@pytest.mark.parametrize("how", list(CHANGES))
def test_new_keys(tmp_path, how, many):
    """A user whose reply was lost is served with the keys that he has and gets the new ones again; whoever got them is served with them."""
    scarce, upstream = Scarce(tmp_path), scripted.Scripted()
    tries = 100
    devices = [Device("sip:user%d@example.org" % i) for i in range(9000 if EVERY else 3 * tries)]
    g = Gateway(tmp_path, [d.user for d in devices], start=False, upstream=upstream.url, config="workers: 1",
                rules=RULES.replace("responses: [{ id: default, ", "responses: [{ id: default, %s, " % CHANGES[how]))
    unused = iter(devices)

    def answers(d, new):
        issued = ["<%s>%s</%s>" % (e, os.urandom(32).hex(), e) for e in ("NewTransportKey", "NewIntegrityKey")]
        upstream.says(response(init(certificate(), *(issued if new and how == "learn" else ())), user=d.user.uri))

    def ask(d, new=True):
        answers(d, new)
        body = kms.signed_request(d.user, g.url("/init"))
        return lambda: answer(body)

    def answer(body):
        try:
            return g.post("/init", body)
        except (OSError, http.client.HTTPException):
            return None  # closed without an answer

    def listed(d):
        out = g.run("keys", "export", "--config", g.config, "--user", d.user.uri).stdout
        return {k["id"]: k["state"] for k in map(json.loads, out.splitlines())}

    def taken(d, reply):
        """With these the next request is signed, and its reply encrypted."""
        new = d.new_keys(good(reply, d))
        d.take(new)
        return len(new)
    try:
        g.start(scarce.env)
        for _ in range(1000):  # as many decisions as the console remembers
            assert answer(b"").status == 403
        for _ in range(3):
            d = next(unused)
            assert kms.wait_for(lambda: taken(d, ask(d)())) == 2  # once they are old enough
            assert taken(d, ask(d, new=False)()) == 0
        fds, live = len(os.listdir("/proc/%d/fd" % g.running.p.pid)), scarce.live()
        d = next(unused)
        scarce.at(ENOUGH)
        assert taken(d, ask(d)()) == 2
        total, results = scarce.seen(), {}
        assert 100 < total < 5000
        tried = steps(total, tries)
        for n in tried:
            d = next(unused)
            first = ask(d)
            scarce.at(n, many)
            reply = first()
            scarce.at(0)
            assert g.running.p.poll() is None, (n, g.running.p.returncode, g.running.err[-2000:])
            status = reply and reply.status
            results[status] = results.get(status, 0) + 1
            assert status in (None, 200, 400, 500, 502, 503), (n, status)
            if status == 200:
                taken(d, reply)
            again = ask(d, new=status != 200)()
            assert again.status == 200, (n, status, again.body)
            taken(d, again)
            while taken(d, ask(d, new=False)()):  # the other one was deferred
                results["late"] = results.get("late", 0) + 1
            if n % 10 == 0:
                kms.wait_for(lambda: listed(d).get(d.user.ink_id) == listed(d).get(d.user.trk_id) == "active")
        assert 200 in results and (None in results or 500 in results or 503 in results), results
        assert len(os.listdir("/proc/%d/fd" % g.running.p.pid)) <= fds + 2
        # of each user two keys in the table, and what is remembered of three accepted requests
        assert scarce.live() < live + 6 * len(tried) + 100, "lost in %d failures: %d blocks" % (len(tried), scarce.live() - live)
    finally:
        assert g.stop() == 0, g.running.err[-3000:]
        upstream.close()
