"""Key periods: a KMS issues for the period of the `{time}` that was asked for, or for now, and the number rolls over on the
very second. TS 33.180 F.2.1: the number is (NTP seconds - UserKeyOffset) / UserKeyPeriod; the legacy KMS has 30 days, 0."""
import subprocess
import time
from datetime import datetime, timedelta, timezone

import pytest

from conftest import BUILD
from kms import q

PERIOD = 2592000
NTP = 2208988800
BEGINS = 1390 * PERIOD # of period 1390, in NTP seconds


def key_set(gate, user, ntp=None, fraction=0):
    path = "/keyprov/" + user.uri.replace(":", "%3A").replace("@", "%40")
    reply = gate.ask(user, path if ntp is None else "%s/%08X%08X" % (path, ntp, fraction))
    assert reply.status == 200, reply.error
    found = reply.response.find("%s/%s/%s" % (q("KmsMessage"), q("KmsKeyProv"), q("KmsKeySet")))
    out = {name: found.findtext(q(name)) for name in ("KeyPeriodNo", "UserID", "ValidFrom", "ValidTo")}
    out.update(reply.keys(user.trk, user.trk_id))
    return out


def instant(text):
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


@pytest.mark.parametrize("ntp,fraction,number", [
    (BEGINS - PERIOD, 0, 1389), (BEGINS - 1, 0, 1389), (BEGINS - 1, 0xFFFFFFFF, 1389), (BEGINS, 0, 1390), (BEGINS, 1, 1390),
    (BEGINS + PERIOD - 1, 0xFFFFFFFF, 1390), (BEGINS + PERIOD, 0, 1391)])
def test_the_number_of_a_time(gate, alice, ntp, fraction, number):
    got = key_set(gate, alice, ntp, fraction)
    assert got["KeyPeriodNo"] == str(number)
    assert instant(got["ValidFrom"]).timestamp() == number * PERIOD - NTP
    assert instant(got["ValidTo"]) - instant(got["ValidFrom"]) == timedelta(seconds=PERIOD - 1)


def test_keys_roll_over_with_it(gate, alice):
    before, begins, later = (key_set(gate, alice, BEGINS + at) for at in (-1, 0, PERIOD - 1))
    assert instant(begins["ValidFrom"]) - instant(before["ValidTo"]) == timedelta(seconds=1)
    for name in ("KeyPeriodNo", "UserID", "UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT"):
        assert before[name] != begins[name], name
    for name in ("KeyPeriodNo", "UserID", "UserDecryptKey", "ValidFrom", "ValidTo"):
        assert begins[name] == later[name], name


def test_now_is_the_period_of_now(gate, alice):
    before = (int(time.time()) + NTP) // PERIOD
    got = int(key_set(gate, alice)["KeyPeriodNo"])
    assert before <= got <= (int(time.time()) + NTP) // PERIOD


def test_a_client_sees_it_and_proves_both(gate, alice, tmp_path):
    keys = tmp_path / "client.jsonl"
    keys.write_text("\n".join(alice.lines()) + "\n")
    keys.chmod(0o600)
    for ntp, number in ((BEGINS - 1, 1389), (BEGINS, 1390)):
        url = gate.url("/keyprov/sip%%3Aalice%%40example.org/%08X00000000" % ntp)
        r = subprocess.run([BUILD / "kmsgate", "request", "--url", url, "--user", alice.uri, "--keys", keys, "--kms-uri",
                            "kms.example.org"], capture_output=True, text=True, timeout=120)
        assert r.returncode == 0 and r.stderr == "", r.stderr
        assert "period %d, the one that is due" % number in r.stdout, r.stdout
        assert r.stdout.count("  proven: ") == 1
