"""Failovers by Redis' own Sentinels: the primary is found, lost, and found again; what it had accepted is not accepted again."""
import signal
import time

import pytest

import kms
from test_fleet import Fleet, SHORT, errors, fleet, refused  # noqa: F401
from test_fleet_failures import accept_some, honest, once, replays_until_honest, unready


def sentinel_url(made):
    return "redis+sentinel://%s/kms" % ",".join("127.0.0.1:%d" % s.port for s in made)


def port_of(made):
    return int(made("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "kms").split("\n")[1])


def turned_back(watchers, primary):
    """Sentinel gives a failover up that it does not bring to an end in time, and nobody asks again where nothing is down.

    Only the one that was asked tells whether to ask again: the others learn of the end later, and a second failover
    would turn it round."""
    if port_of(watchers[0]) == primary.port:
        return all(port_of(s) == primary.port for s in watchers)
    try:
        watchers[0]("SENTINEL", "FAILOVER", "kms")
    except Exception:
        pass  # one is under way, or no replica is good enough yet
    time.sleep(3)
    return False


@pytest.mark.parametrize("lost", [False, True], ids=["replicated", "not replicated"])
def test_a_failover(fleet, lost):
    """`lost`: the replica never gets what was accepted last, and the gateways do not wait for it."""
    primary = fleet.redis()
    replica = fleet.replica(primary)
    watchers = fleet.sentinels(primary)
    kms.wait_for(lambda: all("slaves=1" in s("INFO", "sentinel") for s in watchers))
    a, b = (fleet.gateway(sentinel_url(watchers), wait_replicas=0 if lost else None) for _ in range(2))
    if lost:
        replica.pause()
    sent = accept_some(fleet, a)
    primary.stop(signal.SIGKILL)
    kms.wait_for(lambda: refused(fleet.ask(b)[1]))
    replica.resume()
    kms.wait_for(lambda: all(port_of(s) == replica.port for s in watchers), 120)
    if lost:
        replays_until_honest(fleet, [a, b], sent)
    else:  # one must follow again: a gateway waits for it by default
        primary.start()
        kms.wait_for(lambda: primary.info("replication", "role") == "slave" and
                     primary.info("replication", "master_link_status") == "up", 120)
        replays_until_honest(fleet, [a, b], sent)
    once(fleet)
    kms.wait_for(a.ready)
    # and back, by hand, without a word of loss
    if not lost:
        sent = accept_some(fleet, b)
        kms.wait_for(lambda: turned_back(watchers, primary), 120)
        kms.wait_for(lambda: replica.info("replication", "role") == "slave" and
                     replica.info("replication", "master_link_status") == "up", 120)
        replays_until_honest(fleet, [a, b], sent)
        once(fleet)


def test_sentinels_that_do_not_know_or_are_away(fleet):
    primary = fleet.redis()
    watchers = fleet.sentinels(primary)
    dead = kms.free_port()
    g = fleet.gateway("redis+sentinel://127.0.0.1:%d,127.0.0.1:%d/kms" % (dead, watchers[0].port), wait_replicas=0)
    kms.wait_for(lambda: honest(fleet, g))
    lost = fleet.gateway("redis+sentinel://127.0.0.1:%d/other" % watchers[1].port, ready=False)
    unready(lost, "sentinel")
    assert refused(fleet.ask(lost)[1]) and "knows no primary called other" in lost.running.err
    away = fleet.gateway("redis+sentinel://127.0.0.1:%d/kms" % dead, ready=False)
    unready(away, "sentinel")
