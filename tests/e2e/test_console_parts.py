"""What the console says of the parts behind a gateway, real ones: a shared replay memory, keys in PostgreSQL, captures; and the
page over TLS behind its sign-in."""
import json
import re
from pathlib import Path

import pytest

import kms
import postgres
from browser_driver import Browser
from conftest import BUILD
from kms import wait_for
from test_admin_tls import TOKEN, Secured
from test_captures import CAPTURES, RULES, stale
from test_console import Page
from test_fleet import Fleet
from test_restart_replay import faked, needs_faketime

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def browser():
    b = Browser(BUILD)
    yield b
    b.close()


def test_the_shared_replay_memory(browser, tmp_path, alice):
    """Where it is, what is wrong with it, and what to do; and that it is over again."""
    fleet = Fleet(tmp_path, [alice])
    try:
        redis = fleet.redis()
        g = fleet.gateway("redis://127.0.0.1:%d" % redis.port)
        page = Page(browser, g)
        row = r"Replay memory\s+ready\s+shared, at redis://127\.0\.0\.1:%d; a Time is accepted from" % redis.port
        page.says("#engines", row)
        assert "remembered" not in page.text("#engines"), "nobody here can count it"
        redis("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        page.says("#troubles", r"Now: Signed requests are refused: the shared replay memory would forget when it is full\."
                               r"\s+What to do: Set maxmemory-policy noeviction at the Redis server")
        assert "replay: eviction" in page.text("#engines") and page.text("#word") == "replay: eviction"
        redis("CONFIG", "SET", "maxmemory-policy", "noeviction")
        page.says("#engines", row)
        redis.stop()
        page.says("#troubles", r"there is no connection to the shared replay memory\.\s+What to do: See whether Redis runs")
        redis.start()
        page.says("#troubles", "nothing needs attention")
        assert [f for f in browser("told")["faults"] if "503" not in f] == []
    finally:
        fleet.end()


def test_each_word_has_its_own_sentence():
    """/readyz's words of the shared memory, from the list that the gateway has them from."""
    listed = re.findall(r'^    X\(\w+, "(\w+)"\)', (ROOT / "gateway/replay/redis.h").read_text(), re.M)
    assert "connection" in listed and len(listed) > 12
    told = re.findall(r'^    \{"replay: (\w+)", SHARED', (ROOT / "gateway/http/console_state.c").read_text(), re.M)
    assert sorted(told) == sorted(set(listed) - {"fine", "starting"})


def test_keys_in_postgresql(browser, gateway, alice):
    cluster = postgres.Cluster()
    try:
        g = gateway(users=[alice], keys=cluster.socket_url(cluster.database()))
        page = Page(browser, g)
        page.says("#engines", r"Key store\s+in step\s+postgresql://")
        page.says("#chart", "at most 0 a second")
        page.says("#unused", "no rule in force is an exception")
        cluster.pause()
        page.says("#troubles", r"Soon: For \d+ s no change of the key database postgresql://\S+ could be taken over\.\s+"
                               r"What to do: See whether PostgreSQL runs and can be reached")
        page.says("#engines", r"Key store\s+not in step for \d+ s\s+postgresql://")
        assert g.ask(alice, "/init").status == 200
        cluster.resume()
        page.says("#engines", r"Key store\s+in step")
        page.says("#troubles", "nothing needs attention")
        page.in_order()
    finally:
        g.stop()
        g.running = g.legacy = None
        cluster.end()


def test_which_decisions_have_a_capture(browser, gateway, alice, bob):
    g = gateway([alice, bob], rules=RULES, config=CAPTURES)
    _, ident = stale(g, alice)
    stale(g, bob)
    g.decisions(2)
    page = Page(browser, g)
    page.wait("#lines li", 2)
    lines = [page.text("#lines li:nth-child(%d)" % n) for n in (1, 2)]
    assert ["captured" in x for x in sorted(lines, key=lambda x: "alice" in x)] == [False, True], lines
    browser("fill", at="#filters [name=user]", text="alice")
    wait_for(lambda: page.count("#lines li") == 1)
    browser("click", at="#lines button")
    page.wait("dialog[open]")
    command = page.run("document.querySelector('dialog pre').textContent")
    assert "Its body was kept" in page.text("dialog") and "--capture=" + ident in command
    ran = kms.subprocess.run(["bash", "-c", "kmsgate() { %s \"$@\"; }; " % (BUILD / "kmsgate") + command],
                             capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and "time.stale" in ran.stdout, ran.stdout + ran.stderr
    page.in_order()


@pytest.fixture
def secured(tmp_path, alice):
    g = Secured(tmp_path, [alice])
    g.start()
    yield g
    assert g.stop() == 0 and "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err


@pytest.mark.parametrize("width,theme", [(1280, "light"), (360, "dark")])
def test_over_tls_behind_the_sign_in(browser, secured, alice, width, theme):
    g = secured
    url = "https://127.0.0.1:%d/" % g.admin_port
    opened = browser("open", url=url, insecure=True, width=width, theme=theme)
    assert opened["status"] == 401 and browser("axe")["violations"] == []
    assert browser("run", script="document.scrollingElement.scrollWidth <= window.innerWidth")

    def sign_in(token):
        browser("fill", at="#token", text=token)
        browser("press", key="Enter")
    sign_in("another")
    wait_for(lambda: "This is not the admin token" in browser("text", at="body"))
    assert browser("axe")["violations"] == []
    sign_in(TOKEN)
    wait_for(lambda: browser("count", at="#ruled table"))
    g.ask(alice, "/init")
    wait_for(lambda: browser("count", at="#lines li") == 1)
    assert browser("run", script="document.cookie") == "", "no script reads the session"
    assert browser("run", script="document.scrollingElement.scrollWidth <= window.innerWidth")
    assert browser("axe")["violations"] == []
    asked = browser("told")["asked"]
    assert [a for a in asked if " " + url not in a] == [] and any(a.endswith("/console/text.js") for a in asked)
    # A session that is over, here with the process that knew it: the form comes by itself.
    assert g.running.stop() == 0
    g.start()
    wait_for(lambda: browser("count", at="#token"), 60)
    for n in range(5):
        sign_in("wrong%d" % n)
        wait_for(lambda: "This is not the admin token" in browser("text", at="body"))
    sign_in(TOKEN)
    wait_for(lambda: "Too many tries" in browser("text", at="body"))
    assert browser("axe")["violations"] == [] and browser("count", at="#ruled") == 0
    assert g.get("/api/state")[0] == 200 and json.loads(g.get("/api/state")[1])["signed_in"]


@needs_faketime
def test_a_page_that_nobody_touches_signs_out(browser, tmp_path, alice):
    """It asks by itself, which keeps no session; who does something in it stays."""
    g = Secured(tmp_path, [alice])
    clock, env = faked(tmp_path, "+0s")
    del env["FAKETIME_DONT_FAKE_MONOTONIC"]
    g.start(env=env)
    try:
        browser("open", url="https://127.0.0.1:%d/" % g.admin_port, insecure=True)
        browser("fill", at="#token", text=TOKEN)
        browser("press", key="Enter")
        wait_for(lambda: browser("count", at="#ruled table"))

        def later(minutes):
            """The page asks twice at that time."""
            browser("run", script="document.getElementById('hold').focus(); document.activeElement.blur()")  # as the page does
            clock.write_text("+%dm\n" % minutes)
            at = browser("told")["asked"].count("GET https://127.0.0.1:%d/api/state" % g.admin_port)
            wait_for(lambda: browser("count", at="#token") or
                     browser("told")["asked"].count("GET https://127.0.0.1:%d/api/state" % g.admin_port) > at + 1, 60)
            return browser("count", at="#token") == 0
        assert later(10)
        browser("press", key="ArrowDown")
        assert later(11) and later(24), "twice thirteen minutes, and a key between"
        browser("run", script="{ const n = performance.now.bind(performance); performance.now = () => n() + 14.5 * 60000 }")
        wait_for(lambda: "Press any key to stay" in browser("text", at="#leaving"))
        browser("press", key="ArrowDown")
        wait_for(lambda: browser("count", at="#leaving:empty"))
        assert later(24) and later(38)
        assert not later(52) and "Admin token" in browser("text", at="main")
    finally:
        g.running.p.kill()  # its threads wait for minutes of that clock
        g.stop()
    assert "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err
