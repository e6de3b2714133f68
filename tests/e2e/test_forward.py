"""What goes to the upstream, seen there: methods, bodies, headers."""
import json
import socket

import pytest
from lxml import etree

import kms
from kms import q
from scripted import Keys, key_prov, key_set, of_a_file, response

METHODS = {"post": "{}", "get": "{ method: GET }", "get-empty": "{ method: GET, body: empty }",
           "put": "{ method: PUT, body: json }", "request": "{ body: request }", "signed": "{ body: signed }",
           "empty": "{ body: empty }", "json": "{ body: json }",
           "headers": '{ headers: { X-3GPP-Asserted-Identity: "{user}", X-All: "{rule}/{client_id}/{device_id}/{key_id}",'
                      ' X-Fixed: yes, Authorization: Basic eA==, User-Agent: gate }, pass: [X-Fleet] }'}
UNPROVEN = {"told": "{ headers: { X-User: \"{user}\", X-Key: \"k{key_id}\" }, assert_unproven: on }",
            "json-told": "{ body: json }", "signed-told": "{ body: signed }"}
RULES = ("version: 1\nkms: { uris: [kms.example.org] }\nerrors: { detail: reason }\nrequests:\n" +
         "".join("  - { id: %s, match: { client_id: %s }, forward: %s }\n" % (n, n, f) for n, f in METHODS.items()) +
         "".join("  - { id: %s, why: a test, match: { client_id: %s }, accept: [unsigned], forward: %s }\n" % (n, n, f)
                 for n, f in UNPROVEN.items()) +
         "  - { id: any-json, match: { device_id: any-json }, forward: { body: json } }\n"
         "  - { id: nobody, why: a test, match: { form: empty, path: '/**/keyprov/**' }, accept: [empty], forward: { body: json } }\n"
         "  - { id: token, why: a test, match: { form: empty }, accept: [empty], forward: { method: GET } }\n"
         "  - { id: everyone }\nresponses:\n  - { id: unsigned, match: { form: [unsigned, empty] }, encrypt: { when: never } }\n"
         "  - { id: default }\n")


alice, bench = of_a_file(RULES)


class Seen:
    def __init__(self, head, body):
        lines = head.decode().split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.headers = [tuple(x.split(": ", 1)) if ": " in x else (x.rstrip(":"), "") for x in lines[1:]]
        self.body = body

    def __getitem__(self, name):
        got = [v for k, v in self.headers if k.lower() == name.lower()]
        assert len(got) < 2, got
        return got[0] if got else None


def good(user):
    return response(key_prov(key_set(Keys(), user.uri)), user=user.uri)


def send(bench, user, case, **over):
    before = len(bench.upstream.seen)
    reply, decision = bench.ask(user, "/keyprov", good(user), case=case, **over)
    assert reply.status == 200 and decision["reason"] == "ok", reply.body
    assert reply.verify(user.ink, user.ink_id) and len(reply.keys(user.trk, user.trk_id)) == 3
    assert len(bench.upstream.seen) == before + 1
    return Seen(*bench.upstream.seen[-1])


@pytest.mark.parametrize("case,method", [("post", "POST"), ("get", "GET"), ("get-empty", "GET"), ("put", "PUT")])
def test_methods(bench, alice, case, method):
    seen = send(bench, alice, case)
    assert seen.method == method and seen.target == kms.BASE + "/keyprov"
    if method == "GET":
        assert seen.body == b"" and seen["Content-Type"] is None and seen["Content-Length"] is None
        assert seen["Transfer-Encoding"] is None
    else:
        assert seen["Content-Length"] == str(len(seen.body)) and seen.body


def test_the_client_is_to_post_whatever_goes_on(bench, alice):
    import http.client
    c = http.client.HTTPConnection("127.0.0.1", bench.gate.port, timeout=10)
    c.request("GET", kms.BASE + "/keyprov")
    assert c.getresponse().status == 405


def test_body_request(bench, alice):
    seen = send(bench, alice, "request")
    root = etree.fromstring(seen.body)
    assert root.tag == q("KmsRequest") and root.findtext(q("UserUri")) == alice.uri
    assert root.find(q("TrK-ID")) is None and root.find(q("Signature-ID")) is None and b"Signature" not in seen.body
    assert seen["Content-Type"] == "application/xml"


def test_body_signed(bench, alice):
    """The very bytes: an upstream that knows the security extension verifies them itself."""
    bench.upstream.says(good(alice))
    body = kms.signed_request(alice, bench.gate.url("/keyprov"), ClientId="signed")
    assert bench.gate.post("/keyprov", body).status == 200
    seen = Seen(*bench.upstream.seen[-1])
    assert seen.body == body and seen["Content-Type"] == "application/xml"


def test_body_empty(bench, alice):
    seen = send(bench, alice, "empty")
    assert (seen.method, seen.body, seen["Content-Length"], seen["Content-Type"]) == ("POST", b"", "0", None)


def test_body_json(bench, alice):
    for case, method in (("json", "POST"), ("put", "PUT")):
        seen = send(bench, alice, case)
        assert seen.method == method and seen["Content-Type"] == "application/json"
        assert json.loads(seen.body) == {"UserUri": alice.uri, "ClientId": case}


def test_headers(bench, alice):
    seen = send(bench, alice, "headers", DeviceId="radio-7")
    assert seen["X-3GPP-Asserted-Identity"] == alice.uri and seen["X-Fixed"] == "yes"
    assert seen["X-All"] == "headers/headers/radio-7/" + alice.ink_id


def test_the_client_does_not_speak_with_the_gateways_voice(bench, alice):
    """Forged headers, in any spelling, do not pass; what a rule sets stands once."""
    bench.upstream.says(good(alice))
    body = kms.signed_request(alice, bench.gate.url("/keyprov"), ClientId="headers")
    sent = {"X-3GPP-Asserted-Identity": "sip:bob@example.org", "x_3gpp_asserted_identity": "sip:bob@example.org",
            "X-Fixed": "no", "Authorization": "Bearer forged", "User-Agent": "client", "X-Fleet": "7", "X-Other": "8",
            "Cookie": "a=b", "X-Forwarded-User": "sip:bob@example.org"}
    assert bench.gate.post("/keyprov", body, headers=sent).status == 200
    seen = Seen(*bench.upstream.seen[-1])
    assert seen["X-3GPP-Asserted-Identity"] == alice.uri and seen["X-Fixed"] == "yes" and seen["X-Fleet"] == "7"
    assert seen["Authorization"] == "Basic eA==" and seen["User-Agent"] == "gate"
    for absent in ("x_3gpp_asserted_identity", "X-Other", "Cookie", "X-Forwarded-User"):
        assert seen[absent] is None
    assert "bob" not in str(seen.headers)


@pytest.mark.parametrize("text", ["radio\r\nX-3GPP-Asserted-Identity: sip:bob@example.org", "radio\n7", "radio\t7",
                                  "radio\u00857", "radio\u007f7"])
def test_injection_through_headers(bench, alice, text):
    before = len(bench.upstream.seen)
    reply, decision = bench.ask(alice, "/keyprov", good(alice), case="headers", DeviceId=text.replace("\r", ""))
    assert (reply.status, decision["reason"]) == (400, "xml.invalid")
    assert len(bench.upstream.seen) == before
    send(bench, alice, "headers", DeviceId="radio 7")


@pytest.mark.parametrize("text", ['json","UserUri":"sip:bob@example.org', "json\\", "json\n\t\u2028\U0001f600"])
def test_injection_through_json(bench, alice, text):
    seen = send(bench, alice, text, DeviceId="any-json")
    assert json.loads(seen.body) == {"UserUri": alice.uri, "ClientId": text}
    reply, _ = bench.ask_bare(alice, "/keyprov", good(alice), case="json-told")
    assert reply.status == 200
    assert json.loads(bench.upstream.seen[-1][1]) == {"UserUri": alice.uri, "ClientId": "json-told"}


def test_unproven_users_are_told_where_the_rule_vouches(bench, alice):
    reply, decision = bench.ask_bare(alice, "/keyprov", good(alice), case="told")
    assert reply.status == 200 and decision["proven"] is False and not reply.signed
    seen = Seen(*bench.upstream.seen[-1])
    assert seen["X-User"] == alice.uri and seen["X-Key"] == "k"
    reply, _ = bench.ask_bare(alice, "/keyprov", good(alice), case="signed-told")
    assert reply.status == 200 and etree.fromstring(bench.upstream.seen[-1][1]).tag == q("KmsRequest")


def test_empty_requests(bench, alice):
    path = "/keyprov/sip%3Aalice%40example.org"
    reply, decision = bench.ask_empty(path, good(alice))
    assert reply.status == 200 and decision["rule"] == "nobody"
    seen = Seen(*bench.upstream.seen[-1])
    assert json.loads(seen.body) == {"UserUri": alice.uri} and seen.target == kms.BASE + path
    reply, decision = bench.ask_empty("/keyprov", good(alice))
    assert reply.status == 200 and decision["rule"] == "token"
    seen = Seen(*bench.upstream.seen[-1])
    assert (seen.method, seen.body, seen["Content-Length"]) == ("GET", b"", None)


def test_a_call_is_made_once(bench, alice):
    """An upstream that closes a kept connection without an answer is not asked again, with a body or without one."""
    for case in ("get", "post", "empty"):
        send(bench, alice, case)  # now there is a connection to be used again
        before = len(bench.upstream.seen)
        reply, decision = bench.ask(alice, "/keyprov", b"", case=case, raw=b"", close=True)
        assert reply.status == 502 and decision["reason"] == "upstream.unreachable", decision
        assert len(bench.upstream.seen) == before + 1


@pytest.mark.parametrize("content", ["application/octet-stream", "application/x-www-form-urlencoded", "text/plain"])
def test_no_body_has_no_type(bench, content):
    """What libraries write into the head of an empty POST says nothing; with a body it does."""
    path = "/keyprov/sip%3Anobody%40example.org"
    plain = bench.gate.post(path, b"")
    typed = bench.gate.post(path, b"", headers={"Content-Type": content, "Content-Length": "0"})
    assert typed.status == plain.status != 415
    assert bench.gate.post(path, b"x", headers={"Content-Type": content}).status == 415


def chunked(bench, content, *chunks):
    """The status of a request of that type, sent in chunks; the last ones after an answer was waited for in vain."""
    with socket.create_connection(("127.0.0.1", bench.gate.port), timeout=20) as s:
        s.sendall(b"POST %s/keyprov/sip%%3Anobody%%40example.org HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n"
                  b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" % (kms.BASE.encode(), content.encode()))
        for chunk in chunks:
            s.sendall(chunk)
        data = b""
        while b"\r\n" not in data:
            more = s.recv(4096)
            assert more, data
            data += more
        return int(data.split(b" ")[1])


@pytest.mark.parametrize("content", ["application/octet-stream", "text/plain"])
def test_an_empty_body_is_empty_in_chunks_too(bench, content):
    """However it is framed. The first octet of one that is not decides: nothing more of it is read."""
    plain = bench.gate.post("/keyprov/sip%3Anobody%40example.org", b"").status
    assert chunked(bench, content, b"0\r\n\r\n") == plain != 415
    assert chunked(bench, content, b"0", b"00\r\n", b"\r\n") == plain
    assert chunked(bench, content, b"1\r\n") == 415  # before the octet itself
    assert chunked(bench, content, b"ffffff") == 415  # and before it is called too large
    assert chunked(bench, content, b"x\r\n") == 400
    assert chunked(bench, "text/xml", b"ffffff") == 413
