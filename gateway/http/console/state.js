// State and troubles, engines, traffic.
import { $, el, known, many, nothing, show, shown, svg, table, when, words } from "/console/text.js";

const LEVELS = { bad: "Now: ", warn: "Soon: ", note: "Note: " };
export function showState() {
  const s = known.state;
  const bad = s.troubles.some((t) => t.level === "bad");
  const badge = $("word");
  badge.textContent = shown(s.state);
  badge.className = "badge " + (s.state === "ready" && !bad ? "good" : "bad");
  $("leave").hidden = !s.signed_in;
  show("identity", [s.version, s.config, s.since], () => [
    `version ${s.version}, ${shown(s.config)}, watching since `,
    when(s.since),
  ]);
  show("troubles", s.troubles, () =>
    s.troubles.length
      ? el(
          "ul",
          { class: "troubles" },
          s.troubles.map((t) =>
            el(
              "li",
              { class: t.level },
              el("strong", {}, LEVELS[t.level], words(t.what)),
              el("span", {}, "What to do: ", words(t.do)),
            ),
          ),
        )
      : el("p", { class: "fine" }, "It serves, and nothing needs attention."),
  );
  show("engines", [s.upstream, s.replay, s.keys, s.decisions, s.certificates, s.connections, s.in_flight], () =>
    table(
      "Parts and how they are",
      ["Part", "State", "More"],
      [
        [
          "KMS",
          s.upstream.answers ? "answers" : "does not answer",
          [shown(s.upstream.url), s.upstream.breaker_open ? "; calls are refused but for single tries" : ""],
        ],
        [
          "Replay memory",
          s.replay.state,
          [
            (s.replay.shared ? "shared, at " : "") + shown(s.replay.where) + "; ",
            s.replay.shared ? "" : s.replay.remembered.toLocaleString("en") + " requests remembered; ",
            "a Time is accepted from ",
            when(s.replay.accepts_from),
          ],
        ],
        ["Key store", s.keys.age_s < 5 ? "in step" : `not in step for ${s.keys.age_s} s`, shown(s.keys.where)],
        [
          "Decision log",
          [
            s.decisions.stuck ? "cannot be written" : s.decisions.dropped ? "" : "complete",
            s.decisions.stuck && s.decisions.dropped ? "; " : "",
            s.decisions.dropped ? many(s.decisions.dropped, "line") + " lost" : "",
          ],
          shown(s.decisions.where),
        ],
        ["Clients", many(s.connections, "connection"), many(s.in_flight, "request") + " being served"],
        ...s.certificates.map((c) => ["Certificate", ["until ", when(c.expires)], shown(c.file)]),
      ],
    ),
  );
  $("kept").textContent =
    "Counts are this gateway's alone, of the last ten minutes, day or 31 days, kept in memory in tables " +
    "of a fixed size. What is forgotten is said where it was.";
}

// ---- traffic

let traffic = null,
  range = "minutes";

const sum = (o) => Object.values(o).reduce((a, b) => a + b, 0);
export function showTraffic(answer) {
  traffic = answer;
  const t = traffic[range],
    step = t.step_s,
    newest = Date.parse(t.now);
  const from = newest - (t.steps - 1) * step * 1000,
    place = (b) => Math.round((Date.parse(b.from) - from) / step / 1000);
  const rows = new Map();
  for (const b of t.bins)
    for (const verdict of ["accept", "reject"])
      for (const [reason, n] of Object.entries(b[verdict])) {
        const key = verdict + " " + reason,
          r = rows.get(key) || { verdict, reason, now: 0, all: 0 };
        r.all += n;
        if (place(b) >= t.steps - 13 && place(b) < t.steps - 1) r.now += n; // twelve whole steps: a minute, two hours
        rows.set(key, r);
      }
  const recent = range === "minutes" ? "last minute" : "last two hours",
    whole = range === "minutes" ? "ten minutes" : "a day";
  const per = (n, s) => (n / s).toLocaleString("en", { maximumFractionDigits: 2 });
  show("chart", [range, t], () => {
    const peak = Math.max(0, ...t.bins.map((b) => sum(b.accept) + sum(b.reject))),
      most = Math.max(1, peak);
    const total = (v) => t.bins.reduce((a, b) => a + sum(b[v]), 0);
    const g = svg("svg", {
      viewBox: `0 0 ${t.steps * 6} 100`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label":
        `Requests over ${whole}: ${total("accept")} accepted, ${total("reject")} refused, ` +
        `at most ${per(peak, step)} a second`,
    });
    for (const b of t.bins) {
      const a = (sum(b.accept) / most) * 96,
        r = (sum(b.reject) / most) * 96,
        x = place(b) * 6;
      g.append(svg("rect", { class: "accept", x, width: 5, y: 100 - a, height: a }));
      g.append(svg("rect", { class: "reject", x, width: 5, y: 100 - a - r, height: r }));
    }
    g.append(svg("line", { class: "base", x1: 0, x2: t.steps * 6, y1: 99.5, y2: 99.5 }));
    return [
      g,
      el(
        "p",
        { class: "legend" },
        el("span", { class: "key accept" }, "accepted (below)"),
        el("span", { class: "key reject" }, "refused (on top)"),
        el("span", {}, `at most ${per(peak, step)} a second`),
      ),
    ];
  });
  const sorted = [...rows.values()].sort((a, b) => b.all - a.all);
  show("rates", [range, sorted], () =>
    sorted.length
      ? table(
          `By verdict and reason, ${whole}`,
          ["Reason", "Verdict", "A second, " + recent, "In all"],
          sorted.map((r) => [
            el("code", {}, r.reason),
            r.verdict,
            per(r.now, 12 * step),
            r.all.toLocaleString("en"),
          ]),
        )
      : nothing("No request yet."),
  );
}

for (const name of ["minutes", "day"])
  $("range-" + name).addEventListener("click", () => {
    range = name;
    for (const n of ["minutes", "day"]) $("range-" + n).setAttribute("aria-pressed", n === name);
    if (traffic) showTraffic(traffic);
  });
