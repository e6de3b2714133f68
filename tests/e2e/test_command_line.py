"""What a person at a terminal sees: every command's help, wrong usage, and an output that cannot be written."""
import json
import os
import re
import subprocess

import pytest
import yaml

import certs
import kms
from conftest import BUILD

COMMANDS = ["serve", "check", "health", "keys", "request", "open", "demo", "explain", "test", "replay", "which",
            "advise", "decisions", "conform", "help", "completion", "version"]
KEYS = ["import", "export", "list", "show", "add", "retire", "revoke", "renew", "prune", "rekey"]


def kmsgate(*argv, **kw):
    kw.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([BUILD / "kmsgate", *map(str, argv)], stderr=subprocess.PIPE, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, **kw)


def test_help_names_all_commands():
    run = kmsgate("--help")
    assert run.returncode == 0 and run.stderr == ""
    assert re.findall(r"^  (\w+)", run.stdout, re.M) == COMMANDS
    assert run.stdout.startswith("usage: kmsgate COMMAND [OPTION]...\n")
    assert kmsgate("-h").stdout == kmsgate("help").stdout == run.stdout
    nothing = kmsgate()
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (2, "", run.stdout)


def test_version():
    run = kmsgate("--version")
    assert run.returncode == 0 and re.fullmatch(r"kmsgate \d+\.\d+\.\d+\n", run.stdout)
    assert kmsgate("version").stdout == run.stdout


@pytest.mark.parametrize("command", COMMANDS + ["keys " + x for x in KEYS])
def test_each_has_its_help(command):
    run = kmsgate(*command.split(), "--help")
    assert run.returncode == 0 and run.stderr == ""
    assert run.stdout.startswith("usage: kmsgate " + command)
    assert kmsgate(*command.split(), "-h").stdout == kmsgate("help", *command.split()).stdout == run.stdout
    assert "  --" not in run.stdout or "-h, --help " in run.stdout
    long = [x for x in run.stdout.splitlines() if len(x) > 80 and not x.startswith("  kmsgate ")]
    assert not long, "on a terminal of 80 columns"


@pytest.mark.parametrize("argv,says", [
    (["frobnicate"], "unknown command `frobnicate`; see `kmsgate help`"),
    (["exlain"], "unknown command `exlain`; did you mean `explain`? See `kmsgate help`"),
    (["expl"], "unknown command `expl`; did you mean `explain`? See `kmsgate help`"),
    (["help", "expl"], "unknown command `expl`; did you mean `explain`? See `kmsgate help`"),
    (["help", "keys", "burn"], "unknown command `keys burn`; see `kmsgate help keys`"),
    (["help", "serve", "now"], "help: unexpected argument `now`; see `kmsgate help --help`"),
    (["serve", "gateway.yaml"], "serve: unexpected argument `gateway.yaml`; see `kmsgate serve --help`"),
    (["serve", "--confg=x"], "serve: unknown option `--confg`; did you mean `--config`? See `kmsgate serve --help`"),
    (["serve", "--conf", "x"], "serve: unknown option `--conf`; did you mean `--config`? See `kmsgate serve --help`"),
    (["check", "--all"], "check: unknown option `--all`; see `kmsgate check --help`"),
    (["check", "-c", "g.yaml", "r.yaml"],
     "check: found both --config and `r.yaml`, expected one of them; see `kmsgate check --help`"),
    (["health", "gateway.yaml"], "health: unexpected argument `gateway.yaml`; see `kmsgate health --help`"),
    (["keys", "burn"], "unknown command `keys burn`; see `kmsgate help keys`"),
    (["keys", "lst"], "unknown command `keys lst`; did you mean `keys list`? See `kmsgate help keys`"),
    (["keys", "list", "--config"], "keys list: option `--config` requires an argument: FILE; see `kmsgate keys list --help`"),
    (["keys", "add", "--user", "u:", "--type", "psk", "--id", "i"],
     "keys add: --type: found `psk`, expected ink or trk; see `kmsgate keys add --help`"),
    (["request"], "request: missing option `--url RESOURCE-URL`; see `kmsgate request --help`"),
    (["open"], "open: missing option `--user URI`; see `kmsgate open --help`"),
    (["open", "--user"], "open: option `--user` requires an argument: URI; see `kmsgate open --help`"),
    (["demo", "--forever"], "demo: unknown option `--forever`; see `kmsgate demo --help`"),
    (["explain"], "explain: expected either a file or --capture; see `kmsgate explain --help`"),
    (["explain", "--at", "noon", "r.xml"], "explain: --at: found `noon`, expected a time with a zone, such as "
     "2026-11-23T18:00:00Z; see `kmsgate explain --help`"),
    (["test", "rules.yaml"], "test: missing argument: CASES.yaml; see `kmsgate test --help`"),
    (["replay"], "replay: missing option `--rules NEW.yaml`; see `kmsgate replay --help`"),
    (["keys", "list", "--expiring", "soon"], "keys list: --expiring must be a duration such as 30d"),
    (["which", "--rules", "r.yaml", "--source", "home"], "which: --source: found `home`, expected an IP address; see `kmsgate which --help`"),
    (["completion"], "completion: missing argument: bash|zsh; see `kmsgate completion --help`"),
    (["completion", "fish"], "completion: found `fish`, expected bash or zsh; see `kmsgate completion --help`"),
])
def test_wrong_usage(argv, says):
    run = kmsgate(*argv)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", "kmsgate: " + says + "\n")


@pytest.mark.parametrize("command", ["serve", "check", "health", "keys list", "explain request.xml"])
def test_where_the_configuration_is(command, tmp_path):
    """--config (-c), else $KMSGATE_CONFIG, else the place of a package."""
    says = "kmsgate: %s: cannot be read: No such file or directory\n"
    none = {k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}
    named = dict(none, KMSGATE_CONFIG=str(tmp_path / "named.yaml"))
    asked = tmp_path / "asked.yaml"
    if not os.path.exists("/etc/kmsgate/gateway.yaml"):
        assert kmsgate(*command.split(), env=none).stderr == says % "/etc/kmsgate/gateway.yaml"
        assert kmsgate(*command.split(), env=dict(none, KMSGATE_CONFIG="")).stderr == says % "/etc/kmsgate/gateway.yaml"
    assert kmsgate(*command.split(), env=named).stderr == says % named["KMSGATE_CONFIG"]
    for way in (["--config", asked], ["--config=%s" % asked], ["-c", asked]):
        run = kmsgate(*command.split(), *way, env=named)
        assert (run.returncode, run.stderr) == (1, says % asked)


@pytest.mark.parametrize("command", [""] + COMMANDS + ["keys " + x for x in KEYS])
def test_manual_pages(command):
    """Without a word from groff; what --help says of an option stands there, too."""
    page = kmsgate("help", "--man", *command.split())
    name = "".join("-" + x for x in command.upper().split())
    assert page.returncode == 0 and page.stdout.startswith('.TH "KMSGATE%s" 8 ' % name)
    run = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-P", "-cbou"], input=page.stdout, text=True,
                         capture_output=True, timeout=60)
    assert run.returncode == 0 and not run.stderr, run.stderr
    text = run.stdout.replace("\u2010", "-")
    for option in re.findall(r"(--\w[\w-]*)", kmsgate("help", *command.split()).stdout if command else ""):
        assert option in text, option


def bash(*words):
    script = """
source <("$0" completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_kmsgate && printf '%s\n' "${COMPREPLY[@]}"
"""
    run = subprocess.run(["bash", "-euc", script, BUILD / "kmsgate", *words], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and not run.stderr, run.stderr
    return run.stdout.split()


def test_completion_of_bash(tmp_path):
    assert bash("kmsgate", "") == COMMANDS + ["--help", "--version"]
    assert bash("kmsgate", "ex") == ["explain"]
    assert bash("kmsgate", "keys", "") == KEYS + ["--help"]
    assert bash("kmsgate", "keys", "re") == [x for x in KEYS if x.startswith("re")]
    assert "--replace" in bash("kmsgate", "keys", "import", "--")
    assert "--generate" not in bash("kmsgate", "keys", "import", "--")
    assert bash("kmsgate", "explain", "--format", "") == bash("kmsgate", "explain", "--format", "=", "")
    assert bash("kmsgate", "explain", "--format", "") == ["text", "json"]
    assert bash("kmsgate", "explain", "--format", "=", "j") == ["json"]
    assert bash("kmsgate", "help", "expl") == ["explain"]
    assert bash("kmsgate", "help", "keys", "") == KEYS + ["--man", "--help"]
    assert bash("kmsgate", "decisions", "--verdict", "") == ["accept", "reject"]
    assert bash("kmsgate", "decisions", "--reason", "time.") == ["time.stale", "time.future", "time.zone"]
    assert bash("kmsgate", "completion", "") == ["bash", "zsh", "--help"]
    file = tmp_path / "gateway.yaml"
    file.write_text("")
    assert bash("kmsgate", "serve", "--config", str(tmp_path / "gat")) == [str(file)]
    assert bash("kmsgate", "serve", "-c", str(tmp_path / "gat")) == [str(file)]
    assert bash("kmsgate", "test", str(tmp_path / "gat")) == [str(file)]


# A zsh with a terminal of its own, told to print its line after the tab key.
ZSH = r"""
zmodload zsh/zpty
zpty -b z zsh -f -i
read_until() {
    local line
    all=
    repeat 300; do
        while zpty -rt z line 2>/dev/null; do all+=$line; done
        [[ $all == *$1* ]] && return
        sleep 0.1
    done
}
zpty -w z "PROMPT=; autoload -U compinit; compinit -u -d $PWD/dump; setopt no_beep"
zpty -w z "source <($1 completion zsh)"
zpty -w z "bindkey '^I' complete-word; SHOW() { print -r -- \"[[\$BUFFER]]\" }; zle -N SHOW; bindkey '^X' SHOW"
zpty -w z "echo re''ady"
read_until ready
zpty -w -n z "$2"$'\t\x18'
read_until ']]'
print -r -- "$all"
zpty -d z
"""


@pytest.mark.parametrize("typed,becomes", [
    ("kmsgate expl", "kmsgate explain "), ("kmsgate keys sh", "kmsgate keys show "),
    ("kmsgate serve --con", "kmsgate serve --config="), ("kmsgate explain --format=j", "kmsgate explain --format=json"),
    ("kmsgate keys import --rep", "kmsgate keys import --replace "), ("kmsgate completion z", "kmsgate completion zsh "),
    ("kmsgate help expl", "kmsgate help explain "), ("kmsgate help keys rek", "kmsgate help keys rekey "),
    ("kmsgate decisions --verdict=re", "kmsgate decisions --verdict=reject"),
    ("kmsgate decisions --reason=rule.n", "kmsgate decisions --reason=rule.none"),
    ("kmsgate check -c gat", "kmsgate check -c gateway.yaml "),
])
def test_completion_of_zsh(typed, becomes, tmp_path):
    (tmp_path / "gateway.yaml").write_text("")
    run = subprocess.run(["zsh", "-f", "-c", ZSH, "zsh", BUILD / "kmsgate", typed], capture_output=True, text=True,
                         timeout=120, cwd=tmp_path, stdin=subprocess.DEVNULL,
                         env=dict(os.environ, TERM="dumb", HOME=str(tmp_path)))
    assert "[[%s" % becomes in run.stdout, (run.stdout, run.stderr)


def test_a_subcommand_is_due():
    run = kmsgate("keys")
    assert run.returncode == 2 and run.stdout == "" and run.stderr == kmsgate("keys", "--help").stdout
    assert re.findall(r"^  (\w+)", run.stderr, re.M) == KEYS


def test_health_of_nobody(gateway, alice):
    g = gateway([alice], start=False)
    run = kmsgate("health", "--config", g.config)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "kmsgate: health: no response from 127.0.0.1:%d\n" % g.admin_port
    assert kmsgate("health", "--config", g.folder / "none.yaml").stderr == \
        "kmsgate: %s/none.yaml: cannot be read: No such file or directory\n" % g.folder
    g.start()
    run = kmsgate("health", "--config", g.config)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_an_output_that_is_full(gateway, alice):
    """What was not written was not done: exit 1, and it says so."""
    g = gateway([alice], start=False)
    request = g.folder / "request.xml"
    request.write_bytes(kms.signed_request(alice, g.url("/keyprov")))
    keys = ["--config", g.config]
    for argv, says in [
            (["keys", "list", *keys], "keys: cannot write to standard output"),
            (["keys", "show", *keys, "--user", alice.uri], "keys: cannot write to standard output"),
            (["keys", "export", *keys, "--with-secrets"], "keys export: cannot write: No space left on device"),
            (["explain", *keys, "--path", "/keymanagement/identity/v1/keyprov", request],
             "explain: cannot write to standard output")]:
        run = kmsgate(*argv, stdout=open("/dev/full", "w"))
        assert (run.returncode, run.stderr) == (1, "kmsgate: " + says + "\n"), argv


def test_print_is_yaml(tmp_path):
    why = 'a\n\t"q" \\ b'
    (tmp_path / "r.yaml").write_text("version: 1\nkms: { uris: [k] }\nresponses: [{ id: default }]\nrequests:\n"
                                     '  - { id: everyone, why: "a\\n\\t\\"q\\" \\\\ b" }\n')
    run = kmsgate("check", "--print", tmp_path / "r.yaml")
    shown = re.search(r"^requests\[everyone\]\.why: (.*?) +# ", run.stdout, re.M).group(1)
    assert run.returncode == 0 and yaml.safe_load(shown) == why


def test_faults_of_what_the_configuration_names(gateway, alice):
    """A key under a passphrase that nobody is there to type, an empty CA, a secret that is none, an URL said twice."""
    g = gateway([alice], start=False)
    certs.authority(g.folder, "ca")
    certs.issue(g.folder, "ca", "server")
    subprocess.run(["openssl", "pkey", "-in", "server.key", "-aes256", "-passout", "pass:x", "-out", "locked.key"],
                   cwd=g.folder, check=True, capture_output=True)
    (g.folder / "empty.pem").write_text("")
    good = g.config.read_text()
    plain = "upstream: { url: \"%s\", timeout: 5s }" % g.upstream
    assert plain in good
    for old, new, says in [
            ("admin:", "    tls: { certificate: server.pem, key: locked.key }\nadmin:",
             "locked.key: holds no private key"),
            (plain, "upstream: { url: \"https://127.0.0.1:1\", tls: { ca: empty.pem } }",
             "empty.pem: is empty; expected PEM text"),
            ("file:master.key", "env:FAR_TOO_LONG", "FAR_TOO_LONG: holds more than 4096 bytes: no secret"),
            ("public_url: ", "public_url: [http://a.example, http://a.example] # ",
             "found `http://a.example`, expected each URL once")]:
        g.config.write_text(good.replace(old, new))
        run = kmsgate("check", "--config", g.config, env=dict(os.environ, FAR_TOO_LONG="a" * 5000))
        assert run.returncode == 1 and says in run.stderr, (says, run.stderr)
    g.config.write_text(good)
    assert kmsgate("check", "--config", g.config).returncode == 0


def refused_by_both(g):
    """What `check` says of a configuration that `serve` refuses, for the same reason."""
    checked = kmsgate("check", "--config", g.config)
    served = kmsgate(*kms.SERVE, "--config", g.config)
    assert checked.returncode == served.returncode == 1, (checked, served)
    why = [x.split(": ", 1)[1] for x in checked.stderr.splitlines() if x.startswith("kmsgate: ")]
    assert why and all(x in served.stderr for x in why), (why, served.stderr)
    return checked.stderr


def test_check_finds_what_serve_would_refuse(gateway, alice):
    """One reader for certificates, keys and folders; each beside its twin that both take."""
    g = gateway([alice], start=False)
    good = g.config.read_text()
    certs.authority(g.folder, "ca")
    certs.issue(g.folder, "ca", "server")
    certs.run("req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=weak", "-keyout", "weak.key", "-out", "weak.pem",
              cwd=g.folder)
    certs.run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=fair", "-keyout", "fair.key", "-out", "fair.pem",
              cwd=g.folder)
    (g.folder / "torn.pem").write_text((g.folder / "server.pem").read_text() + (g.folder / "ca.pem").read_text()[:200])
    (g.folder / "whole.pem").write_text((g.folder / "server.pem").read_text() + (g.folder / "ca.pem").read_text())

    def listener(certificate, key):
        g.config.write_text(good.replace("admin:", "    tls: { certificate: %s, key: %s }\nadmin:" % (certificate, key)))

    for certificate, key, twin, says in [("weak.pem", "weak.key", ("fair.pem", "fair.key"), "weak.pem: "),
                                         ("torn.pem", "server.key", ("whole.pem", "server.key"), "torn.pem: "),
                                         ("server.pem", "ca.key", ("server.pem", "server.key"), "ca.key: ")]:
        listener(certificate, key)
        assert says in refused_by_both(g)
        listener(*twin)
        run = kmsgate("check", "--config", g.config)
        assert run.returncode == 0, run.stderr
    for old, new, says in [("decisions.jsonl", "none/decisions.jsonl", "none/decisions.jsonl"),
                           ("sqlite:kmsgate.db", "sqlite:none/kmsgate.db", "none/kmsgate.db")]:
        g.config.write_text(good.replace(old, new))
        run = kmsgate("check", "--config", g.config)
        assert run.returncode == 1 and says in run.stderr, run.stderr
        assert kmsgate(*kms.SERVE, "--config", g.config).returncode == 1
        (g.folder / "none").mkdir()
        assert kmsgate("check", "--config", g.config).returncode == 0
        assert not list((g.folder / "none").iterdir()), "check makes nothing"
        (g.folder / "none").rmdir()


def test_what_serve_says_is_json_if_the_log_is(gateway, alice):
    """Faults and lints of the start, too."""
    g = gateway([alice], start=False, config="log: { format: json }")
    rules = g.folder / "rules.yaml"
    good = rules.read_text()
    rules.write_text(good.replace("id: everyone", "id: everyone, unknown: x", 1))
    run = kmsgate(*kms.SERVE, "--config", g.config)
    lines = [json.loads(x) for x in run.stderr.splitlines()]
    assert run.returncode == 1 and any(x["level"] == "error" and "rules.yaml:" in x["message"] for x in lines), lines
    rules.write_text(good)
    g.config.write_text(g.config.read_text().replace("log: { format: json }", ""))
    rules.write_text(good.replace("id: everyone", "id: everyone, unknown: x", 1))
    run = kmsgate(*kms.SERVE, "--config", g.config)
    assert re.search(r"^\S*rules\.yaml:\d+:\d+: ", run.stderr, re.M), run.stderr


def test_a_torn_last_line_is_ended(gateway, alice):
    """A line that a killed process left unfinished spoils itself alone."""
    g = gateway([alice], start=False)
    log = g.folder / "decisions.jsonl"
    whole = '{"time":"2026-11-23T18:00:00.000Z","id":"whole"}\n'
    log.write_text(whole + '{"time":"2026-11-23T18:00:01.0')
    g.start()
    assert g.post("/keyprov", kms.signed_request(alice, g.url("/keyprov"))).status in (200, 503)
    kms.wait_for(lambda: log.read_text().count("\n") >= 3)
    g.stop()
    lines = log.read_text().split("\n")
    assert lines[0] + "\n" == whole and lines[1] == '{"time":"2026-11-23T18:00:01.0' and json.loads(lines[2])["verdict"]
    assert "the last line was incomplete" in g.running.err
    before = log.read_text()
    g.start()
    g.stop()
    assert log.read_text() == before, "a whole one is left alone"
    log.unlink()  # who looks at all decisions afterwards reads whole lines


def test_a_client_id_that_is_no_text(tmp_path):
    run = kmsgate("request", "--url", "http://127.0.0.1:1/keymanagement/identity/v1/init", "--user", "sip:a@b",
                  "--keys", tmp_path / "k", "--client-id", os.fsdecode(b"\xff"))
    assert run.returncode == 2
    assert run.stderr == "kmsgate: request: --client-id: found `\\xff`, expected UTF-8; see `kmsgate request --help`\n"
