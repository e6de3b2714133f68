"""Counts that no crowd disturbs: instructions and allocations by callgrind, system calls by strace."""
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import house

ALLOCATES = {"malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign"}


def read_callgrind(path):
    """Instructions in all, {function: own}, {function: calls}."""
    names, own, calls, current, target, skip, total = {}, {}, {}, None, None, False, 0

    def name(text):
        number, _, what = text.partition(" ")
        if what:
            names[number] = what
        return re.sub(r"'\d+$", "", names[number])
    for line in Path(path).read_text(errors="replace").split("\n"):
        if line.startswith("fn="):
            current = name(line[3:])
        elif line.startswith("cfn="):
            target = name(line[4:])
        elif line.startswith("calls="):
            if current not in ALLOCATES:  # calloc and realloc call malloc
                calls[target] = calls.get(target, 0) + int(line[6:].split()[0])
            skip = True
        elif line[:1].isdigit() or line[:1] in "+-*":
            if not skip:
                cost = int((line.split() + ["0", "0"])[1])
                own[current] = own.get(current, 0) + cost
                total += cost
            skip = False
    return total, own, calls


def whole(h, n=400, warm=1500, connections=8, users=1000, out=None, **config):
    """One exchange of the whole gateway: what n of them took, after others that warmed it: 1,000 lines are kept."""
    out = Path(out or h.folder / "cg")
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=%s" % out, "--dump-instr=no", "--compress-pos=no",
            "--separate-threads=no"]
    with h.upstream(), h.gateway(under=tool, users=users, core=None, sandbox="off", **config) as gate:
        control = ["callgrind_control", str(gate.pid)]
        h.load(gate.port, connections, 600, "count=%d" % warm, users=users)
        subprocess.run(control[:1] + ["--zero"] + control[1:], check=True, capture_output=True)
        row = h.load(gate.port, connections, 600, "count=%d" % n, users=users)
        subprocess.run(control[:1] + ["--dump"] + control[1:], check=True, capture_output=True)
        dump = next(p for p in sorted(out.parent.glob(out.name + "*"), key=os.path.getmtime) if p.stat().st_size > 0)
    total, own, calls = read_callgrind(dump)
    assert row["requests"] == n and not row["errors"], row
    allocated = sum(c for f, c in calls.items() if f in ALLOCATES)
    h.note(bench="whole", requests=n, connections=connections, instructions=round(total / n),
           allocations=round(allocated / n, 1), open_failed=row["open_failed"])
    return total, own, calls, dump


def system_calls(h, connections=8, seconds=3, who="kmsgate", sandbox="on"):
    """By name, of one exchange. The program is slow meanwhile: nothing else is measured then."""
    table = h.folder / "strace"
    with h.upstream(), (h.gateway(sandbox=sandbox) if who == "kmsgate" else h.nginx()) as p:
        pid = getattr(p, "worker", p.pid)
        h.load(p.port, connections, 1)
        tracer = h.start(["strace", "-f", "-c", "-qq", "-U", "calls,name", "-o", table, "-p", pid], None,
                         stderr=subprocess.DEVNULL)
        h.wait(lambda: "TracerPid:\t%d" % tracer.pid in Path("/proc/%d/status" % pid).read_text(), "strace")
        time.sleep(0.2)
        row = h.load(p.port, connections, seconds)
        h.end(tracer, signal.SIGINT)
    found = {m[1]: int(m[0]) for m in re.findall(r"^\s*(\d+) (\w+)$", table.read_text(), re.M) if m[1] != "total"}
    each = {name: round(n / row["requests"], 2) for name, n in sorted(found.items(), key=lambda x: -x[1])}
    return h.note(bench="calls", who=who, connections=connections, requests=row["requests"], errors=row["errors"],
                  calls=round(sum(found.values()) / row["requests"], 2), each={k: v for k, v in each.items() if v})
