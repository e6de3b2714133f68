"""The master key changes while two gateways serve: no request is lost, whatever ends `keys rekey` on the way."""
import concurrent.futures
import os
import signal
import subprocess
import threading
import time

import pytest

import conftest
import kms
from conftest import BUILD
from renewing import Device, good

RULES = """\
version: 1
kms: { uris: [kms.example.org] }
errors: { detail: reason }
requests: [{ id: everyone }]
responses: [{ id: default, renew: { trk: 1s, ink: 1s, keep_old: 1h } }]
"""
CROWD = 600  # users who only have keys


class Settings:
    """How an operator names the master keys: in gateway.yaml, or in the folder of the unit's credentials."""

    def __init__(self, by_credentials, folder):
        self.by_credentials, self.creds, self.kept = by_credentials, folder / "creds", {}
        self.creds.mkdir()

    def env(self):
        return {"CREDENTIALS_DIRECTORY": str(self.creds)} if self.by_credentials else None

    def put(self, gateways, *keys):
        if self.by_credentials:  # as systemd makes them of the files 1, 2, … of a folder
            for old in self.creds.iterdir():
                old.unlink()
            for i, key in enumerate(keys, 1):
                path = self.creds / ("master_key_%d" % i)
                path.write_text(key.read_text())
                path.chmod(0o400)
            return
        for g in gateways:
            lines = ["master_key: [%s]" % ", ".join("file:%s" % k for k in keys) if x.startswith("master_key:") else x
                     for x in g.config.read_text().split("\n")]
            g.config.write_text("\n".join(lines))

    def reload(self, gateways, *keys):
        self.put(gateways, *keys)
        said = "%d master key%s in force" % (len(keys), "" if len(keys) == 1 else "s")
        for g in gateways:
            before = g.running.err.count(said)
            g.running.p.send_signal(signal.SIGHUP)

            def taken(g=g, before=before):
                """A gateway that has not followed the last change yet keeps the old list, and says so: once more."""
                err = g.running.err
                if err.count(said) > before:
                    return True
                if err.count("stay in effect") > self.kept.get(g, 0):
                    self.kept[g] = err.count("stay in effect")
                    time.sleep(0.5)
                    g.running.p.send_signal(signal.SIGHUP)
                return False
            kms.wait_for(taken)


@pytest.fixture(params=["gateway.yaml", "credentials"])
def pair(request, tmp_path, keys_at):
    """Two gateways with the same keys, and those who name their master keys."""
    settings, made = Settings(request.param == "credentials", tmp_path), []
    devices = [Device("sip:u%d@example.org" % i) for i in range(6)]
    crowd = [kms.User("sip:crowd%d@example.org" % i) for i in range(CROWD)]
    where = keys_at(tmp_path)
    where = where.replace("sqlite:", "sqlite:%s/a/" % tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        g = conftest.Gateway(tmp_path / name, [d.user for d in devices] + crowd, rules=RULES, keys=where, start=False,
                             config="state: .\n" if where.startswith("sqlite:") else "", peer=made[0] if made else None)
        made.append(g)
    settings.put(made, made[0].folder / "master.key")
    try:
        for g in made:
            g.start(env=settings.env())
        yield made, settings, devices
        assert [g.stop() for g in made] == [0, 0]
        assert not any("ERROR: " in g.running.err for g in made)
    finally:
        for g in made:
            g.stop()


def rekey(g, settings, kill_after=None):
    env = dict(os.environ, **settings.env() or {})
    p = subprocess.Popen([BUILD / "kmsgate", "keys", "rekey", "--config", g.config], cwd=g.folder, env=env,
                         stdout=subprocess.PIPE, text=True)
    if kill_after is not None:
        time.sleep(kill_after)
        p.kill()
    out = p.communicate()[0]
    assert kill_after is not None or p.returncode == 0
    return out


def test_under_load(pair):
    gateways, settings, devices = pair
    old = gateways[0].folder / "master.key"
    new = gateways[0].folder / "new.key"
    new.write_text(os.urandom(32).hex())
    new.chmod(0o600)
    over, asked = threading.Event(), []

    def load(n, device):
        g = gateways[n % 2]
        while not over.is_set():
            device.take(device.new_keys(good(g.ask(device.user, "/init"), device)))
            asked.append(g)

    with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        clients = [pool.submit(load, n, d) for n, d in enumerate(devices)]
        try:
            kms.wait_for(lambda: len(asked) > 10 or any(c.done() for c in clients))
            settings.reload(gateways, old, new)
            settings.reload(gateways, new, old)
            for wait in (0.15, 0.3, 0.6):
                rekey(gateways[0], settings, kill_after=wait)
                assert len(gateways[1].run("keys", "export", "--config", gateways[1].config, "--with-secrets",
                                           env=dict(os.environ, **settings.env() or {})).stdout.splitlines()) >= CROWD
            assert "all are under the first master key" in rekey(gateways[0], settings)
            before = len(asked)
            settings.reload(gateways, new)
            kms.wait_for(lambda: len(asked) > before + 20 or any(c.done() for c in clients))
        finally:
            over.set()
        for c in clients:
            c.result()  # none was refused
    assert rekey(gateways[0], settings).startswith("0 keys")
    old.unlink()
    assert all(d.user.ink_id != "ink.1." + d.user.uri[4:].split("@")[0] for d in devices), "nobody was renewed"


def test_too_early(pair):
    """The old key is taken out before all is sealed anew: it stays in use, and that is told."""
    gateways, settings, devices = pair
    new = gateways[0].folder / "new.key"
    new.write_text(os.urandom(32).hex())
    new.chmod(0o600)
    settings.put(gateways, new)
    for g in gateways:
        g.running.p.send_signal(signal.SIGHUP)
    for g in gateways:
        kms.wait_for(lambda g=g: "stay in effect" in g.running.err)
        good(g.ask(devices[0].user, "/init"), devices[0])
    settings.put(gateways, gateways[0].folder / "master.key")
