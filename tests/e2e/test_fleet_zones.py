"""Clocks that show something else: the server's own, set back; and Times without a zone, when the shared memory loses what it
had and rules read such Times further west. What was accepted as of one instant would be as good as new an hour later, behind
every floor."""
import signal
import subprocess
from pathlib import Path

import pytest

import kms
from test_fleet import EPOCH, RULES as WINDOWS, Fleet, errors, fleet, refused, url  # noqa: F401
from test_fleet_failures import accept_some, honest, once, replays_until_honest, unready
from test_restart_replay import faked, needs_faketime

HERE = Path(__file__).parent
RULES = WINDOWS.replace("future: %s", 'future: %s, assume_zone: "%s"')
EAST, WEST, HOUR = RULES % ("2m", "2s", "+01:00"), RULES % ("2m", "2s", "UTC"), 3600
SETS = """local n = 0
for _, k in ipairs(redis.call('KEYS', '{kmsgate}:*')) do
  if redis.call('TYPE', k).ok == 'zset' then n = n + redis.call('DEL', k) end
end
return n"""


def server_clock(folder, file):
    """What makes redis-server believe in a clock that is ahead by what stands in the file."""
    library = folder / "wall_clock.so"
    subprocess.run(["cc", "-Wall", "-Werror", "-O1", "-fPIC", "-shared", "-o", library, HERE / "wall_clock.c"], check=True)
    return {"LD_PRELOAD": str(library), "WALL_CLOCK": str(file)}


class Clocks:
    """Gateways and their server, whose clocks are set together."""

    def __init__(self, fleet):
        self.fleet, self.ahead = fleet, 0
        self.file, self.env = faked(fleet.folder, "+0s")
        self.redis = fleet.redis(env=server_clock(fleet.folder, self.file))

    def gateway(self, rules, **kw):
        return self.fleet.gateway(url(self.redis), rules=rules, config="sandbox: off", env=self.env, **kw)

    def set(self, ahead):
        self.ahead = ahead
        self.file.write_text("%+ds\n" % ahead)

    def zoneless(self, g, path, hours=0):
        """A request that says what clocks show so far east of UTC; what was posted, and its reply."""
        body = kms.signed_request(self.fleet.users[0], g.url(path), Time=kms.now(self.ahead + HOUR * hours)[:-1])
        return body, g.post(path, body)

    def all_pass(self, gates):
        kms.wait_for(lambda: all(self.fleet.ask(g, ahead=self.ahead)[1].status == 200 for g in gates))

    def floor(self):
        return int(self.redis("GET", EPOCH).split()[2])


def all_is_lost(c, gates):
    """What gateways know of what they asked for is left."""
    c.redis("FLUSHALL")


def records_are_left(c, gates):
    """Only these, and a promotion opens an epoch; of the gateways that asked there is none any more."""
    for g in gates:
        assert g.running.stop() == 0
    assert c.redis("EVAL", SETS, "0") == "1"
    c.redis("REPLICAOF", "127.0.0.1", 1)
    c.redis("REPLICAOF", "NO", "ONE")


def nothing_is_lost(c, gates):
    pass


@needs_faketime
@pytest.mark.parametrize("lose", [all_is_lost, records_are_left, nothing_is_lost])
def test_a_zone_further_west(fleet, lose):
    c = Clocks(fleet)
    a, b = gates = [c.gateway(EAST) for _ in range(2)]
    c.all_pass(gates)
    body, reply = c.zoneless(a, "/init?t=0", 1)
    assert reply.status == 200, reply.error
    floor = c.floor()
    lose(c, gates)
    for g in gates:
        (g.folder / "rules.yaml").write_text(WEST)
        if g.running.p.poll() is None:
            before = g.admin("/rules")[1]
            g.running.p.send_signal(signal.SIGHUP)
            kms.wait_for(lambda: g.admin("/rules")[1] != before)
        else:
            g.start(env=c.env)
    c.all_pass(gates)
    assert (c.floor() == floor) == (lose is nothing_is_lost)
    c.set(HOUR)
    c.all_pass(gates)  # their clocks are together again
    due = "replay.seen" if lose is nothing_is_lost else "replay.unavailable"
    assert [g.post("/init?t=0", body).error for g in gates] == [due] * 2
    # what clocks show later than any that was accepted passes
    kms.wait_for(lambda: all(c.zoneless(g, "/init")[1].status == 200 for g in gates))
    assert fleet.upstream_saw()[kms.BASE + "/init?t=0"] == 1


def test_the_servers_clock_goes_ahead_and_back(fleet):
    """What it forgot while it was ahead is not accepted again: another epoch begins."""
    file = fleet.folder / "clock"
    file.write_text("0")
    r = fleet.redis(env=server_clock(fleet.folder, file))
    a, b = (fleet.gateway(url(r)) for _ in range(2))
    kms.wait_for(lambda: honest(fleet, a) and honest(fleet, b))
    sent = accept_some(fleet, a)
    floor = int(r("GET", EPOCH).split()[2])
    file.write_text("+600s\n")
    unready(a, "clock")
    assert refused(fleet.ask(b)[1]) and errors(b, "clock") > 0
    kms.wait_for(lambda: r("EVAL", SETS.replace("redis.call('DEL', k)", "1"), "0") == "0")  # all forgotten
    file.write_text("+0s\n")
    kms.wait_for(lambda: int(r("GET", EPOCH).split()[2]) > floor)
    replays_until_honest(fleet, [a, b], sent)
    once(fleet)
