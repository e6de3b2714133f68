"""Decision logs as replay, advise and decisions read them: several, compressed, from the journal, from a pipe."""
import gzip
import json
import select
import subprocess

import pytest

import kms
from conftest import BUILD
from test_replay import STRICT, decision, refused

LINES = [decision(id="a"), refused("time.stale", "time", id="b", user="sip:bob@example.org"),
         refused("signature.missing", None, id="c", form="unsigned", rule="radios", user="sip:\u202eeve@example.org")]


def kmsgate(tmp_path, *argv, stdin=None, code=0):
    r = subprocess.run([BUILD / "kmsgate", *argv], capture_output=True, timeout=60, cwd=tmp_path, input=stdin)
    assert r.returncode == code, r.stdout + r.stderr
    assert b"runtime error" not in r.stderr and b"ERROR: " not in r.stderr
    return r.stdout.decode(), r.stderr.decode()


def dumped(lines):
    return "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines).encode()


def ids(tmp_path, *argv, **kw):
    out, _ = kmsgate(tmp_path, "decisions", "--format", "json", *argv, **kw)
    return [json.loads(x)["id"] for x in out.splitlines()]


PREFIX = "Nov 23 18:00:00 kms-gw kmsgate[77]: "
DRESSES = {
    "plain": lambda lines: dumped(lines),
    "gzip": lambda lines: gzip.compress(dumped(lines)),
    "two gzip members": lambda lines: gzip.compress(dumped(lines[:1])) + gzip.compress(dumped(lines[1:])),
    "gzip on a tape": lambda lines: gzip.compress(dumped(lines)) + bytes(512),
    "journal": lambda lines: dumped([PREFIX + json.dumps(x) for x in lines]),
    "rsyslog": lambda lines: dumped(["2026-11-23T18:00:00.000Z kms-gw kmsgate[77] " + json.dumps(x) for x in lines]),
    "journal json": lambda lines: dumped([{"__CURSOR": "s=1", "MESSAGE": json.dumps(x), "PRIORITY": "6"} for x in lines]),
    "journal json gzip": lambda lines: gzip.compress(dumped([{"MESSAGE": json.dumps(x)} for x in lines])),
}


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("from_stdin", [False, True])
def test_each_dress_reads_the_same(tmp_path, dress, from_stdin):
    data = DRESSES[dress](LINES)
    (tmp_path / "log").write_bytes(data)
    (tmp_path / "r.yaml").write_text(STRICT)
    name, stdin = ("-", data) if from_stdin else ("log", None)
    assert ids(tmp_path, name, stdin=stdin) == ["a", "b", "c"]
    out, err = kmsgate(tmp_path, "replay", "--rules", "r.yaml", name, stdin=stdin)
    assert err == "" and out == kmsgate(tmp_path, "replay", "--rules", "r.yaml", "-", stdin=dumped(LINES))[0]


@pytest.mark.parametrize("dress", ["plain", "gzip", "journal"])
def test_a_pipe_is_read_as_it_comes(tmp_path, dress):
    """Each line is shown before the next is there, as behind `docker logs -f`, into a pipe, too."""
    p = subprocess.Popen([BUILD / "kmsgate", "decisions", "--format", "json", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         cwd=tmp_path)
    for line in LINES:
        p.stdin.write(DRESSES[dress]([line]))
        p.stdin.flush()
        assert select.select([p.stdout], [], [], 60)[0], "nothing is shown until more comes"
        assert json.loads(p.stdout.readline())["id"] == line["id"]
    p.stdin.close()
    assert p.stdout.read() == b"" and p.wait(60) == 0


def test_a_pipe_that_brings_an_octet_at_a_time(tmp_path):
    for dress in ("gzip", "two gzip members", "plain"):
        p = subprocess.Popen([BUILD / "kmsgate", "decisions", "--format", "json", "-"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, cwd=tmp_path)
        for c in DRESSES[dress](LINES):
            p.stdin.write(bytes([c]))
            p.stdin.flush()
        p.stdin.close()
        assert [json.loads(x)["id"] for x in p.stdout] == ["a", "b", "c"] and p.wait(60) == 0


def test_several_files_follow_each_other(tmp_path):
    (tmp_path / "1.gz").write_bytes(gzip.compress(dumped(LINES[:1])))
    (tmp_path / "2").write_bytes(dumped(LINES[1:2])[:-1])  # no line end at the end
    assert ids(tmp_path, "1.gz", "2", "-", stdin=dumped(LINES[2:])) == ["a", "b", "c"]


@pytest.mark.parametrize("line,says", [
    ("-- Boot 7f --", "no JSON"), (PREFIX + "kmsgate: listening on 127.0.0.1:8443", "no JSON"),
    (json.dumps({"MESSAGE": None}), "the journal left out a long MESSAGE"),
    (json.dumps({"MESSAGE": [1, 2]}), "found a MESSAGE that is not a text"),
    (json.dumps({"MESSAGE": "listening"}), "no JSON"), (json.dumps({"MESSAGE": "{}"}), "`verdict`"),
    ("see: {}", "`verdict`"), ("x" * (1 << 20) + "y", "more than 1 MiB"),
], ids=range(8))
def test_a_line_that_is_no_decision_is_named(tmp_path, line, says):
    (tmp_path / "1").write_bytes(dumped(LINES[:1]))
    (tmp_path / "2").write_bytes(dumped([LINES[1], line, LINES[2]]))
    out, err = kmsgate(tmp_path, "decisions", "1", "2")
    assert len(out.splitlines()) == 4
    named, counted = err.splitlines()
    assert named.startswith("2:2: ") and says in named
    assert counted == "kmsgate: decisions: 1 line is not a decision and left out"


def test_many_other_lines_are_counted(tmp_path):
    _, err = kmsgate(tmp_path, "decisions", "-", stdin=dumped(["x"] * 30 + LINES))
    assert err.count("standard input:") == 21 and "standard input: and 10 more lines that are not decisions\n" in err
    assert "decisions: 30 lines are not a decision" in err


def test_what_cannot_be_read(tmp_path):
    whole = gzip.compress(dumped(LINES * 50))
    (tmp_path / "cut.gz").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "bad.gz").write_bytes(whole[:40] + bytes([whole[40] ^ 255]) * 20 + whole[60:])
    (tmp_path / "r.yaml").write_text(STRICT)
    for command in (["decisions"], ["replay", "--rules", "r.yaml"]):
        assert "cut.gz: cannot be read: the compressed data ends too early" in kmsgate(tmp_path, *command, "cut.gz", code=1)[1]
        assert "bad.gz: cannot be read: " in kmsgate(tmp_path, *command, "bad.gz", code=1)[1]
        assert "none: cannot be read: No such file" in kmsgate(tmp_path, *command, "none", code=1)[1]
        assert ".: cannot be read: " in kmsgate(tmp_path, *command, ".", code=1)[1]
        assert "holds no decision" in kmsgate(tmp_path, *command, "-", stdin=b"", code=1)[1]


@pytest.mark.parametrize("argv,due", [
    ([], "abc"), (["--user", "sip:b*"], "b"), (["--reason", "time.*"], "b"), (["--verdict", "reject"], "bc"),
    (["--rule", "every*"], "ab"), (["--rule", "everyone", "--verdict", "accept"], "a"), (["--reason", "nothing"], ""),
])
def test_filters(tmp_path, argv, due):
    assert "".join(ids(tmp_path, *argv, "-", stdin=dumped(LINES))) == due
    table = kmsgate(tmp_path, "decisions", *argv, "-", stdin=dumped(LINES))[0].splitlines()
    assert table[0].split() == ["TIME", "VERDICT", "REASON", "RULE", "FORM", "SOURCE", "USER", "CAPTURED", "ID"]
    assert [row.split()[-1] for row in table[1:]] == list(due)


def test_what_strangers_wrote_is_escaped(tmp_path):
    out, _ = kmsgate(tmp_path, "decisions", "--rule", "radios", "-", stdin=dumped(LINES))
    assert "sip:\\u202eeve@example.org" in out and "\u202e" not in out
    out, _ = kmsgate(tmp_path, "decisions", "--rule", "radios", "--format", "json", "-", stdin=dumped(LINES))
    assert json.loads(out) == LINES[2]


def test_wrong_usage(tmp_path):
    for argv in ([], ["--follow"], ["--url", "http://127.0.0.1:1", "log"], ["--config", "x", "--url", "y"]):
        assert "expected one of --config, --url and files" in kmsgate(tmp_path, "decisions", *argv, code=2)[1]
    assert "--follow is for a running gateway" in kmsgate(tmp_path, "decisions", "--follow", "log", code=2)[1]
    assert "belongs to --url" in kmsgate(tmp_path, "decisions", "--token-file", "t", "log", code=2)[1]
    assert "http://127.0.0.1:1: " in kmsgate(tmp_path, "decisions", "--url", "http://127.0.0.1:1", code=1)[1]


def test_of_a_running_gateway(gateway, alice, bob, tmp_path):
    g = gateway([alice, bob])
    url = "http://127.0.0.1:%d" % g.admin_port
    for user in (alice, bob, alice):
        g.ask(user, "/init")
    due = [d["id"] for d in g.decisions(3)]
    kms.wait_for(lambda: len(json.loads(g.admin("/decisions")[1])) == 3)
    assert ids(tmp_path, "--url", url) == due
    assert ids(tmp_path, "--config", g.config) == due
    assert ids(tmp_path, "--url", url, "--user", "*bob*") == [due[1]]
    table = kmsgate(tmp_path, "decisions", "--url", url)[0].splitlines()
    assert [row.split()[-1] for row in table] == ["ID"] + due
    assert "found HTTP status 404" in kmsgate(tmp_path, "decisions", "--url", url + "/x", code=1)[1]
    p = subprocess.Popen([BUILD / "kmsgate", "decisions", "--url", url, "--follow", "--user", "*alice*", "--format", "json"],
                         stdout=subprocess.PIPE, text=True)
    try:
        kms.wait_for(lambda: (g.ask(bob, "/init"), g.ask(alice, "/init"), select.select([p.stdout], [], [], 0.2)[0])[2])
        assert "alice" in json.loads(p.stdout.readline())["user"]
    finally:
        p.kill()
        p.wait()
