#!/usr/bin/env python3
"""Writes the stored replies of older KMSs beside itself, one for each dialect of rules/dialects.yaml.

The keys are made of their names, so that a test knows them: octets("UserDecryptKey") and so on.
"""
import base64
import hashlib
from pathlib import Path

USER = "sip:alice@example.org"
LENGTHS = {"UserDecryptKey": 257, "UserSigningKeySSK": 32, "UserPubTokenPVT": 65}
NS = "urn:3gpp:ns:mcsecKMSInterface:1.0"


def octets(name):
    """As many as the standard says; points begin with 04."""
    n, out = LENGTHS[name], b""
    for i in range(n // 32 + 1):
        out += hashlib.sha256(("%s %d" % (name, i)).encode()).digest()
    return (b"\x04" if n % 2 else b"") + out[:n - n % 2]


def in_lines(text, width=64):
    return "\n" + "".join("          %s\n" % text[i:i + width] for i in range(0, len(text), width)) + "        "


def reply(namespace=NS, prefix="", key=lambda name, o: o.hex().upper(), user=USER, key_user=USER, names=None,
          time="2026-11-23T18:00:00Z", valid="2026-11-01T00:00:00Z", version="1.1.0", issuer=None, typed=None,
          encoding="UTF-8"):
    p = prefix + ":" if prefix else ""
    declared = ' xmlns%s="%s"' % (":" + prefix if prefix else "", namespace) if namespace else ""
    name = lambda n: p + (names or {}).get(n, n)

    def element(n, content, attributes="", depth=0):
        return "%s<%s%s>%s</%s>\n" % ("  " * depth, name(n), attributes, content, name(n))
    keys = "".join(element(n, key(n, octets(n)), "", 4) for n in LENGTHS)
    key_set = element("KmsKeySet", "\n" + "".join([
        element("KmsUri", "kms.old.example", "", 4), element("Issuer", issuer, "", 4) if issuer else "",
        element("UserUri", key_user, "", 4), element("UserID", "AB" * 32, "", 4),
        element("ValidFrom", valid, "", 4), element("KeyPeriodNo", "1514", "", 4), keys]) + "      ",
        ' Version="1.0.0"' if version else "", 3)
    prov = element("KmsKeyProv", "\n" + key_set + "    ", (' Version="1.0.0"' if version else "") + (
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="%s"' % typed if typed else ""), 2)
    return '<?xml version="1.0" encoding="%s"?>\n' % encoding + element("KmsResponse", "\n" + "".join([
        element("KmsUri", "kms.old.example", "", 1), element("UserUri", user, "", 1), element("Time", time, "", 1),
        element("KmsId", "KMSProvider12345", "", 1), element("ClientReqUrl", "http://kms.old.example/keymanagement", "", 1),
        element("KmsMessage", "\n" + prov + "  ", "", 1)]), declared + (' Version="%s"' % version if version else ""))


def bare(name, o):
    return (o[1:] if len(o) % 2 else o).hex().upper()


REPLIES = {
    # no dialect: another order, other versions, microseconds, a constant ClientReqUrl
    "default": reply(time="2026-11-23T18:00:00.123456+00:00", version="9.9"),
    "no-versions": reply(version=""),
    "vendor-namespace": reply("http://vendor.example/kms/1.0", "v",
                              names={"KmsKeySet": "KmsKeyset", "UserDecryptKey": "UserDecryptionKey"}),
    "placeholder-namespace": reply("TOBEDEFINED"),
    "no-namespace": reply(""),
    "bare-points": reply(key=bare),
    "base64-keys": reply(key=lambda n, o: in_lines(base64.b64encode(o).decode())),
    "numeric-ssk": reply(key=lambda n, o: (b"\0\0" + o if n == "UserSigningKeySSK" else o).hex().upper()),
    "release-13-type": reply(typed="KmsKeyProvTkType"),
    "latin-1": "\n" + reply(encoding="ISO-8859-1", issuer="Beh\u00f6rde"),
    "other-user-in-envelope": reply(user="alice@example.org"),
    "other-user-everywhere": reply(user="alice", key_user="tel:+4912345"),
    "loose-texts": reply(key=lambda n, o: in_lines(o.hex(), 32), time="2026-11-23T18:00:00", valid="2026-11-01 00:00:00.25"),
    "several-habits": reply("http://old.example/schemas/kms", "k", user="alice",
                            key=lambda n, o: in_lines(base64.b64encode(o[1:] if len(o) % 2 else o).decode(), 60),
                            names={"KmsResponse": "Response", "KmsKeySet": "KeySet", "UserDecryptKey": "RSK",
                                   "UserSigningKeySSK": "SSK", "UserPubTokenPVT": "PVT"}),
}

def encoded(case):
    """As the reply's declaration says."""
    text = REPLIES[case]
    return text.encode("iso-8859-1" if "ISO-8859-1" in text else "utf-8")


if __name__ == "__main__":
    for case in REPLIES:
        (Path(__file__).parent / (case + ".xml")).write_bytes(encoded(case))
