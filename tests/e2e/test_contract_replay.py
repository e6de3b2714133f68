"""The contract's sentences on the replay memory that need a gateway of their own: bounded, full, restarted, reloaded."""
import os
import signal
import socket
import threading
import time
from datetime import datetime, timedelta, timezone

import kms

RULES = """\
version: 1
kms: { uris: [kms.example.org] }
errors: { detail: reason }
requests:
  - { id: no-time, match: { client_id: no-time }, checks: { time: off }, why: a test }
  - { id: no-replay, match: { client_id: no-replay }, checks: { replay: off, time: { past: 2h } }, why: a test }
  - { id: everyone, checks: { time: { past: 1h } } }
responses: [{ id: default }]
"""


def test_bounded_and_a_sixteenth_for_one_user(gateway):
    users = [kms.User("sip:u%d@example.org" % i) for i in range(18)]
    g = gateway(users, rules=RULES, config="limits: { replay_entries: 64 }")
    # 64 places, four of them for one user
    for n in range(4):
        assert g.ask(users[0], "/init").status == 200
    r = g.ask(users[0], "/init")
    assert (r.status, r.error) == (503, "replay.full") and int(r.headers["Retry-After"]) > 0
    assert r.verify(users[0].ink, users[0].ink_id)
    for u in users[1:16]:
        for n in range(4):
            assert g.ask(u, "/init").status == 200
    assert "kmsgate_replay_entries 64" in g.admin("/metrics")[1]
    r = g.ask(users[16], "/init")
    assert (r.status, r.error) == (503, "replay.full")
    # full is full for what has to be remembered only; and a refused one was not remembered
    assert g.ask(users[16], "/init", ClientId="no-replay").status == 200
    assert "kmsgate_replay_entries 64" in g.admin("/metrics")[1]
    assert len(g.upstream_requests()) == 65


def test_a_restart_forgets_and_fails_closed(gateway, alice):
    g = gateway([alice], rules=RULES)
    body, early = kms.signed_request(alice, g.url("/init")), kms.signed_request(alice, g.url("/keyprov"))
    off = kms.signed_request(alice, g.url("/init"), ClientId="no-replay")
    assert g.post("/init", body).status == 200
    assert g.running.stop() == 0
    launched = datetime.now(timezone.utc)
    g.start()
    for path, b in (("/init", body), ("/keyprov", early)):  # accepted before, or never seen: cannot be told apart
        r = g.post(path, b)
        assert (r.status, r.error) == (503, "replay.unavailable") and int(r.headers["Retry-After"]) > 0
    # the start is the next whole second after launch, and /readyz was 503 until then
    assert datetime.now(timezone.utc) >= launched.replace(microsecond=0) + timedelta(seconds=1)
    assert g.ask(alice, "/init").status == 200
    # wherever `time` and `replay` are both enforced
    assert g.post("/init", off).status == 200
    assert g.ask(alice, "/init", ClientId="no-time", Time="2001-01-01T00:00:00Z").status == 200


def test_a_reload_forgets_nothing(gateway, alice):
    g = gateway([alice], rules=RULES)
    body = kms.signed_request(alice, g.url("/init"))
    assert g.post("/init", body).status == 200
    for rules in (RULES.replace("past: 1h", "past: 6s"), RULES.replace("past: 1h", "past: 4h")):
        before = g.admin("/rules")[1]
        (g.folder / "rules.yaml").write_text(rules)
        g.running.p.send_signal(signal.SIGHUP)
        kms.wait_for(lambda: g.admin("/rules")[1] != before)
        assert g.post("/init", body).error in ("replay.seen", "time.stale")
    assert g.ask(alice, "/init").status == 200


def test_what_never_left_is_given_back(gateway, alice):
    """No connection to the upstream: nothing was sent, and the same bytes may come again. What it may have read may not."""
    g = gateway([alice], rules=RULES)
    body = kms.signed_request(alice, g.url("/init"))
    port = int(g.upstream.rsplit(":", 1)[1])
    g.legacy.stop()
    for _ in range(2):
        r = g.post("/init", body)
        assert (r.status, r.error) == (502, "upstream.unreachable")
    assert "kmsgate_replay_entries 0" in g.admin("/metrics")[1]
    with socket.create_server(("127.0.0.1", port)) as s:
        def cut():
            got = b""
            while not got:  # a probe says nothing
                c, _ = s.accept()
                got = c.recv(1)
                c.close()
        t = threading.Thread(target=cut)
        t.start()
        while (r := g.post("/init", body)).error == "upstream.unreachable" and t.is_alive():
            pass
        t.join()
    # the one that was cut off may have been answered before the thread ended: then this is the one after it
    assert (r.status == 502 or r.error == "replay.seen") and g.post("/init", body).error == "replay.seen"


def test_one_rule_does_not_open_what_another_spent(gateway, alice):
    """A request whose Time no rule enforces is remembered all the same."""
    g = gateway([alice], rules=RULES)
    body = kms.signed_request(alice, g.url("/init"), ClientId="no-time", Time="2001-01-01T00:00:00Z")
    assert g.post("/init", body).status == 200
    assert g.post("/init", body).error == "replay.seen"


def test_what_leaves_the_window_is_forgotten_and_stale(gateway, alice):
    g = gateway([alice], rules=RULES.replace("past: 1h", "past: 2s").replace("past: 2h", "past: 2s"))
    body = kms.signed_request(alice, g.url("/init"))
    assert g.post("/init", body).status == 200
    assert g.post("/init", body).error == "replay.seen"
    time.sleep(2.5)
    assert g.post("/init", body).error == "time.stale"
    assert os.path.exists(g.config)
