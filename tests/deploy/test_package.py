"""The Debian package: made by CPack, installed into Debian, started as the unit starts it, removed, purged."""
import gzip
import os
import re
import shutil

import pytest

import kms
from conftest import BUILD, ROOT, run, tool


def test_what_is_in_it(deb):
    assert re.fullmatch(r"kmsgate_[\d.]+_[a-z0-9]+\.deb", deb.name)
    files = {}
    for line in run("dpkg-deb", "--contents", deb).stdout.split("\n"):
        m = re.match(r"(\S{10}) (\S+) +\d+ \S+ \S+ \./(\S*)", line)
        assert not m or not m[3].endswith("/") or m[1] == "drwxr-xr-x", line
        if m and not m[3].endswith("/"):
            files[m[3]] = (m[1], m[2])
    for path, mode in {"usr/bin/kmsgate": "-rwxr-xr-x", "lib/systemd/system/kmsgate.service": "-rw-r--r--",
                       "etc/kmsgate/gateway.yaml": "-rw-r--r--", "etc/kmsgate/rules.yaml": "-rw-r--r--",
                       "usr/share/man/man8/kmsgate.8.gz": "-rw-r--r--", "usr/share/man/man8/kmsgate-keys.8.gz": "-rw-r--r--",
                       "usr/share/bash-completion/completions/kmsgate": "-rw-r--r--",
                       "usr/share/zsh/vendor-completions/_kmsgate": "-rw-r--r--", "usr/share/doc/kmsgate/copyright": "-rw-r--r--"}.items():
        assert files[path] == (mode, "root/root"), (path, files)
    for name in ("rules/README.md", "docker/DECISIONS.md", "docker/ADMIN-API.md", "gateway/CONFIG.md", "docker/README.md", "docker/decision.schema.json", "schema.json",
                 "config.schema.json"):
        assert "usr/share/doc/kmsgate/" + name in files or "usr/share/doc/kmsgate/%s.gz" % name in files, name
    said = "".join(p.read_text() for p in (ROOT / "gateway").rglob("*.[ch]"))
    for page in set(re.findall(r'"[^"\n]*?([\w/]+\.md)\b', said)):
        assert "usr/share/doc/kmsgate/" + page in files, "the program refers to %s, which the package does not have" % page
    assert not [p for p in files if p.endswith((".key", ".db")) or "legacy" in p]
    field = lambda name: run("dpkg-deb", "--field", deb, name).stdout.strip()
    assert field("Package") == "kmsgate" and field("Version") == run(BUILD / "kmsgate", "--version").stdout.split()[1]
    depends = field("Depends")
    for package in ("libevhtp0", "libxml2", "libssl3", "libcurl4", "libsqlite3-0", "libyaml-0-2", "libc6", "libevent-2.1-7"):
        assert re.search(r"(^|, )%s( |,|$)" % re.escape(package), depends), depends
    control = run("dpkg-deb", "--info", deb).stdout
    assert all(x in control for x in ("conffiles", "postinst", "prerm", "postrm"))


def test_the_manual(deb, tmp_path):
    """A page for each command that the program knows, and in that of the whole program each of them."""
    run("dpkg-deb", "--extract", deb, tmp_path)
    commands = re.findall(r"^  (\w+)  ", run(BUILD / "kmsgate", "--help").stdout, re.M)
    assert "serve" in commands and len(commands) > 5
    pages = {p.name: gzip.decompress(p.read_bytes()).decode() for p in (tmp_path / "usr/share/man/man8").iterdir()}
    assert set(pages) == {"kmsgate.8.gz"} | {"kmsgate-%s.8.gz" % c for c in commands}
    assert not [c for c in commands if "\\fB%s\\fR" % c not in pages["kmsgate.8.gz"]]
    assert pages["kmsgate-explain.8.gz"] == run(BUILD / "kmsgate", "help", "--man", "explain").stdout


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_scripts_parse(script):
    path = ROOT / "docker/debian" / script
    run("sh", "-n", path)
    assert path.stat().st_mode & 0o111


# In Debian without systemd as process 1: what the unit says is done by hand.
LIFE = """
set -eu
say() { echo "== $*"; }
dpkg -i /in/kmsgate.deb
say installed
kmsgate --version
stat -c '%a %U:%G %n' /etc/kmsgate/master.key /var/lib/kmsgate /etc/kmsgate/tls
[ "$(wc -c </etc/kmsgate/master.key)" = 64 ]
! kmsgate check --config /etc/kmsgate/gateway.yaml 2>/tmp/faults
cat /tmp/faults
cp /in/server.pem /in/server.key /etc/kmsgate/tls/
chgrp kmsgate /etc/kmsgate/tls/server.key
chmod 640 /etc/kmsgate/tls/server.key
as_kmsgate="setpriv --reuid kmsgate --regid kmsgate --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all --"
$as_kmsgate kmsgate keys import --config /etc/kmsgate/gateway.yaml - </in/keys.jsonl
mkdir -m 700 /run/credentials
cp /etc/kmsgate/master.key /run/credentials/master_key
chmod 400 /run/credentials/master_key
chown -R kmsgate /run/credentials
export CREDENTIALS_DIRECTORY=/run/credentials
$as_kmsgate PRE
$as_kmsgate START >/tmp/out 2>/tmp/err &
pid=$!
n=0
until kmsgate health --config /etc/kmsgate/gateway.yaml 2>/dev/null; do
    n=$((n + 1))
    [ $n -lt 100 ] || { cat /tmp/out /tmp/err; exit 1; }
    sleep 0.1
done
say ready
grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/$pid/status
kill -HUP $pid
sleep 0.5
kill -TERM $pid
wait $pid && say ended well
grep -c 'rules and certificates again' /tmp/err
cp /etc/kmsgate/master.key /tmp/before
dpkg -i /in/kmsgate.deb >/dev/null
cmp /tmp/before /etc/kmsgate/master.key && say reinstalled
dpkg -r kmsgate
[ -f /etc/kmsgate/gateway.yaml ] && [ ! -e /usr/bin/kmsgate ] && say removed
mkdir -p /var/log/kmsgate && touch /var/log/kmsgate/decisions.jsonl /var/lib/kmsgate/kmsgate.db.followers
dpkg -P kmsgate
[ ! -e /var/log/kmsgate ] && [ ! -e /var/lib/kmsgate/kmsgate.db.followers ] && say logs gone
[ ! -e /etc/kmsgate/gateway.yaml ] && [ -f /etc/kmsgate/master.key ] && [ -f /var/lib/kmsgate/kmsgate.db ] && say keys left
rm -rf /var/lib/kmsgate /etc/kmsgate/tls
dpkg -i /in/kmsgate.deb >/dev/null
dpkg -P kmsgate >/dev/null
[ ! -e /etc/kmsgate ] && [ ! -e /var/lib/kmsgate ] && say nothing left
"""


def exec_of(unit, name):
    line = re.search(r"^%s=(.*)$" % name, unit, re.M)
    assert line, name
    return line[1]


def test_installed_started_removed(deb, containers, certs, alice, tmp_path):
    unit = (ROOT / "docker/kmsgate.service").read_text()
    assert "User=kmsgate\nGroup=kmsgate\n" in unit and "LoadCredential=master_key:/etc/kmsgate/master.key\n" in unit
    script = LIFE.replace("PRE\n", exec_of(unit, "ExecStartPre") + "\n").replace("START >", exec_of(unit, "ExecStart") + " >")
    image = containers.build("libraries")
    for source, name in ((deb, "kmsgate.deb"), (certs / "server.pem", "server.pem"), (certs / "server.key", "server.key")):
        shutil.copy(source, tmp_path / name)
    (tmp_path / "keys.jsonl").write_text("\n".join(alice.lines()))
    (tmp_path / "life.sh").write_text(script)
    r = containers.podman("run", "--rm", "--network", "none", "-v", "%s:/in:ro" % tmp_path, image, "sh", "/in/life.sh", ok=False)
    said = r.stdout + r.stderr
    assert r.returncode == 0, said
    for word in ("installed", "ready", "ended well", "reinstalled", "removed", "logs gone", "keys left", "nothing left"):
        assert "== " + word in said, said
    assert "640 root:kmsgate /etc/kmsgate/master.key" in said and "750 kmsgate:kmsgate /var/lib/kmsgate" in said
    assert "/etc/kmsgate/tls/server.pem: cannot be read" in said, "what is missing is not named"
    assert "2 added" in said
    assert re.search(r"CapEff:\s+0+\n", said) and re.search(r"NoNewPrivs:\s+1\n", said) and re.search(r"Seccomp:\s+2\n", said)
    assert "left the users' keys" in said
    assert not [x for x in re.findall(r"\b[0-9a-f]{64}\b", said) if x in (alice.ink.hex(), alice.trk.hex())]
