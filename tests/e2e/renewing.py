"""A client that keeps the keys that it is given, and what a gateway says of a user's keys."""
import contextlib
import http.client
import json
import re
import sqlite3
import threading
import time

from lxml import etree

import kms
import scripted
from kms import DS, XENC, XSI, q

ALICE = "sip:alice@example.org"


class Device:
    """A client that keeps what it is given."""

    def __init__(self, uri, **kw):
        self.user = kms.User(uri, **kw)

    def new_keys(self, reply):
        """[(element, ID, octets, KeyName)] as they stand; each must be in the profile's form."""
        out = []
        for e in reply.root.iter(q("NewTransportKey"), q("NewIntegrityKey")):
            assert e.get(q("type", XSI)) == "EncKeyContentType"
            ek = e.find(q("EncryptedKey", XENC))
            assert ek.find(q("EncryptionMethod", XENC)).get("Algorithm") == XENC + "kw-aes256"
            name = ek.find(q("KeyInfo", DS)).findtext(q("KeyName", DS))
            assert name == reply.text("TrK-ID")
            carried = ek.findtext(q("CarriedKeyName", XENC))
            out.append((etree.QName(e).localname, carried, kms.unwrap(ek, self.user.trk, self.user.trk_id), name))
        return out

    def take(self, new):
        for element, ident, octets, _ in new:
            if element == "NewTransportKey":
                self.user.trk_id, self.user.trk = ident, octets
            else:
                self.user.ink_id, self.user.ink = ident, octets


def good(reply, device):
    assert reply.status == 200, reply.body
    scripted.check_xsd(reply)
    kid, key = device.user.signer()
    assert reply.verify(key, kid)
    return reply


def states(gate, user=ALICE):
    listed = gate.run("keys", "export", "--config", gate.config, "--user", user).stdout
    return {k["id"]: k["state"] for k in map(json.loads, listed.splitlines())}


def renewals(gate):
    found = re.findall(r'^kmsgate_renewals_total\{type="(\w+)",result="(\w+)"\} (\d+)', gate.admin("/metrics")[1], re.M)
    return {(kind, result): int(n) for kind, result, n in found}


def wait_state(gate, ident, state):
    kms.wait_for(lambda: states(gate).get(ident) == state)


@contextlib.contextmanager
def locked(gate):
    """Nobody can read or write the database of keys."""
    db = sqlite3.connect(gate.folder / "kmsgate.db", isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


def killed_while_asked(gate, device, rng):
    """A request of the device, the gateway killed at a random moment of it and started again. True: the reply had come
    whole, and what it brought is kept."""
    got = []

    def ask():
        try:
            got.append(gate.ask(device.user, "/init"))
        except (OSError, http.client.HTTPException, etree.XMLSyntaxError):
            pass  # cut off
    t = threading.Thread(target=ask)
    t.start()
    time.sleep(rng.uniform(0, 0.03))  # about as long as it takes
    gate.running.p.kill()
    gate.running.p.wait()
    t.join()
    gate.start()
    if got:
        device.take(device.new_keys(good(got[0], device)))
    return bool(got)
