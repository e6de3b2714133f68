"""Decision lines to a syslog server: rsyslog over TCP, TLS and a Unix socket, a receiver of our own for what goes wrong."""
import json
import re
import socket
import ssl
import threading

import pytest

import certs
import kms
from listening import Listening

HEADER = re.compile(r"<(\d+)>1 (\S+) (\S+) kmsgate (\d+) (decision|lost) - (.*)", re.S)


class Receiver(Listening):
    """Takes octet-counted messages; can be told to read nothing, and to drop its connections."""

    def __init__(self, context=None, port=0):
        self.messages, self.reading = [], threading.Event()
        self.reading.set()
        super().__init__(self.read, port=port, tls=context)

    def read(self, s, _):
        f = s.makefile("rb")
        while True:
            self.reading.wait()
            digits = b""
            while (c := f.read(1)).isdigit():
                digits += c
            if not digits:
                return
            assert c == b" "
            self.messages.append(f.read(int(digits)).decode())

    def decisions(self):
        return [json.loads(HEADER.fullmatch(m)[6]) for m in list(self.messages) if HEADER.fullmatch(m)[5] == "decision"]

    def close(self):
        super().close()
        self.drop()


@pytest.fixture
def receiver():
    made = []

    def make(**kw):
        made.append(Receiver(**kw))
        return made[-1]
    yield make
    for r in made:
        r.reading.set()
        r.close()


def send_to(g, where, more=""):
    text = g.config.read_text()
    g.config.write_text(text.replace("decisions: decisions.jsonl", "decisions: " + where) + more)
    return g


def ids(g):
    """Of all decisions that the gateway itself still has."""
    return [d["id"] for d in json.loads(g.admin("/decisions?n=1000")[1])][::-1]


def state(g):
    return json.loads(g.admin("/api/state")[1])


def test_rfc5424_over_tcp(gateway, alice, receiver):
    r = receiver()
    g = send_to(gateway(start=False), "syslog+tcp://127.0.0.1:%d" % r.port).start()
    assert g.ask(alice, "/keyprov").status == 200
    assert g.post("/keyprov", b"<no").status == 400
    kms.wait_for(lambda: len(r.messages) >= 2)
    pri, time, host, pid, what, text = HEADER.fullmatch(r.messages[0]).groups()
    line = json.loads(text)
    assert (pri, time, host, int(pid), what) == ("86", line["time"], socket.gethostname(), g.running.p.pid, "decision")
    assert line["user"] == alice.uri and line["verdict"] == "accept"
    pri, *_, text = HEADER.fullmatch(r.messages[1]).groups()
    assert pri == "84" and json.loads(text)["reason"] == "xml.malformed"
    assert [d["id"] for d in r.decisions()] == ids(g)


def test_a_server_that_is_away_at_first_and_goes_away_later(gateway, receiver):
    port = kms.free_port()
    g = send_to(gateway(start=False), "syslog+tcp://localhost:%d" % port).start()
    g.post("/init", b"<no")
    kms.wait_for(lambda: "cannot write: Connection refused" in g.running.err)
    trouble, = state(g)["troubles"]
    assert trouble["what"] == "The decision log cannot be written to syslog+tcp://localhost:%d." % port
    assert trouble["level"] == "warn" and state(g)["decisions"]["stuck"]
    r = receiver(port=port)
    kms.wait_for(lambda: len(r.messages) == 1)
    kms.wait_for(lambda: "lines are written again; 0 were dropped" in g.running.err)
    assert state(g)["troubles"] == [] and not state(g)["decisions"]["stuck"]
    r.close()
    for _ in range(5):
        g.post("/init", b"<no")
    kms.wait_for(lambda: g.running.err.count("cannot write") == 2)
    again = receiver(port=port)
    kms.wait_for(lambda: {d["id"] for d in r.decisions() + again.decisions()} == set(ids(g)))
    assert len(ids(g)) == 6
    assert g.stop() == 0


def test_what_was_not_taken_is_sent_again(gateway, receiver):
    """The server reads nothing while lines pile up, then its connection dies: none of them is missing."""
    r = receiver()
    g = send_to(gateway(start=False), "syslog+tcp://127.0.0.1:%d" % r.port).start()
    r.reading.clear()
    for _ in range(300):
        g.post("/init", b"<no", headers={"X-Request-Id": "x"})
    r.drop()
    r.messages.clear()
    r.reading.set()
    kms.wait_for(lambda: {d["id"] for d in r.decisions()} == set(ids(g)))
    assert len(set(ids(g))) == 300


def test_ends_cleanly_with_a_server_that_takes_nothing(gateway, receiver):
    r = receiver()
    g = send_to(gateway(start=False), "syslog+tcp://127.0.0.1:%d" % r.port).start()
    r.reading.clear()
    for _ in range(50):
        g.post("/init", b"<no")
    assert g.stop() == 0


@pytest.fixture
def authority(tmp_path):
    certs.authority(tmp_path, "ca")
    return tmp_path


def server_context(folder, name, host):
    certs.issue(folder, "ca", name, host=host)
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    c.load_cert_chain(folder / (name + ".pem"), folder / (name + ".key"))
    return c


def test_over_tls(gateway, alice, receiver, authority):
    r = receiver(context=server_context(authority, "syslog", "DNS:localhost"))
    g = send_to(gateway(start=False), "syslog+tls://localhost:%d" % r.port)
    g.start(env={"SSL_CERT_FILE": str(authority / "ca.pem")})
    assert g.ask(alice, "/init").status == 200
    kms.wait_for(lambda: len(r.messages) == 1)
    r.drop()
    g.post("/init", b"<no")
    kms.wait_for(lambda: {d["id"] for d in r.decisions()} == set(ids(g)))


@pytest.mark.parametrize("host,trusted,words", [
    ("DNS:other.example.org", True, "hostname mismatch"), ("DNS:localhost", False, "unable to get local issuer certificate")])
def test_a_tls_server_that_proves_nothing(gateway, receiver, authority, host, trusted, words):
    r = receiver(context=server_context(authority, "syslog", host))
    g = send_to(gateway(start=False), "syslog+tls://localhost:%d" % r.port)
    certs.authority(authority, "other")
    g.start(env={"SSL_CERT_FILE": str(authority / ("ca.pem" if trusted else "other.pem"))})
    assert g.post("/init", b"<no").status == 400
    kms.wait_for(lambda: words in g.running.err)
    assert r.messages == []


def test_rsyslog_over_tcp_tls_and_a_unix_socket(gateway, alice, authority, tmp_path):
    port, secure, out, sock = kms.free_port(), kms.free_port(), tmp_path / "got.log", tmp_path / "log"
    certs.issue(authority, "ca", "rsyslog", host="DNS:localhost")
    conf = tmp_path / "rsyslog.conf"
    conf.write_text("""\
global(workDirectory="%s" maxMessageSize="64k" defaultNetstreamDriverCAFile="%s/ca.pem"
       defaultNetstreamDriverCertFile="%s/rsyslog.pem" defaultNetstreamDriverKeyFile="%s/rsyslog.key")
module(load="imtcp") input(type="imtcp" address="127.0.0.1" port="%d")
input(type="imtcp" address="127.0.0.1" port="%d" name="tls" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon")
module(load="imuxsock" SysSock.Use="off") input(type="imuxsock" Socket="%s" UseSpecialParser="off" ParseHostname="on")
template(name="t" type="string" string="%%inputname%%|%%pri%%|%%app-name%%|%%procid%%|%%msgid%%|%%msg%%\\n")
action(type="omfile" file="%s" template="t")
""" % (tmp_path, authority, authority, authority, port, secure, sock, out))
    daemon = kms.Process(["rsyslogd", "-n", "-iNONE", "-f", conf], tmp_path, "rsyslogd")
    try:
        kms.wait_for(sock.exists)
        seen = []
        for n, where in enumerate(["syslog+tcp://127.0.0.1:%d" % port, "syslog+tls://localhost:%d" % secure,
                                   "syslog:unix:%s" % sock]):
            (tmp_path / str(n)).mkdir()
            g = send_to(gateway(start=False), where).start(env={"SSL_CERT_FILE": str(authority / "ca.pem")})
            assert g.ask(alice, "/keyprov").status == 200
            g.post("/init", b"<no")
            kms.wait_for(lambda: out.exists() and len(out.read_text().splitlines()) >= 2 * (n + 1))
            seen.append([x.split("|", 5) for x in out.read_text().splitlines()[2 * n:]])
            assert [json.loads(x[5])["id"] for x in seen[-1]] == ids(g)
            for x, pri in zip(seen[-1], ("86", "84")):
                assert x[1:5] == [pri, "kmsgate", str(g.running.p.pid), "decision"]
            g.stop()
        assert [{x[0] for x in s} for s in seen] == [{"imtcp"}, {"tls"}, {"imuxsock"}]
    finally:
        daemon.stop()


def test_a_unix_socket_that_is_made_anew(gateway):
    g = send_to(gateway(start=False), "syslog:unix:dev-log").start()
    path = g.folder / "dev-log"
    g.post("/init", b"<no")
    kms.wait_for(lambda: "cannot write: No such file" in g.running.err)

    def bound():
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        s.bind(str(path))
        s.settimeout(20)
        return s
    with bound() as s:
        assert HEADER.fullmatch(s.recv(65536).decode())[5] == "decision"
    path.unlink()
    with bound() as s:
        g.post("/init", b"<no")
        assert json.loads(HEADER.fullmatch(s.recv(65536).decode())[6])["id"] == ids(g)[-1]


@pytest.mark.parametrize("where", ["syslog:", "syslog:/dev/log", "syslog+udp://127.0.0.1:514", "syslog+tcp://127.0.0.1",
                                   "syslog+tcp://:514", "syslog+tcp://h:0", "syslog+tcp://h:70000", "syslog+tls://h:5 1",
                                   "syslog+tcp://::1:514", "syslog:unix:", "syslog:unix:" + "/x" * 60])
def test_what_is_no_server(gateway, where):
    g = send_to(gateway(start=False), '"%s"' % where)
    r = g.run("check", "--config", g.config, check=False)
    line = g.config.read_text().splitlines().index('decisions: "%s"' % where) + 1
    assert r.returncode == 1 and "gateway.yaml:%d:12: " % line in r.stderr and "syslog" in r.stderr


# The Elastic Common Schema


def test_ecs(gateway, alice):
    g = gateway(start=False, config="decisions_format: ecs").start()
    assert g.ask(alice, "/keyprov", DeviceId='d"\u2028é').status == 200
    g.post("/init?x=secret", b"<no")
    a, b = g.decisions(2)
    own = json.loads(g.admin("/decisions")[1])[::-1]
    for e, d in zip((a, b), own):
        assert e["@timestamp"] == d["time"] and e["ecs"] == {"version": "8.11.0"}
        assert e["event"]["id"] == e["http"]["request"]["id"] == d["id"] and e["event"]["reason"] == d["reason"]
        assert e["source"] == {"address": "127.0.0.1", "ip": "127.0.0.1"} and e["url"] == {"path": d["path"]}
        assert e["http"]["response"]["status_code"] == d["status"] and e["trace"] == {"id": d["trace_id"]}
        placed = {"time", "id", "source", "method", "path", "rule", "user", "verdict", "reason", "status", "trace_id", "rules"}
        assert e["kmsgate"] == {k: v for k, v in d.items() if k not in placed}
        assert e["event"]["duration"] == round(d["ms"]["total"] * 1e6)
    assert a["event"]["category"] == b["event"]["category"] == ["network", "web"]  # which have all types below
    assert a["event"]["outcome"] == "success" and a["event"]["type"] == ["access", "allowed"]
    assert a["user"] == {"id": alice.uri} and a["rule"] == {"id": "everyone", "version": own[0]["rules"]}
    assert b["event"]["outcome"] == "failure" and b["event"]["type"] == ["access", "denied"] and "user" not in b


def test_ecs_of_a_client_without_an_address(gateway, alice):
    """What is no address is not written where one is due."""
    g = gateway(start=False, config="decisions_format: ecs", listen="  - address: unix:gate.sock").start()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(g.folder / "gate.sock"))
        s.sendall(b"POST /nowhere HTTP/1.1\r\nHost: k\r\nContent-Length: 0\r\n\r\n")
        assert s.recv(65536).startswith(b"HTTP/1.1 404 ")
    [e] = g.decisions(1)
    assert e["source"] == {"address": "unix"} and e["url"] == {"path": "/nowhere"} and e["event"]["reason"] == "http.resource"


def test_a_format_that_is_none(gateway):
    g = send_to(gateway(start=False), "none", "decisions_format: cef\n")
    r = g.run("check", "--config", g.config, check=False)
    assert r.returncode == 1 and "found `cef`, expected one of json, ecs" in r.stderr
