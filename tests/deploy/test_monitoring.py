"""docker/monitoring: alerts that fire on what they are for, and queries whose metrics and labels the gateway really has."""
import json
import re
import socket
import subprocess
import time
import urllib.parse
from http.client import HTTPConnection

import pytest
import yaml

import kms
from conftest import ROOT, run, tool
from redis_servers import Redis

FOLDER = ROOT / "docker/monitoring"
ALERTS = FOLDER / "alerts.yaml"
DASHBOARD = FOLDER / "dashboard.json"


def rules():
    return [r for g in yaml.safe_load(ALERTS.read_text())["groups"] for r in g["rules"]]


def queries():
    """Of alerts, recorded series and panels: (where, expression)."""
    out = [("alerts.yaml: " + (r.get("alert") or r["record"]), r["expr"]) for r in rules()]
    for p in json.loads(DASHBOARD.read_text())["panels"]:
        out += [("dashboard.json: " + p["title"], t["expr"]) for t in p["targets"]]
    return out


def plain(expr):
    """As Grafana sends it."""
    return expr.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")


def test_alerts_are_sound(tmp_path):
    promtool = tool("promtool")
    run(promtool, "check", "rules", "--lint=all", ALERTS)
    bad = tmp_path / "alerts.yaml"
    bad.write_text(ALERTS.read_text().replace("sum by (job)", "sum by job", 1))
    assert run(promtool, "check", "rules", bad, ok=False).returncode != 0
    for r in rules():
        if "alert" in r:
            assert r["labels"]["severity"] in ("warning", "critical") and {"summary", "what_to_do"} <= set(r["annotations"]), r


def test_alerts_fire(tmp_path):
    promtool = tool("promtool")
    cases = yaml.safe_load((ROOT / "tests/deploy/alerts_test.yaml").read_text())
    names = {r["alert"] for r in rules() if "alert" in r}
    quiet, firing = cases["tests"]
    assert {t["alertname"] for t in quiet["alert_rule_test"]} == names, "an alert is not tested"
    cases["rule_files"] = [str(ALERTS)]
    # promtool wants labels and texts of those that fire, too: they are taken from what it says, names and number are held
    firing["alert_rule_test"] = [{"eval_time": "50m", "alertname": n} for n in sorted(names)]
    path = tmp_path / "test.yaml"

    def failures():
        path.write_text(yaml.safe_dump(cases))
        r = run(promtool, "test", "rules", path, ok=False)
        return set(re.findall(r"alertname: ?(\w+), time: 50m", r.stdout + r.stderr)), r.stdout + r.stderr
    said, text = failures()
    assert said == names, "still where they should fire: %s\n%s" % (sorted(names - said), text)
    cases["tests"] = [quiet]
    said, text = failures()
    assert not said, text


def test_the_dashboard(tmp_path):
    d = json.loads(DASHBOARD.read_text())
    assert d["uid"] == "kmsgate" and len({p["id"] for p in d["panels"]}) == len(d["panels"])
    taken = set()
    for p in d["panels"]:
        g = p["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert not cells & taken and g["x"] + g["w"] <= 24, p["title"]
        taken |= cells
        assert p["targets"] and all(t["datasource"]["uid"] == "${datasource}" for t in p["targets"])
    assert [v["name"] for v in d["templating"]["list"]] == ["datasource", "job", "instance"]


def names_in(expr):
    """(metric, labels that are named beside it) of an expression."""
    out = set()
    for name, inside in re.findall(r"\b(kmsgate_\w+)(?:\{([^}]*)\})?", expr):
        out.add((name, frozenset(re.findall(r"(\w+)\s*[=!]~?", inside or ""))))
    return out


def real_metrics(gate):
    """{metric: its label names}, from the gateway itself."""
    out = {}
    for name, labels in re.findall(r"^(kmsgate_\w+)(?:\{(.*)\})? \S+$", gate.admin("/metrics")[1], re.M):
        out.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return out


@pytest.fixture
def shared(tmp_path):
    """A replay memory that gateways share, as gateway.yaml has it."""
    r = Redis(tmp_path / "redis")
    secret = tmp_path / "replay.secret"
    secret.write_text("5a" * 32)
    secret.chmod(0o600)
    yield "{ url: \"redis://127.0.0.1:%d\", secret: file:%s, clock_difference: 700ms, timeout: 2s }" % (r.port, secret)
    r.stop()


@pytest.fixture
def busy(gateway, alice, bob, certs, shared):
    """A gateway that has seen everything the queries ask for."""
    import ssl
    carol = kms.User("sip:carol@example.org", ink=False)  # is given one at once
    g = gateway(users=[alice, bob, carol], replay=shared, listen="    tls: { certificate: %s/server.pem, key: %s/server.key }" % (certs, certs), rules="""\
version: 1
kms: { uris: [kms.example.org] }
requests:
  - { id: bob, why: his clock lags, match: { user: "sip:bob@*" }, checks: { time: shadow } }
  - { id: everyone }
responses: [{ id: default, renew: { ink: 90d } }]
""")
    ctx = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    g.load = lambda: [
        g.post("/keyprov", kms.signed_request(alice, g.url("/keyprov")), context=ctx),
        g.post("/keyprov", kms.signed_request(alice, g.url("/init")), context=ctx),
        g.post("/keyprov", kms.signed_request(bob, g.url("/keyprov"), Time=kms.now(-60)), context=ctx),
        g.post("/init", kms.signed_request(carol, g.url("/init")), context=ctx),
    ]
    assert [r.status for r in g.load()] == [200, 403, 200, 200]
    with socket.create_connection(("127.0.0.1", g.port), timeout=30) as s:  # no TLS
        s.sendall(b"GET / HTTP/1.1\r\n\r\n")
        kms.wait_for(lambda: "kmsgate_tls_failures_total{" in g.admin("/metrics")[1])
    return g


def test_metrics_and_labels_exist(busy):
    real = real_metrics(busy)
    wrong = []
    for where, expr in queries():
        for name, labels in names_in(expr):
            if name not in real:
                wrong.append("%s: the gateway has no %s" % (where, name))
            elif labels - real[name] - {"job", "instance"}:
                wrong.append("%s: %s has no label %s" % (where, name, sorted(labels - real[name])))
        for group in re.findall(r"\bby \(([^)]*)\)", expr):
            known = set().union({"job", "instance"}, *(real.get(n, set()) for n, _ in names_in(expr)))
            if "kmsgate:" in expr:
                known |= {"verdict", "reason"}
            if set(re.split(r",\s*", group)) - known:
                wrong.append("%s: by (%s)" % (where, group))
    assert not wrong, "\n".join(wrong)
    # every metric that the gateway has is looked at somewhere
    asked = {n for _, e in queries() for n, _ in names_in(e)}
    unseen = {re.sub(r"_(bucket|sum|count)$", "", n) for n in real} - {re.sub(r"_(bucket|sum|count)$", "", n) for n in asked}
    assert not unseen, unseen


def test_values_that_alerts_name_exist(busy):
    """reason=~"upstream[.].*" and the like match reasons that the gateway can give; a misspelt one would never fire."""
    reasons = set(re.findall(r'"([a-z_0-9]+(?:\.[a-z_]+)?)"', (ROOT / "gateway/base/reason.h").read_text()))
    assert "upstream.timeout" in reasons
    for r in rules():
        for pattern in re.findall(r'reason=~"([^"]*)"', r["expr"]):
            for part in pattern.split("|"):
                assert [x for x in reasons if re.fullmatch(part, x)], (r, part)


def test_a_real_prometheus(busy, tmp_path):
    """Scrapes the gateway and answers every query; those of the dashboard with data, but where there is nothing to say."""
    prometheus = tool("prometheus")
    port = kms.free_port()
    (tmp_path / "prometheus.yml").write_text("""\
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [%s]
scrape_configs:
  - job_name: kmsgate
    static_configs: [{ targets: ["127.0.0.1:%d"] }]
""" % (ALERTS, busy.admin_port))
    p = kms.Process([prometheus, "--config.file=" + str(tmp_path / "prometheus.yml"), "--storage.tsdb.path=" + str(tmp_path / "data"),
                     "--web.listen-address=127.0.0.1:%d" % port], tmp_path, "prometheus")

    def ask(path, **query):
        c = HTTPConnection("127.0.0.1", port, timeout=30)
        c.request("GET", path + "?" + urllib.parse.urlencode(query))
        return json.loads(c.getresponse().read())

    def answer(expr):
        a = ask("/api/v1/query", query=plain(expr))
        assert a["status"] == "success", (expr, a)
        return a["data"]["result"]

    def scraped():
        try:
            return len(answer('count_over_time(up{job="kmsgate"}[1m]) > 3')) == 1
        except (OSError, ValueError):  # it starts
            return False
    try:
        kms.wait_for(scraped, 60)
        busy.load()
        kms.wait_for(lambda: answer('rate(kmsgate_requests_total{reason="client_req_url.mismatch"}[1m]) > 0'), 60)
        empty = [where for where, expr in queries() if where.startswith("dashboard") and not answer(expr)]
        # the upstream is well; nothing else may be silent
        assert empty in ([], ["dashboard.json: Accepted, but no good reply"]), empty
        for where, expr in queries():
            answer(expr)
        groups = ask("/api/v1/rules")["data"]["groups"]
        assert [r["name"] for g in groups for r in g["rules"] if r["health"] == "err"] == []
        assert not [a for a in ask("/api/v1/alerts")["data"]["alerts"] if a["state"] == "firing"]
    finally:
        p.stop()
