"""The decision line by its JSON Schema, what a signature names in it, and the trace that a request belongs to."""
import json
import re
import socket
from pathlib import Path

import jsonschema
import pytest

import kms
from scripted import Keys, key_prov, key_set, of_a_file, response

SCHEMA = json.loads((Path(__file__).parents[2] / "docker/decision.schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
EXC = "http://www.w3.org/2001/10/xml-exc-c14n#"
C14N11 = "http://www.w3.org/2006/12/xml-c14n11"
RULES = """\
version: 1
kms: { uris: [kms.example.org] }
requests:
  - { id: loose, match: { client_id: loose },
      checks: { signature: { min_hmac_bits: 128, canonicalization: [c14n, exc-c14n] } } }
  - { id: shadow, why: a test, until: 2199-12-31, match: { client_id: shadow }, checks: { kms_uri: shadow } }
  - { id: state, match: { client_id: state }, forward: { pass: [tracestate] } }
  - { id: everyone }
responses: [{ id: default }]
"""


alice, bench = of_a_file(RULES)


def post(bench, alice, headers=None, path="/keyprov", body=None, **over):
    """(what the upstream saw, the decision)"""
    bench.upstream.says(response(key_prov(key_set(Keys(), alice.uri)), user=alice.uri))
    before = len(bench.upstream.seen)
    if body is None:
        body = kms.signed_request(alice, bench.gate.url(path), **over)
    d = bench.decision(bench.gate.post(path, body, headers=headers))
    return [head.decode() for head, _ in bench.upstream.seen[before:]], d


NAMED = {
    "the standard's": ({}, "ok", "c14n", 256),
    "256 said": ({"hmac_bits": 256}, "ok", "c14n", 256),
    "short, refused": ({"hmac_bits": 128}, "signature.profile", "c14n", 128),
    "exclusive, refused": ({"c14n": EXC}, "signature.profile", "exc-c14n", 256),
    "both, refused": ({"c14n": EXC, "hmac_bits": 160}, "signature.profile", "exc-c14n", 160),
    "c14n11": ({"c14n": C14N11}, "signature.profile", "c14n11", 256),
    "comments": ({"c14n": C14N + "#WithComments"}, "signature.profile", "c14n-comments", 256),
    "exclusive, comments": ({"c14n": EXC + "WithComments"}, "signature.profile", "exc-c14n-comments", 256),
    "c14n11, comments": ({"c14n": C14N11 + "#WithComments"}, "signature.profile", "c14n11-comments", 256),
    "another HMAC": ({"method": "http://www.w3.org/2000/09/xmldsig#hmac-sha1"}, "signature.profile", "c14n", None),
}


@pytest.mark.parametrize("case", NAMED)
def test_what_the_signature_names(bench, alice, case):
    sig, reason, c14n, bits = NAMED[case]
    _, d = post(bench, alice, sig=sig)
    assert (d["reason"], d["claims"].get("c14n"), d["claims"].get("hmac_bits")) == (reason, c14n, bits)


def test_what_a_rule_takes_is_named_too(bench, alice):
    _, d = post(bench, alice, sig={"c14n": EXC, "hmac_bits": 128}, ClientId="loose")
    assert (d["reason"], d["claims"]["c14n"], d["claims"]["hmac_bits"]) == ("ok", "exc-c14n", 128)


@pytest.mark.parametrize("length", ["", "x", "-1", "99999999999999999999"])
def test_a_length_that_is_none_is_not_told(bench, alice, length):
    body = kms.signed_request(alice, bench.gate.url("/keyprov"), sig={"hmac_bits": 128}).replace(
        b"HMACOutputLength>128<", b"HMACOutputLength>%s<" % length.encode())
    _, d = post(bench, alice, body=body)
    assert d["reason"] == "signature.profile" and "hmac_bits" not in d["claims"] and d["claims"]["c14n"] == "c14n"


def test_unsigned_names_nothing(bench, alice):
    bench.upstream.says(b"")
    _, d = bench.ask_bare(alice, "/keyprov", b"")
    assert d["form"] == "unsigned" and d["claims"]["time"] and not {"c14n", "hmac_bits"} & set(d["claims"])


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GOOD = "00-%s-%s-01" % (TRACE, PARENT)


def traceparent(heads):
    """The one that the upstream got: (trace, parent, flags)."""
    found = re.findall(r"(?im)^traceparent:\s*(.*?)\r?$", heads[0])
    assert len(heads) == 1 and len(found) == 1, heads
    version, trace, parent, flags = found[0].split("-")
    assert version == "00" and re.fullmatch("[0-9a-f]{16}", parent) and parent not in (PARENT, "0" * 16)
    return trace, parent, flags


@pytest.mark.parametrize("value,flags", [(GOOD, "01"), (GOOD[:-2] + "00", "00"), (GOOD[:-2] + "ff", "01"),
                                         ("cc" + GOOD[2:], "01")])
def test_the_clients_trace_goes_on(bench, alice, value, flags):
    first, d = post(bench, alice, {"Traceparent": value})
    again, _ = post(bench, alice, {"traceparent": value})
    assert d["reason"] == "ok" and d["trace_id"] == TRACE != d["id"]
    assert traceparent(first)[::2] == traceparent(again)[::2] == (TRACE, flags)
    assert traceparent(first)[1] != traceparent(again)[1]


MALFORMED = {
    "none": None, "empty": "", "too short": GOOD[:-1], "cut": "00-" + TRACE, "upper case trace": GOOD.replace("f", "F"),
    "upper case flags": GOOD[:-2] + "0A", "trace all zero": GOOD.replace(TRACE, "0" * 32), "no hex": GOOD.replace("4b", "4g"),
    "parent all zero": GOOD.replace(PARENT, "0" * 16), "version ff": "ff" + GOOD[2:], "extra field": GOOD + "-00",
    "extra field of a later version": "01" + GOOD[2:] + "-what", "long": GOOD + "0", "other dashes": GOOD.replace("-", "_"),
    "a list": GOOD + "," + GOOD,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_traceparent_is_replaced(bench, alice, case):
    value = MALFORMED[case]
    heads, d = post(bench, alice, {} if value is None else {"traceparent": value})
    assert d["reason"] == "ok" and d["trace_id"] == d["id"]
    trace, _, flags = traceparent(heads)
    assert (trace, flags) == (d["id"], "00") and TRACE not in heads[0]


def raw(bench, head, body=b""):
    with socket.create_connection(("127.0.0.1", bench.gate.port), timeout=10) as s:
        s.sendall(head.encode() + body)
        got = b""
        while chunk := s.recv(65536):
            got += chunk
    return re.search(rb"(?i)x-request-id: (\w+)", got)[1].decode()


class Told:
    def __init__(self, ident):
        self.headers = {"X-Request-Id": ident}


def test_a_doubled_traceparent_is_replaced(bench, alice):
    bench.upstream.says(response(key_prov(key_set(Keys(), alice.uri)), user=alice.uri))
    body = kms.signed_request(alice, bench.gate.url("/keyprov"))
    before = len(bench.upstream.seen)
    ident = raw(bench, "POST %s/keyprov HTTP/1.1\r\nHost: kms.example.org\r\nContent-Type: application/xml\r\n"
                "Content-Length: %d\r\nConnection: close\r\ntraceparent: %s\r\nTraceParent: %s\r\n\r\n"
                % (kms.BASE, len(body), GOOD, GOOD), body)
    d = bench.decision(Told(ident))
    assert d["reason"] == "ok" and d["trace_id"] == ident
    assert traceparent([h.decode() for h, _ in bench.upstream.seen[before:]])[0] == ident


def test_a_tracestate_passes_only_with_its_trace(bench, alice):
    heads, _ = post(bench, alice, {"traceparent": GOOD, "tracestate": "radio=1"}, ClientId="state")
    assert "tracestate: radio=1" in heads[0].lower()
    for sent in ({"tracestate": "radio=1"}, {"traceparent": GOOD[:-1], "tracestate": "radio=1"}):
        heads, d = post(bench, alice, sent, ClientId="state")
        assert d["reason"] == "ok" and "tracestate" not in heads[0].lower()


@pytest.mark.parametrize("forward", ["{ pass: [traceparent] }", "{ pass: [TraceParent] }", "{ headers: { traceparent: x } }"])
def test_no_rule_names_it(bench, forward, tmp_path):
    (tmp_path / "r.yaml").write_text(RULES.replace("id: everyone }", "id: everyone, forward: %s }" % forward))
    r = bench.gate.run("check", tmp_path / "r.yaml", check=False)
    assert r.returncode == 1 and re.search("header `[tT]race[pP]arent` is", r.stderr), r.stderr


def test_every_line_holds_by_the_schema(bench, alice):
    """All that this file has made, and what is refused early, late, and let through by shadow."""
    for over in ({}, {"KmsUri": "elsewhere"}, {"KmsUri": "elsewhere", "ClientId": "shadow"}, {"Time": kms.now(-9999)},
                 {"signer": ("nobody", b"k" * 32)}, {"signer": (alice.ink_id, b"k" * 32)}, {"ClientId": "c" * 300 + "\u00e9"},
                 {"sig": {"hmac_bits": 128}, "ClientId": "loose"}):
        post(bench, alice, **over)
    for body in (b"", b"<a", b"<!DOCTYPE a><a/>", b"<a/>"):
        post(bench, alice, body=body)
    post(bench, alice, path="/nothing", body=b"<a/>")
    post(bench, alice, {"Content-Type": "text/plain"})
    for status in (200, 404, 500):
        bench.ask(alice, "/keyprov", b"no XML", status=status)
    bench.ask_bare(alice, "/keyprov", b"")
    bench.decision(Told(raw(bench, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")))
    lines = list(bench.decisions.values())
    assert len(lines) >= 19 and len({d["reason"] for d in lines}) >= 10
    faults = ["%s: %s" % (e.json_path, e.message) for d in lines for e in VALIDATOR.iter_errors(d)]
    assert not faults, "\n".join(sorted(set(faults)))
    for bad in ({"token": "x"}, {"id": "x"}, {"reason": "why"}, {"claims": {"body": "x"}}, {"status": "200"}):
        assert list(VALIDATOR.iter_errors({**lines[0], **bad})), bad
    assert list(VALIDATOR.iter_errors({k: v for k, v in lines[0].items() if k != "verdict"}))
