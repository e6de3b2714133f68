"""Memory that ends while a user's keys are replaced in a running gateway, by a renewal or by what the upstream issues. Each allocation of it
in turn (some of them each time; all with SCARCE_EVERY=1)."""
import http.client
import json
import os

import pytest

import kms
import scripted
from conftest import Gateway
from renewing import Device, good
from scripted import certificate, init, response
from test_scarce import ENOUGH, RULES, SANITIZED, Scarce

pytestmark = pytest.mark.skipif(SANITIZED, reason="sanitizers have an allocator of their own")
EVERY = int(os.environ.get("SCARCE_EVERY", 0))


def steps(total, tries):
    """From the first allocation to a few behind the last: all, or about so many, others each time."""
    step = EVERY or max(1, total // tries)
    return range(1 + os.getpid() % step, total + 20, step)


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
