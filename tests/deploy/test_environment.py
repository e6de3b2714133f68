"""Configuration by environment, files and the credentials of a service manager, with the real program."""
import os

import kms
from conftest import BUILD, run


def check(g, **env):
    return run(BUILD / "kmsgate", "check", "--config", g.config, "--print", ok=False,
               env=dict({k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}, **{k: str(v) for k, v in env.items()}))


def test_print_tells_what_and_where_from(gateway, tmp_path):
    g = gateway(start=False)
    (tmp_path / "url").write_text("http://127.0.0.1:1234\n")
    r = check(g, KMSGATE_UPSTREAM_URL_FILE=tmp_path / "url", KMSGATE_DRAIN_DELAY="7s")
    assert r.returncode == 0, r.stderr
    lines = {x.split(": ")[0]: x for x in r.stdout.split("\n") if ": " in x}
    assert "http://127.0.0.1:1234" in lines["upstream.url"] and lines["upstream.url"].endswith("# KMSGATE_UPSTREAM_URL_FILE")
    assert "7s" in lines["drain_delay"] and lines["drain_delay"].endswith("# KMSGATE_DRAIN_DELAY")
    assert lines["drain_timeout"].endswith("# default")
    assert "gateway.yaml:" in lines["rules"]


def test_secrets_by_credentials(gateway, alice, tmp_path):
    """As systemd hands them over: the key that sealed the database, then one that did not."""
    g = gateway(start=False)
    key = (g.folder / "master.key").read_text()
    (g.folder / "master.key").unlink()
    creds = tmp_path / "creds"
    creds.mkdir(mode=0o700)
    (creds / "master_key").write_text(key)
    (creds / "master_key").chmod(0o400)
    (creds / "admin_token").write_text("only-for-prometheus\n")
    r = check(g, CREDENTIALS_DIRECTORY=creds)
    assert r.returncode == 0 and r.stdout.count("# CREDENTIALS_DIRECTORY") == 2, r.stdout + r.stderr
    assert key not in r.stdout + r.stderr and "only-for-prometheus" not in r.stdout + r.stderr
    g.start(env={"CREDENTIALS_DIRECTORY": str(creds)})
    assert g.ask(alice, "/init").status == 200
    assert g.admin("/metrics")[0] == 401 and g.admin("/readyz")[0] == 200
    # bad twins: no credential, and one of another gateway
    r = check(g)
    assert r.returncode == 1 and "master.key: cannot be read: No such file" in r.stderr
    assert g.running.stop() == 0
    (creds / "master_key").chmod(0o600)
    (creds / "master_key").write_text(os.urandom(32).hex())
    wrong = kms.Process([BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "wrong",
                        env=dict(os.environ, CREDENTIALS_DIRECTORY=str(creds)))
    kms.wait_for(lambda: wrong.p.poll() is not None)
    assert wrong.p.returncode == 1 and "master key" in wrong.err, wrong.err


def test_master_key_readable_by_all(gateway):
    g = gateway(start=False)
    (g.folder / "master.key").chmod(0o644)
    r = check(g)
    assert r.returncode == 1 and "open to all users" in r.stderr
    (g.folder / "master.key").chmod(0o640)
    assert check(g).returncode == 0


def test_unknown_variables_are_told(gateway):
    g = gateway(start=False)
    r = check(g, KMSGATE_PORT_443_TCP="tcp://10.0.0.1:443")
    assert r.returncode == 0 and "`KMSGATE_PORT_443_TCP` is not a setting" in r.stderr
    assert "no setting" not in check(g).stderr
