"""What people see at a terminal: fitted to the window, coloured where they want it, and nothing that strangers wrote is
obeyed. What goes elsewhere is the same whatever the window."""
import json
import os
import select
import subprocess

import pytest

import kms
from conftest import BUILD
from terminal import SGR, Terminal, plain, width
from test_conform import conform
from test_replay import STRICT, decision, refused

EVIL = "sip:\x1b[2J\x1b]0;evil\x07\u202e\u0085日本語" + "語" * 40 + "e\u0301@example.org"
LATE = {"time": "2026-11-23T17:59:30Z"}
LINES = [decision(id="a" * 32), refused("time.stale", "time", claims=LATE, captured=True, id="b" * 32, source="2001:db8::1:2:3"),
         refused("client_req_url.mismatch", "client_req_url", user=EVIL, client_id=EVIL, id="c" * 32),
         decision(rule=EVIL[:60], shadow=["time.stale"], id="d" * 32), decision(user=None, form="empty", rule=None, id="e" * 32)]
WIDTHS = (40, 80, 132, 250)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    f = tmp_path_factory.mktemp("terminal")
    (f / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in LINES))
    (f / "strict.yaml").write_text(STRICT)
    (f / "wide.yaml").write_text(STRICT.replace("{ id: everyone }", "{ id: a-rule-with-a-long-name, why: a test, "
                                                "checks: { time: { past: 60s } } }"))
    return f


# command line, exit code, and a line that must be coloured
COMMANDS = {
    "decisions": (["decisions", "log.jsonl"], 0, "reject"),
    "replay": (["replay", "--rules", "wide.yaml", "log.jsonl"], 0, "reject time.stale ->"),
    "advise": (["advise", "--rules", "strict.yaml", "log.jsonl"], 1, "Somebody is locked out"),
    "which": (["which", "--rules", "wide.yaml", "--user", "sip:alice@example.org", "--path", kms.BASE + "/init"], 0, "accepted"),
}


def show(folder, name, columns=80, term="xterm", **env):
    argv, code, _ = COMMANDS[name]
    return Terminal(columns, term).run([BUILD / "kmsgate", *argv], code, folder, **env)


def piped(folder, name, **env):
    argv, code, _ = COMMANDS[name]
    r = subprocess.run([BUILD / "kmsgate", *argv], capture_output=True, text=True, timeout=120, cwd=folder,
                       env=dict(os.environ, TERM="xterm", **env))
    assert r.returncode == code, r.stderr
    return r.stdout


def fits(text, columns):
    """No line is longer than the window, but for one word that nobody can break, and what is to be pasted."""
    for line in plain(text).splitlines():
        word = line.strip().removeprefix("# ")
        assert width(line) <= columns or " " not in word or not line.lstrip().startswith("#") and ": " in line, line


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", WIDTHS)
def test_it_fits_the_window(folder, name, columns):
    said = show(folder, name, columns)
    fits(said, columns)
    if name == "advise":  # what is to be pasted stays YAML
        import yaml
        assert yaml.safe_load(plain(said)) == yaml.safe_load(piped(folder, name))


@pytest.mark.parametrize("name", ["decisions", "replay"])
@pytest.mark.parametrize("columns", WIDTHS)
def test_a_narrow_window_hides_no_column(folder, name, columns):
    mark = ";" if name == "replay" else "\0"  # what follows differs
    said = plain(show(folder, name, columns)).replace(mark, " ").split()
    whole = piped(folder, name).replace(mark, " ").split()
    for word in whole:
        if not word.startswith(("sip:", "c" * 32)) and len(word) < columns:
            assert word in said or name == "replay" and "\\" in word, word
    assert plain(show(folder, name, columns)).count("…") <= 3  # in the long names alone


@pytest.mark.parametrize("name", COMMANDS)
def test_colours(folder, name):
    word = COMMANDS[name][2]
    line = next(x for x in show(folder, name, 200).splitlines() if word in x)
    assert SGR.search(line) and line.count("\x1b[0m") == len(SGR.findall(line)) / 2, line
    for said in (show(folder, name, NO_COLOR="1"), show(folder, name, term="dumb"), show(folder, name, term=None)):
        assert "\x1b" not in said
        fits(said, 80)
    assert SGR.search(show(folder, name, NO_COLOR="")), "an empty NO_COLOR is none"


@pytest.mark.parametrize("name", COMMANDS)
def test_elsewhere_nothing_is_fitted_nor_coloured(folder, name):
    said = piped(folder, name)
    assert said == piped(folder, name, COLUMNS="30") and "\x1b" not in said and "…" not in said
    assert max(map(width, said.splitlines())) > 60


def test_which_width_holds(folder):
    widest = lambda said: max(map(width, plain(said).splitlines()))  # noqa: E731
    assert 80 < widest(show(folder, "decisions", 80, COLUMNS="120")) <= 120, "COLUMNS is asked first"
    assert 60 < widest(show(folder, "decisions", 0)) <= 80, "a terminal that does not know its width"
    for odd in ("0", "-5", "x", "99999999999999999999", ""):
        assert 60 < widest(show(folder, "decisions", 80, COLUMNS=odd)) <= 80, odd
    assert widest(show(folder, "decisions", 3)) <= 40, "no window is too small"


def test_json_at_a_terminal_is_json(folder):
    for name, argv in (("decisions", []), ("replay", []), ("which", [])):
        args, code, _ = COMMANDS[name]
        said = Terminal(40).run([BUILD / "kmsgate", args[0], "--format", "json", *args[1:]], code, folder)
        assert "\x1b" not in said
        for line in said.splitlines() if name == "decisions" else [said]:
            json.loads(line)


def test_a_following_table_goes_with_the_window(gateway, alice):
    g = gateway()
    p, fd = Terminal(250).start([BUILD / "kmsgate", "decisions", "--config", g.config, "--follow"])
    out = b""

    def more():
        """Whole lines that have come; after a while b"", too."""
        nonlocal out
        while select.select([fd], [], [], 0.2)[0]:
            out += os.read(fd, 65536)
        got, out = out[:out.rfind(b"\n") + 1], out[out.rfind(b"\n") + 1:]
        return plain(got.decode())
    try:
        assert "CAPTURED" in kms.wait_for(more)
        rows = kms.wait_for(lambda: (g.ask(alice, "/init"), more())[1])  # it follows from some time on
        assert all(alice.uri in row for row in rows.splitlines())
        Terminal.resize(fd, 60)
        assert g.ask(alice, "/init").status == 200
        got = []
        kms.wait_for(lambda: got.extend(more().splitlines()) or got and width(got[-1]) <= 60)  # the last one's own, at last
        assert any(row.startswith("    " + alice.uri) for row in got), got
    finally:
        p.terminate()
        p.wait(60)
        p.stderr.close()
        os.close(fd)


def test_keys(gateway, alice):
    g = gateway(users=[alice, kms.User("sip:" + "x" * 100 + "@example.org")])
    argv = [BUILD / "kmsgate", "keys", "list", "--config", g.config]
    for columns in WIDTHS:
        said = Terminal(columns).run(argv)
        fits(said, columns)
        assert all(h in plain(said) for h in ("USER", "TYPE", "KEY", "STATE", "ENDS", "AGE", "ORIGIN"))
        assert "\x1b[32mactive\x1b[0m" in said and "ink.1.alice" in said
    assert Terminal(80).run(argv + ["--state", "revoked"]) == "", "no heads above nothing"
    assert g.run(*argv[1:]).stdout.splitlines()[0].split("\t")[0].startswith("sip:")


def test_conform(gateway, alice):
    g = gateway()
    keys = g.folder / "probe.jsonl"
    whole = conform(g, alice, g.upstream, code=1).stdout
    argv = [BUILD / "kmsgate", "conform", "--url", g.upstream, "--user", alice.uri, "--keys", keys, "--kms-uri", "kms.example.org"]
    said = Terminal(60).run(argv, 1)
    fits(said, 60)
    assert "\x1b[31mdoes not\x1b[0m" in said and "\x1b" not in whole
    for row in said.splitlines():
        assert width(plain(row)) <= 60 or " " not in plain(row).strip(), row
