"""Bodies of refused requests: kept, bounded, explained."""
import json
import os
import stat
import threading

import pytest

import kms

RULES = """\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
errors: { detail: reason }
requests:
  - id: watched
    until: 2027-10-01
    match: { user: "sip:alice@example.org" }
    capture: on
  - id: everyone
responses: [{ id: default }]
"""
CAPTURES = "captures: { folder: captures, max: 1MiB }\n"


@pytest.fixture
def gate(gateway):
    return gateway(rules=RULES, config=CAPTURES)


def explained(g, ident, *more):
    r = g.run("explain", "--config", g.config, "--capture", ident, "--format", "json", *more, check=False)
    return r, json.loads(r.stdout) if r.stdout else None


def stale(g, user, path="/init", **kw):
    """A refused request; its body and its ID."""
    body = kms.signed_request(user, g.url(path), Time=kms.now(-60), **kw)
    r = g.post(path, body)
    assert r.status == 403
    return body, r.headers["X-Request-Id"]


def kept(g):
    return {p.name for p in (g.folder / "captures").iterdir()}


def test_a_refused_body_is_kept_and_explained_as_it_came(gate, alice):
    g = gate
    body, ident = stale(g, alice, "/init?q=1")
    path = g.folder / "captures" / (ident + ".xml")
    kms.wait_for(path.exists)
    assert path.read_bytes() == body and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    note = json.loads((g.folder / "captures" / (ident + ".json")).read_text())
    d = g.last(1)
    assert d["captured"] is True and note == {"time": d["time"], "source": "127.0.0.1", "target": kms.BASE + "/init?q=1"}
    r, x = explained(g, ident)
    assert r.returncode == 1 and json.dumps(x).count("time.stale") and "client_req_url.mismatch" not in json.dumps(x)
    said = g.run("explain", "--config", g.config, "--capture", ident, check=False).stdout
    assert str(path) in said and "POST %s/init?q=1 (as the gateway noted it)" % kms.BASE in said
    said = g.run("explain", "--config", g.config, "--capture", ident, "--path", kms.BASE + "/init", check=False).stdout
    assert "POST %s/init (as --path says)" % kms.BASE in said
    # As of its own time; when it is judged as of another one, that goes before.
    assert explained(g, ident, "--at", kms.now(-60))[0].returncode == 0
    rows = g.run("decisions", g.folder / "decisions.jsonl").stdout.splitlines()
    assert "CAPTURED" in rows[0] and "  yes " in rows[1]
    seen = g.run("decisions", "--config", g.config).stdout
    assert "  yes " in seen


def test_what_is_not_kept(gate, alice, bob):
    g = gate
    assert g.ask(alice, "/init").status == 200                   # accepted
    stale(g, bob)                                                # of a rule without
    assert g.post("/init", b"<no").status == 400                 # before any rule
    assert g.post("/init", b"", headers={"Content-Type": "application/xml"}).status == 403
    body, ident = stale(g, alice)
    kms.wait_for(lambda: ident + ".xml" in kept(g))
    assert kept(g) == {ident + ".xml", ident + ".json"}
    assert [d.get("captured") for d in g.decisions(5)] == [None] * 4 + [True]


def test_the_oldest_go_first_and_a_restart_counts_them(gate, alice):
    g = gate
    big = dict(DeviceId="x" * 100)
    ids = [stale(g, alice, **big)[1] for _ in range(200)]        # 1 MiB has room for 128 of two blocks
    kms.wait_for(lambda: ids[-1] + ".xml" in kept(g))
    assert {n[:32] for n in kept(g)} == set(ids[-128:])
    assert g.stop() == 0
    (g.folder / "captures" / ("." + "0" * 32 + ".xml.part")).write_text("half")
    (g.folder / "captures" / "notes.txt").write_text("somebody's own")
    for n, i in enumerate(ids[-128:]):                           # whatever the file system's clock made of them
        os.utime(g.folder / "captures" / (i + ".xml"), (n + 1, n + 1))
    g.start()
    ids.append(g.post("/init", kms.signed_request(alice, g.url("/init"), Time=kms.now(-60))).headers["X-Request-Id"])
    kms.wait_for(lambda: ids[-1] + ".xml" in kept(g))
    assert {n[:32] for n in kept(g)} - {"notes.txt"} == set(ids[-128:])
    assert not any(n.endswith(".part") for n in kept(g)) and "notes.txt" in kept(g)


def test_a_folder_that_is_gone_harms_nobody(gate, alice):
    g = gate
    stale(g, alice)
    kms.wait_for(lambda: len(kept(g)) == 2)
    for p in (g.folder / "captures").iterdir():
        p.unlink()
    (g.folder / "captures").rmdir()
    stale(g, alice)
    kms.wait_for(lambda: "captures" in g.running.err and "bodies are not kept" in g.running.err)
    assert g.ask(alice, "/init").status == 200
    assert "kmsgate_captures_dropped_total 1" in g.admin("/metrics")[1]


def test_many_at_once(gate, alice):
    threads = [threading.Thread(target=lambda: [stale(gate, alice) for _ in range(20)]) for _ in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    want = {d["id"] for d in gate.decisions(100) if d.get("captured")}
    kms.wait_for(lambda: {n[:32] for n in kept(gate) if n.endswith(".xml")} == want)


@pytest.mark.parametrize("ident,words", [
    ("0" * 32, "there is no such capture"), ("../../etc/passwd", "expected the 32 hex digits"), ("A" * 32, "expected the 32 hex digits")])
def test_a_capture_that_is_none(gate, ident, words):
    r, _ = explained(gate, ident)
    assert r.returncode in (1, 2) and words in r.stderr


def test_explain_wants_one_of_them(gate):
    assert "either a file or --capture" in gate.run("explain", "--config", gate.config, check=False).stderr
    assert gate.run("explain", "--config", gate.config, "--capture", "0" * 32, "x.xml", check=False).returncode == 2


def test_a_note_that_is_broken(gate, alice):
    _, ident = stale(gate, alice)
    note = gate.folder / "captures" / (ident + ".json")
    kms.wait_for(lambda: ident + ".xml" in kept(gate))
    note.write_text("[")
    r, _ = explained(gate, ident)
    assert r.returncode == 1 and "%s: cannot be read" % note in r.stderr
    note.unlink()
    assert explained(gate, ident)[0].returncode == 1


def test_without_an_end_or_a_folder(gateway):
    g = gateway(start=False, rules=RULES.replace("    until: 2027-10-01\n", ""))
    r = g.run("check", "--config", g.config, check=False)
    assert r.returncode == 1 and "rules.yaml:7:14: a rule that keeps bodies needs `until`" in r.stderr
    g = gateway(start=False, rules=RULES)
    r = g.run("check", "--config", g.config)
    assert "rules.yaml:5:5: capture-nowhere: rule `watched`" in r.stderr
    r = explained(g, "0" * 32)[0]
    assert r.returncode == 1 and "no `captures`" in r.stderr


@pytest.mark.parametrize("make", ["a file", "no parent"])
def test_a_folder_that_is_none(gateway, make):
    g = gateway(start=False, rules=RULES, config=CAPTURES.replace("captures,", "captures/x/y," if make == "no parent" else "captures,"))
    if make == "a file":
        (g.folder / "captures").write_text("")
    for command in ("check", "serve"):
        r = g.run(command, "--config", g.config, check=False)
        assert r.returncode == 1 and "captures" in r.stderr, r.stderr
