"""What a person at a terminal sees: every command's help, wrong usage, and an output that cannot be written."""
import os
import re
import subprocess

import pytest
import yaml

import certs
import kms
from conftest import BUILD

COMMANDS = ["serve", "check", "health", "keys", "request", "open", "demo", "explain", "test", "replay"]


def kmsgate(*argv, **kw):
    kw.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([BUILD / "kmsgate", *map(str, argv)], stderr=subprocess.PIPE, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, **kw)


def test_help_names_all_commands():
    run = kmsgate("--help")
    assert run.returncode == 0 and run.stderr == ""
    assert re.findall(r"^  (\w+)", run.stdout, re.M) == COMMANDS
    assert run.stdout.startswith("usage: kmsgate COMMAND [OPTION]...\n")
    nothing = kmsgate()
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (2, "", run.stdout)


def test_version():
    run = kmsgate("--version")
    assert run.returncode == 0 and re.fullmatch(r"kmsgate \d+\.\d+\.\d+\n", run.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_has_its_help(command):
    run = kmsgate(command, "--help")
    assert run.returncode == 0 and run.stderr == ""
    assert run.stdout.startswith("usage: kmsgate " + command)


@pytest.mark.parametrize("argv,says", [
    (["frobnicate"], "no command `frobnicate`; `kmsgate --help` lists them"),
    (["serve"], "serve: usage: kmsgate serve --config gateway.yaml"),
    (["serve", "gateway.yaml"], "serve: usage: kmsgate serve --config gateway.yaml"),
    (["check"], "check: expected --config GATEWAY.yaml or one RULES.yaml; `kmsgate check --help` explains"),
    (["check", "--all"], "check: wrong option `--all`; `kmsgate check --help` explains"),
    (["health"], "health: usage: kmsgate health --config gateway.yaml"),
    (["health", "gateway.yaml"], "health: usage: kmsgate health --config gateway.yaml"),
    (["keys", "burn"], "keys: no subcommand `burn`; `kmsgate keys --help` lists them"),
    (["keys", "list"], "keys list: wants --config gateway.yaml"),
    (["keys", "list", "--config"], "keys list: --config needs a value"),
    (["request"], "request: wants --url RESOURCE-URL; `kmsgate request --help` explains"),
    (["open"], "open: wants --user URI; `kmsgate open --help` explains"),
    (["open", "--user"], "open: --user wants a value: URI; `kmsgate open --help` explains"),
    (["demo", "--forever"], "demo: no option `--forever`; `kmsgate demo --help` explains"),
    (["explain"], "explain: wants --config gateway.yaml; `kmsgate explain --help` explains"),
    (["test", "rules.yaml"], "test: expected RULES.yaml and CASES.yaml; `kmsgate test --help` explains"),
    (["replay"], "replay: wants --rules NEW.yaml; `kmsgate replay --help` explains"),
])
def test_wrong_usage(argv, says):
    run = kmsgate(*argv)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", "kmsgate: " + says + "\n")


def test_a_subcommand_is_due():
    run = kmsgate("keys")
    assert run.returncode == 2 and run.stdout == "" and run.stderr == kmsgate("keys", "--help").stdout


def test_health_of_nobody(gateway, alice):
    g = gateway([alice], start=False)
    run = kmsgate("health", "--config", g.config)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "kmsgate: health: nobody answers on 127.0.0.1:%d\n" % g.admin_port
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
            (["keys", "list", *keys], "keys list: cannot write to standard output"),
            (["keys", "show", *keys, "--user", alice.uri], "keys show: cannot write to standard output"),
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
             "locked.key: holds no private key in PEM form without a passphrase"),
            (plain, "upstream: { url: \"https://127.0.0.1:1\", tls: { ca: empty.pem } }",
             "empty.pem: holds no certificate in PEM form"),
            ("file:master.key", "env:FAR_TOO_LONG", "FAR_TOO_LONG: holds more than 4096 bytes: no secret"),
            ("public_url: ", "public_url: [http://a.example, http://a.example] # ",
             "found `http://a.example`, expected each URL once")]:
        g.config.write_text(good.replace(old, new))
        run = kmsgate("check", "--config", g.config, env=dict(os.environ, FAR_TOO_LONG="a" * 5000))
        assert run.returncode == 1 and says in run.stderr, (says, run.stderr)
    g.config.write_text(good)
    assert kmsgate("check", "--config", g.config).returncode == 0


def test_a_client_id_that_is_no_text(tmp_path):
    run = kmsgate("request", "--url", "http://127.0.0.1:1/keymanagement/identity/v1/init", "--user", "sip:a@b",
                  "--keys", tmp_path / "k", "--client-id", os.fsdecode(b"\xff"))
    assert run.returncode == 2
    assert run.stderr == "kmsgate: request: --client-id: found `\\xff`, expected UTF-8\n"
