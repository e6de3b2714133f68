"""certs/make_certs.sh, TLS and mutual TLS on both sides, rotation under load, expiry seen and warned of."""
import datetime
import os
import re
import shutil
import signal
import ssl
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Use

import kms
from conftest import ROOT, run

MAKE = ROOT / "certs/make_certs.sh"


def load(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def days_left(cert):
    return (cert.not_valid_after - datetime.datetime.utcnow()).total_seconds() / 86400


def test_what_is_made(certs):
    ca = load(certs / "ca.pem")
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert 899 < days_left(ca) <= 900
    uses = {"server": Use.SERVER_AUTH, "upstream": Use.SERVER_AUTH, "client": Use.CLIENT_AUTH, "gateway": Use.CLIENT_AUTH}
    for name, use in uses.items():
        cert = load(certs / (name + ".pem"))
        assert isinstance(cert.public_key(), ec.EllipticCurvePublicKey) and cert.public_key().curve.name == "secp256r1"
        assert 89 < days_left(cert) <= 90
        assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [use]
        assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        ca.public_key().verify(cert.signature, cert.tbs_certificate_bytes, ec.ECDSA(cert.signature_hash_algorithm))
        assert (certs / (name + ".key")).stat().st_mode & 0o777 == 0o600
    names = load(certs / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"kms.example.org", "localhost"}
    assert {str(a) for a in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}
    assert not [p for p in certs.iterdir() if p.name.startswith(".")], "what was in the making is left behind"


def test_made_anew_under_the_same_authority(certs, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(certs, folder)
    assert "is kept" in run(MAKE, "--out", folder, "--days", 20, "--name", "a.example", "--name", "2001:db8::7").stdout
    assert load(folder / "ca.pem") == load(certs / "ca.pem")
    cert = load(folder / "server.pem")
    assert cert.serial_number != load(certs / "server.pem").serial_number and 19 < days_left(cert) <= 20
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["2001:db8::7"]


@pytest.mark.parametrize("argv,found", [
    (["--days", "0"], "found `0`, expected a number"), (["--days", "90d"], "found `90d`"), (["--days"], "wants a value"),
    (["--name", "a b"], "found `a b`, expected a DNS name"), (["--host", "x"], "found `--host`, expected --out"),
])
def test_wrong_usage(tmp_path, argv, found):
    r = run(MAKE, "--out", tmp_path / "c", *argv, ok=False)
    assert r.returncode == 2 and found in r.stderr and not (tmp_path / "c").exists()


def tls(folder, **extra):
    more = "".join(", %s: %s" % kv for kv in extra.items())
    return "    tls: { certificate: %s/server.pem, key: %s/server.key%s }" % (folder, folder, more)


def context(certs, client=None):
    c = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    if client:
        c.load_cert_chain(str(certs / (client + ".pem")), str(certs / (client + ".key")))
    return c


def ask(g, user, ctx, path="/keyprov"):
    return g.post(path, kms.signed_request(user, g.url(path)), context=ctx)


def metric(g, name):
    """{labels: value} of one metric."""
    found = re.findall(r"^%s(?:\{(.*)\})? (\S+)$" % name, g.admin("/metrics")[1], re.M)
    return {labels: float(v) for labels, v in found}


def test_mutual_tls_on_both_sides(gateway, alice, certs):
    """The client shows a certificate to the gateway; the gateway verifies the KMS's."""
    g = gateway(listen=tls(certs, client_ca=certs / "ca.pem"), legacy=["--tls", certs / "upstream.pem", certs / "upstream.key"],
                config="", start=False)
    text = g.config.read_text()
    g.config.write_text(re.sub(r"upstream: \{(.*)\}", lambda m: "upstream: {%s, tls: { ca: %s, certificate: %s, key: %s } }" % (
        m[1], certs / "ca.pem", certs / "gateway.pem", certs / "gateway.key"), text))
    g.start()
    reply = ask(g, alice, context(certs, "client"))
    assert reply.status == 200 and reply.verify(alice.ink, alice.ink_id) and reply.keys(alice.trk, alice.trk_id)
    with pytest.raises((ssl.SSLError, OSError)):
        ask(g, alice, context(certs))  # the twin without a certificate
    left = metric(g, "kmsgate_certificate_expiry_seconds")
    for name in ("server.pem", "gateway.pem"):
        assert left['file="%s"' % (certs / name)] == pytest.approx(days_left(load(certs / name)) * 86400, abs=120), left


def test_upstream_of_another_authority_is_refused(gateway, alice, certs, tmp_path):
    other = tmp_path / "other"
    run(MAKE, "--out", other)
    g = gateway(legacy=["--tls", other / "upstream.pem", other / "upstream.key"], start=False)
    text = g.config.read_text()
    g.config.write_text(re.sub(r"upstream: \{(.*)\}", lambda m: "upstream: {%s, tls: { ca: %s } }" % (m[1], certs / "ca.pem"), text))
    g.start()
    assert g.ask(alice, "/init").status == 502
    assert g.last(1)["reason"] == "upstream.unreachable" and not g.upstream_requests()


def warnings(g, part):
    return [x for x in g.running.err.split("\n") if part in x]


@pytest.mark.parametrize("days,said", [(10, "expires at .*, in (9|10) days"), (1, "expires at .*, in [01] days"), (31, None), (60, None)])
def test_a_month_ahead_it_is_warned_of(gateway, tmp_path, days, said):
    run(MAKE, "--out", tmp_path / "c", "--days", days)
    g = gateway(listen=tls(tmp_path / "c"))
    if said:
        kms.wait_for(lambda: warnings(g, "expire"))
    else:
        time.sleep(0.5)
    lines = warnings(g, "expire")
    if said:
        assert len(lines) == 1 and re.search("server.pem: " + said, lines[0]), g.running.err
    else:
        assert not lines


def test_expired(gateway, alice, tmp_path, certs):
    """Not refused at the start: a gateway that is not there helps nobody. It is said, loudly."""
    c = tmp_path / "c"
    shutil.copytree(certs, c)
    run("openssl", "req", "-new", "-key", c / "server.key", "-subj", "/CN=kmsgate", "-out", c / "server.csr")
    (c / "ca.conf").write_text("[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nnew_certs_dir=%s\nserial=%s/serial\n"
                               "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n" % (c, c, c))
    (c / "index").write_text("")
    (c / "serial").write_text("01\n")
    run("openssl", "ca", "-batch", "-notext", "-config", c / "ca.conf", "-in", c / "server.csr", "-cert", c / "ca.pem", "-keyfile",
        c / "ca.key", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z", "-out", c / "server.pem")
    g = gateway(listen=tls(c))
    kms.wait_for(lambda: warnings(g, "has expired"))
    assert metric(g, "kmsgate_certificate_expiry_seconds")['file="%s"' % (c / "server.pem")] < 0


def serial(g, ctx):
    import socket
    with socket.create_connection(("127.0.0.1", g.port), 10) as s, ctx.wrap_socket(s, server_hostname="localhost") as t:
        return x509.load_der_x509_certificate(t.getpeercert(True)).serial_number


@pytest.mark.parametrize("how", ["signal", "watch"])
def test_rotation_without_restart(gateway, alice, certs, tmp_path, how):
    """certs/README.md, Rotation: a new folder, one symlink swapped, SIGHUP or none; under load no request fails."""
    for name in ("one", "two"):
        shutil.copytree(certs, tmp_path / name)
    run(MAKE, "--out", tmp_path / "two", "--days", 80)
    (tmp_path / "now").symlink_to("one")
    g = gateway(listen=tls(tmp_path / "now"))
    ctx = context(certs)
    first, second = (load(tmp_path / n / "server.pem").serial_number for n in ("one", "two"))
    assert serial(g, ctx) == first
    end, results = threading.Event(), []

    def load_it():
        while not end.is_set():
            results.append(ask(g, alice, ctx, "/init").status)
    threads = [threading.Thread(target=load_it) for _ in range(2)]
    [t.start() for t in threads]
    try:
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", tmp_path / "now")
        if how == "signal":
            g.running.p.send_signal(signal.SIGHUP)
        kms.wait_for(lambda: serial(g, ctx) == second)
        # a bad one is refused, and the one in force stays, for clients and for the figure
        shutil.copytree(tmp_path / "two", tmp_path / "bad")
        shutil.copy(tmp_path / "one/server.key", tmp_path / "bad/server.key")
        (tmp_path / "next").symlink_to("bad")
        os.replace(tmp_path / "next", tmp_path / "now")
        if how == "signal":
            g.running.p.send_signal(signal.SIGHUP)
        kms.wait_for(lambda: warnings(g, "is not the key of the certificate"))
        assert serial(g, ctx) == second
        left = metric(g, "kmsgate_certificate_expiry_seconds")['file="%s"' % (tmp_path / "now/server.pem")]
        assert left == pytest.approx(80 * 86400, abs=600)
        so_far = len(results)
        kms.wait_for(lambda: len(results) > so_far + 5)
    finally:
        end.set()
        [t.join() for t in threads]
    assert len(results) > 5 and set(results) == {200}, results
