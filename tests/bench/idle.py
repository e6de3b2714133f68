"""What a kept connection holds, and what stays held when many have gone."""
import contextlib
import json
import resource
import socket
import subprocess
import time

import house


def connections(admin):
    """As the gateway counts them."""
    with contextlib.suppress(OSError, IndexError), socket.create_connection(("127.0.0.1", admin), 10) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        text = b""
        while more := s.recv(65536):
            text += more
        return int(text.split(b"\nkmsgate_connections ")[1].split()[0])
    return -1


def settled(pid, still=5, most=120):
    """Its resident memory once that has been the same for a while, in KiB."""
    last, same = house.rss_kb(pid), 0
    for _ in range(most):
        time.sleep(0.2)
        now = house.rss_kb(pid)
        same = same + 1 if abs(now - last) < 64 else 0
        last = now
        if same >= still:
            break
    return last


def fresh(h, n, users, decisions="none"):
    """Without a log of decisions: how much of it waits to be written depends on who else has the machine."""
    return h.gateway(users=users, decisions=decisions, limits="connections: %d, header_timeout: 600s, idle_timeout: 600s" % (n + 500))


def warm(h, gate, users):
    """All that it keeps for good is there then."""
    h.load(gate.port, 64, 60, "count=3000", users=users)
    h.wait(lambda: connections(gate.admin) == 0, "the end of the warming")
    return settled(gate.pid)


def before_a_request(h, n, users):
    """Of the second half alone: the first one takes up what was free."""
    kept, sizes = [], []
    with h.upstream(), fresh(h, n, users) as gate:
        warm(h, gate, users)
        for many in (n // 2, n):
            kept += [socket.create_connection(("127.0.0.1", gate.port)) for _ in range(many - len(kept))]
            h.wait(lambda: connections(gate.admin) == many, "%d connections" % many)
            sizes.append(settled(gate.pid))
        for s in kept:
            s.close()
    return (sizes[1] - sizes[0]) * 1024 / (n - n // 2)


def held(h, gate, n, users):
    """So many connections with a request each that stay open; and whoever holds them."""
    argv = [h.build / "bench_load", "run", gate.port, house.URL, h.users(users), n, 1000, "active=16", "count=%d" % n,
            "hold"]
    p = subprocess.Popen(list(map(str, argv)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    h.running.append(p)
    row = json.loads(p.stdout.readline())
    assert row["requests"] == n and not row["errors"], row
    return p


def after_a_request(h, n, users):
    """Octets each, likewise, and MiB that are held more than before when they have gone."""
    with h.upstream(), fresh(h, n, users) as gate:
        base = warm(h, gate, users)
        both, sizes = [], []
        for many in (n // 2, n):
            both.append(held(h, gate, n // 2, users))
            assert connections(gate.admin) == many
            sizes.append(settled(gate.pid))
        for p in both:
            p.stdin.close()
            p.wait()
            h.running.remove(p)
        h.wait(lambda: connections(gate.admin) == 0, "the end of the connections")
        after = settled(gate.pid, still=10)
    return (sizes[1] - sizes[0]) * 1024 / (n // 2), (after - base) / 1024


def idle(h, smoke):
    n, users = (100, 20) if smoke else (10000, 1000)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    before = before_a_request(h, n, users)
    after, held = after_a_request(h, n, users)
    h.note(bench="idle", connections=n, before=round(before), after=round(after), held_mib=round(held, 1))
    print("\n%d idle connections: %d octets each before a request, %d after one (due: 2,048); %.1f MiB more than before "
          "when they have gone" % (n, before, after, held))
