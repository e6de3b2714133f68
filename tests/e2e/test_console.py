"""The console in a real browser: what it shows, to whom it can be shown, and that nothing from strangers becomes more than
text in it."""
import json
import os
import re
import signal
from datetime import date, timedelta
from pathlib import Path

import pytest

import kms
from browser_driver import Browser
from conftest import BUILD, Gateway
from kms import User
from test_admin import get

ROOT = Path(__file__).parents[2]
SOON = (date.today() + timedelta(days=20)).isoformat()
EVIL = "<img src=x onerror=alert(1)>\u202e\u2066\u00ad\U000e0041\"'`&;${7*7}</script><script>alert(2)</script>"
EVIL_URI = "sip:'$(touch$IFS-made);&lt;img/onerror=alert(5)&gt;\u202e\u2066\u00ad\U000e0041@field.example.org"
RULES = """\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
errors: { detail: reason }
requests:
  - id: old-radios
    why: "<script>alert('why')</script><b>firmware 4.1</b> \u202e"
    until: %s
    match: { user: ["sip:*@field.example.org"] }
    accept: [signed, unsigned]
    checks: { time: shadow }
  - id: lookups
    why: who looks up without a signature
    match: { path: "/keymanagement/identity/v1/lookup/*" }
    shadow_accept: [unsigned, empty]
  - id: forgotten
    why: a vendor that is gone
    match: { user: ["sip:*@gone.example.org"] }
    checks: { kms_uri: { compare: host } }
  - id: everyone
responses: [{ id: default }]
""" % SOON
SIZES = [(1280, 900, "light"), (1280, 900, "dark"), (360, 740, "light"), (360, 740, "dark")]
LABELS = ["%d-%s" % (w, t) for w, _, t in SIZES]


@pytest.fixture(scope="module")
def browser():
    b = Browser(BUILD)
    yield b
    b.close()


class Page:
    """The console of one gateway, open in the browser."""

    def __init__(self, browser, gateway, width=1280, height=900, theme="light"):
        self.b, self.g = browser, gateway
        self.url = "http://127.0.0.1:%d/" % gateway.admin_port
        self.opened = browser("open", url=self.url, width=width, height=height, theme=theme)
        self.wait("#ruled table")
        self.wait("#old *")

    def text(self, at="body"):
        return self.b("text", at=at)

    def count(self, at):
        return self.b("count", at=at)

    def run(self, script):
        return self.b("run", script=script)

    def wait(self, at, n=1):
        return kms.wait_for(lambda: self.count(at) >= n)

    def says(self, at, what):
        return kms.wait_for(lambda: re.search(what, self.text(at), re.S), 60)

    def held(self):
        """The parts of the page that change by themselves stand still."""
        self.b("click", at="#hold")

    def all_open(self):
        self.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")

    def in_order(self):
        told = self.b("told")
        assert told["faults"] == []
        assert [a for a in told["asked"] if not a.startswith("GET " + self.url)] == []


def busy(folder):
    """A gateway whose past has something of everything."""
    users = [User("sip:alice@example.org"), User("sip:bob@field.example.org"), User(EVIL_URI.split("\u202e")[0] + "@example.org")]
    g = Gateway(folder, users, rules=RULES)
    alice, bob, evil = users
    assert g.ask(alice, "/init").status == 200
    assert g.ask(evil, "/init", ClientId=EVIL, DeviceId=EVIL).status == 200
    assert g.ask(evil, "/init", KmsUri=EVIL_URI, ClientReqUrl=EVIL_URI, Time=kms.now(-3)).status == 403
    assert g.ask(alice, "/init", Time=kms.now(3)).status == 200
    assert g.ask(alice, "/init", Time=kms.now(-30)).status == 403
    assert g.ask(alice, "/init", **{"TrK-ID": EVIL, "Signature-ID": EVIL}).status == 403
    assert g.ask(bob, "/init", Time=kms.now(-90)).status == 200
    nobody = kms.fields(User(EVIL_URI), g.url("/init"), ClientId=EVIL)
    g.post("/init", kms.etree.tostring(kms.kms_request(nobody)))
    path = "/lookup/" + "".join("%%%02X" % c for c in b"sip:<img src=x onerror=alert(3)>@example.org")
    g.post(path, b"")
    g.post("/init", b"<script>alert(4)</script>")
    g.decisions(10)
    return g, users


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    g, users = busy(tmp_path_factory.mktemp("console"))
    g.alice = users[0]
    yield g
    assert g.stop() == 0 and "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err


@pytest.mark.parametrize("width,height,theme", SIZES, ids=LABELS)
def test_accessible(browser, gate, width, height, theme):
    """axe finds nothing against WCAG 2.2 AA, and a phone needs no scrolling sideways."""
    page = Page(browser, gate, width, height, theme)
    page.wait("#lines button", 10)
    page.held()
    page.all_open()
    wide = "[document.scrollingElement.scrollWidth - window.innerWidth, " \
           "matchMedia('(prefers-color-scheme: dark)').matches]"
    assert page.run(wide)[0] <= 0 and page.run(wide)[1] == (theme == "dark")
    assert page.run("getComputedStyle(document.body).backgroundColor") == \
        {"light": "rgb(246, 247, 249)", "dark": "rgb(17, 22, 29)"}[theme]
    found = browser("axe")
    assert found["violations"] == []
    assert {"color-contrast", "target-size", "label", "button-name", "td-headers-attr"} <= set(found["passes"])
    browser("click", at="#lines button")
    page.wait("dialog[open]")
    assert browser("axe")["violations"] == []
    assert page.run("document.querySelector('dialog').scrollWidth <= window.innerWidth")
    page.in_order()


def test_the_test_of_access_can_fail(browser, gate):
    page = Page(browser, gate)
    page.run("document.getElementById('pause').textContent = ''; document.querySelector('label').style.color = '#aaa'")
    found = " ".join(browser("axe")["violations"])
    assert "button-name" in found and "color-contrast" in found


@pytest.mark.parametrize("width,height,theme", [SIZES[0], SIZES[2]], ids=[LABELS[0], LABELS[2]])
def test_what_strangers_write_is_text(browser, gate, width, height, theme):
    page = Page(browser, gate, width, height, theme)
    page.wait("#lines button", 10)
    page.held()
    page.all_open()
    fields = ""
    for i in range(page.count("#lines li")):
        browser("click", at="#lines li:nth-child(%d) button" % (i + 1))
        page.wait("dialog[open]")
        fields += page.text("dialog")
        assert page.run("document.querySelectorAll('img, b, i, iframe, object, style, script:not([src])').length") == 0
        browser("press", key="Escape")
    assert page.run("document.scripts.length") == 1
    for field in ("client_id", "device_id", "claims.kms_uri", "claims.client_req_url", "claims.trk_id", "path"):
        assert re.search(re.escape(field) + r"\s+[^\n]*(img|%3C)", fields), field
    assert r"<img src=x onerror=alert(1)>\u202e\u2066\u00ad\U000e0041" in fields and "<script>alert(2)</script>" in fields
    # the characters that turn or hide text are shown as escapes, and none is left in the page
    assert not re.search("[\u202e\u2066\u00ad\U000e0041]", page.run("document.documentElement.textContent"))
    said = page.text()
    shown = EVIL_URI[:EVIL_URI.index("\u202e")] + r"\u202e\u2066\u00ad\U000e0041@"
    assert shown in page.text("#lines") and shown in page.text("#passing")
    assert "<script>alert('why')</script><b>firmware 4.1</b> \\u202e" in page.text("#ruled")
    assert "&lt;img/onerror=alert(5)&gt;" in said and "alert(2)" not in said
    page.in_order()


def test_commands_are_safe_to_paste(browser, gate):
    """What is offered runs as it stands, for hostile values, too: a shell hands kmsgate just these words."""
    page = Page(browser, gate)
    page.wait("#lines button", 10)
    page.held()
    offered = []
    for i in range(page.count("#lines li")):
        browser("click", at="#lines li:nth-child(%d) button" % (i + 1))
        page.wait("dialog[open]")
        commands = page.run("[...document.querySelectorAll('dialog pre')].map((p) => p.textContent)")
        assert [c.split()[1] for c in commands] == ["explain", "which"]
        offered += commands
        browser("press", key="Escape")
    assert len(offered) == 20
    for command in offered:
        assert not re.search("[\u202e\u2066\u00ad\U000e0041\n]", command)
        words = kms.subprocess.run(["bash", "-c", "kmsgate() { printf '%s\\0' \"$@\"; }; " + command],
                                   capture_output=True, text=True, timeout=60, cwd=gate.folder)
        assert words.returncode == 0 and words.stderr == "", (command, words.stderr)
        argv = words.stdout.split("\0")[:-1]
        assert all(re.match(r"explain$|which$|REQUEST\.xml$|--[a-z-]+=", w) for w in argv), argv
        ran = gate.run(*[w for w in argv if w != "REQUEST.xml"], check=False)
        assert argv[0] == "explain" or ran.returncode in (0, 1), ran.stderr


def test_a_policy_that_forbids_what_is_not_its_own(browser, gate):
    page = Page(browser, gate)
    policy = page.opened["headers"]["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    for header, value in (("cache-control", "no-store"), ("x-content-type-options", "nosniff"),
                          ("referrer-policy", "same-origin"), ("cross-origin-opener-policy", "same-origin")):
        assert page.opened["headers"][header] == value
    assert page.run("""(() => { try { document.body.innerHTML = '<p>x</p>'; return 'made'; }
                                catch (e) { return e.name; } })()""") == "TypeError"
    page.run("""(() => { const s = document.createElement('style'); s.textContent = 'body { color: red }';
                         document.head.append(s); })()""")
    assert kms.wait_for(lambda: [f for f in browser("told")["faults"] if "Content Security Policy" in f])
    assert page.run("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"


def test_by_keyboard_alone(browser, gate):
    page = Page(browser, gate)
    page.wait("#lines button", 10)
    focus = lambda: page.run("document.activeElement.id || document.activeElement.textContent.trim().slice(0, 40)")  # noqa: E731
    browser("press", key="Tab")
    assert focus() == "Skip to the content"
    browser("press", key="Enter")
    assert kms.wait_for(lambda: focus() == "main")
    for _ in range(40):
        browser("press", key="Tab")
        if page.run("document.activeElement.matches('#lines button')"):
            break
    assert page.run("document.activeElement.matches('#lines li:first-child button')")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser("press", key="Enter")
    page.wait("dialog[open]")
    assert focus() == "detail-title"
    for _ in range(12):  # what is behind is not reached (the browser's own bar may be)
        browser("press", key="Tab")
        assert page.run("document.activeElement === document.body || document.activeElement.closest('dialog') !== null")
    browser("press", key="Escape")
    assert page.count("dialog[open]") == 0 and page.run("document.activeElement.matches('#lines li:first-child button')")
    reached = set()
    for _ in range(80):
        browser("press", key="Tab")
        reached.add(focus())
    assert any(r.startswith("old-radios: ") for r in reached), reached  # a summary, which Enter opens
    page.in_order()


def test_what_it_tells(browser, gate):
    page = Page(browser, gate)
    assert page.text("#word") == "ready"
    troubles = page.says("#troubles", "old-radios").string
    assert re.search(r"Soon: The rule old-radios \(line 5\) ends with %s; from then on its requests meet lookups, everyone\." % SOON, troubles)
    assert "What to do:" in troubles
    rates = page.says("#rates", "time.stale").string
    assert re.search(r"kms_uri\.mismatch\s+reject\s+[\d.]+\s+1\b", rates)
    chart = page.run("document.querySelector('#chart svg').getAttribute('aria-label')")
    assert re.fullmatch(r"Requests over ten minutes: 6 accepted, 4 refused, at most [\d.]+ a second", chart), chart
    browser("click", at="#range-day")
    assert "Requests over a day: 6 accepted, 4 refused" in page.run(
        "document.querySelector('#chart svg').getAttribute('aria-label')")
    page.all_open()
    passing = page.text("#passing")
    assert re.search(r"old-radios: shadow check time let 1 request of 1 user pass, the last \d+ (second|minute)s? ago", passing), passing
    assert re.search(r"old-radios: the rule's exceptions let 2 requests of 2 users pass", passing)
    assert re.search(r"lookups: shadow_accept let 1 request of 1 user pass", passing)
    assert "sip:bob@field.example.org" in passing and "(claimed)" in passing
    unused = page.text("#unused")
    assert re.search(r"forgotten \(line 15\): not used since the gateway began to watch", unused), unused
    assert "old-radios" not in unused and "everyone" not in unused
    clocks = page.text("#skews")
    assert re.search(r"sip:bob@field\.example\.org\s+90 s behind\s+90 s behind\s+5\.00 s\s+is refused where time is enforced", clocks)
    assert re.search(r"active, 0 retiring", page.text("#ages"))
    assert gate.upstream in page.text("#engines") and "answers" in page.text("#engines")
    rules = page.text("#ruled")
    assert re.search(r"everyone\s+19\s+nothing\s+3\s+3\s", rules), rules
    assert "time is in shadow: it reports and refuses nobody" in rules and "accepts unsigned requests" in rules
    assert re.search(r"ends with %s, in (20|21) days; then lookups, everyone decides" % SOON, rules)
    page.in_order()


def test_a_decision_is_explained(browser, gate):
    page = Page(browser, gate)
    page.wait("#lines button", 10)
    browser("select", at="select[name=reason]", text="time.stale")
    kms.wait_for(lambda: page.count("#lines li") == 1)
    browser("click", at="#lines button")
    page.wait("dialog[open]")
    said = page.text("dialog")
    for what in ("Refused: time.stale, status 403", "User sip:alice@example.org, proven by the signature, from 127.0.0.1",
                 "The request's Time is 30 s behind the gateway's clock; the rule allows 5.00 s behind",
                 "the client's clock, see skew_ms", "everyone (line 19)", "kmsgate explain --config=", "kmsgate which --rules="):
        assert what in said, (what, said)
    assert re.search(r"time\s+failed: refused", said) and re.search(r"signature\s+holds", said)
    browser("click", at="dialog button:has-text('Copy')")
    kms.wait_for(lambda: "Copied" in page.text("dialog"))
    assert page.run("navigator.clipboard.readText()") == page.text("dialog pre")
    page.in_order()


def test_live_with_filters_and_pause(browser, tmp_path, alice, bob):
    g = Gateway(tmp_path, [alice, bob], rules=RULES)
    try:
        page = Page(browser, g)
        n = lambda: page.count("#lines li")  # noqa: E731
        assert g.ask(alice, "/init").status == 200
        kms.wait_for(lambda: n() == 1)
        assert g.ask(bob, "/init").status == 200
        kms.wait_for(lambda: n() == 2)
        assert "sip:bob@example.org" in page.text("#lines li")  # the newest on top
        browser("click", at="#pause")
        assert page.run("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        g.post("/init", b"<x/>")
        g.decisions(3)
        page.says("#rates", "xml.invalid")  # the page has come to it; the list stands still
        assert n() == 2
        browser("click", at="#pause")
        kms.wait_for(lambda: n() == 3)
        for name, value, want in (("user", "alice", 1), ("user", "sip:*@example.org", 2), ("source", "127.0", 3),
                                  ("source", "10.", 0), ("verdict", "reject", 1), ("form", "signed", 2), ("rule", "everyone", 2),
                                  ("reason", "xml.invalid", 1), ("rule", "lookups", 0)):
            browser("click", at="#filters button[type=reset]")
            kms.wait_for(lambda: n() == 3)
            browser("fill" if name in ("user", "source") else "select", at="#filters [name=%s]" % name, text=value)
            kms.wait_for(lambda: n() == want)
        browser("fill", at="#filters [name=user]", text=EVIL[:40])
        browser("select", at="#filters [name=rule]", text="")
        kms.wait_for(lambda: n() == 0)
        page.in_order()
    finally:
        assert g.stop() == 0


def test_troubles_and_their_ends(browser, tmp_path, alice, bob):
    g = Gateway(tmp_path, [alice, bob])
    try:
        page = Page(browser, g)
        page.says("#troubles", "It serves, and nothing needs attention")
        good = (tmp_path / "rules.yaml").read_text()
        (tmp_path / "rules.yaml").write_text(good.replace("everyone", "every one <img src=x onerror=alert(1)>"))
        page.says("#troubles", r"Soon: The rules at .*rules\.yaml was refused at .*<img src=x onerror=alert\(1\)>.*kmsgate check")
        (tmp_path / "rules.yaml").write_text(good)
        page.says("#troubles", "nothing needs attention")
        g.legacy.stop()
        assert g.ask(alice, "/init").status == 502
        page.says("#troubles", r"Now: The KMS at .* does not answer.*What to do: See whether the KMS runs")
        page.says("#engines", "does not answer")
        assert "bad" in page.run("document.getElementById('word').className")
        page.in_order()
        g.running.stop(signal.SIGTERM)
        page.says("#troubles", "The gateway does not answer this page")
        assert page.text("#word") == "no answer"
    finally:
        g.stop()


def test_behind_the_sign_in(browser, gateway, alice):
    """The token by the form, then the page and all that it asks for; after the sign-out the form again."""
    g = gateway(config="admin_token: file:token", start=False)
    (g.folder / "token").write_text("a-token-of-some-length\n")
    (g.folder / "token").chmod(0o600)
    g.start()
    url = "http://127.0.0.1:%d/" % g.admin_port
    opened = browser("open", url=url)
    assert opened["status"] == 401 and browser("axe")["violations"] == []
    browser("fill", at="#token", text="a-token-of-some-length")
    browser("press", key="Enter")
    kms.wait_for(lambda: browser("count", at="#ruled table"))
    g.ask(alice, "/init")
    kms.wait_for(lambda: browser("count", at="#lines li") == 1)
    assert browser("axe")["violations"] == []
    browser("click", at="#leave button")
    kms.wait_for(lambda: browser("count", at="#token"))
    assert [f for f in browser("told")["faults"] if "401" not in f] == []


def test_use_is_known_over_a_restart(gateway, alice):
    g = gateway(rules=RULES)
    assert g.ask(alice, "/init").status == 200
    before = json.loads(g.admin("/api/rules")[1])
    assert g.running.stop() == 0
    kept = g.folder / "console.json"
    assert kept.stat().st_mode & 0o777 == 0o600 and "alice" not in kept.read_text() and "everyone" in kept.read_text()
    g.start()
    after = json.loads(g.admin("/api/rules")[1])
    assert after["since"][:19] == before["since"][:19]
    use = next(r for r in after["requests"] if r["id"] == "everyone")["hits"]
    assert use["accepted"] == 1 and use["days"][0] + use["days"][1] == 1
    g.running.stop()
    kept.write_text("{")  # a torn one is told of, and no more than that
    g.start()
    assert "console.json cannot be used" in g.running.err
    assert all("hits" not in r for r in json.loads(g.admin("/api/rules")[1])["requests"])


def test_who_uses_an_old_key(browser, gateway, alice, bob):
    g = gateway([alice, bob])
    old = alice.signer()
    key = os.urandom(32)
    keys = g.folder / "more.jsonl"
    keys.write_text(json.dumps({"user": alice.uri, "type": "ink", "id": "ink.2.alice", "key": key.hex()}) + "\n")
    keys.chmod(0o600)
    g.run("keys", "import", "--config", g.config, keys)
    kms.wait_for(lambda: json.loads(g.admin("/api/keys")[1])["ink"]["states"]["retiring"] == 1)
    assert g.ask(alice, "/init").status == 200 and g.ask(bob, "/init").status == 200
    page = Page(browser, g)
    page.says("#old", r"sip:alice@example\.org\s+ink\s+ink\.1\.alice\s+a newer one is active")
    assert "bob" not in page.text("#old")
    assert old[0] == "ink.1.alice"
    alice.ink_id, alice.ink = "ink.2.alice", key
    assert g.ask(alice, "/init").status == 200
    page.says("#old", "Nobody that was seen since")
    page.in_order()


# ---- the JSON

APIS = ["state", "traffic", "passes", "clocks", "keys", "rules", "reasons"]


def members(value, path=""):
    if isinstance(value, dict):
        for k, v in value.items():
            yield k
            yield from members(v, path + k + ".")
    elif isinstance(value, list):
        for v in value:
            yield from members(v, path)


@pytest.mark.parametrize("name", APIS)
def test_the_json_is_what_its_page_says(gate, name):
    """Each member is in docker/ADMIN-API.md, below the heading of its address."""
    status, head, body = get(gate, "/api/" + name)
    assert status == 200 and "Content-Type: application/json\r\n" in head and "Cache-Control: no-store" in head
    part = (ROOT / "docker" / "ADMIN-API.md").read_text().split("\n## `/api/%s`\n" % name)[1].split("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", part))
    closed = set(json.loads(get(gate, "/api/reasons")[2]))  # reasons are told by name elsewhere
    assert {m for m in members(json.loads(body)) if m not in closed} - documented == set()


def test_the_reasons_are_told_in_the_same_words_everywhere(gate):
    told = json.loads(get(gate, "/api/reasons")[2])
    rows = {}
    for line in (ROOT / "docker" / "DECISIONS.md").read_text().split("## Reasons")[1].split("\n## ")[0].split("\n"):
        if line.startswith("| `"):
            cells = [c.strip() for c in line.split("|")[1:-1]]
            rows.update({name: (cells[2], cells[3]) for name in re.findall(r"`([a-z_.]+)`", cells[0])})
    assert {name: (t["what"], t["do"]) for name, t in told.items()} == rows


@pytest.mark.parametrize("name", APIS)
def test_the_json_takes_no_query_and_no_other_method(gate, name):
    status, _, body = get(gate, "/api/" + name + "?x=1")
    assert status == 400 and body == "expected /api/%s without a query\n" % name
    assert get(gate, "/api/" + name, method=b"POST")[0] == 405
    assert get(gate, "/api/" + name + "/")[0] == 404
    assert get(gate, "/api/" + name, method=b"HEAD")[2] == ""


def test_the_page_needs_its_host(gate):
    for path in ("/", "/console.js", "/console.css", "/console.svg", "/api/state"):
        assert get(gate, path)[0] == 200
        assert b" 403 " in kms_raw(gate, path, b"evil.example")


def kms_raw(g, path, host):
    from test_admin import raw
    return raw(g, b"GET " + path.encode() + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").split(b"\r\n")[0]
