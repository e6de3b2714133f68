// Whom shadow and exceptions let through, clocks, keys.
import { DAY, ago, el, fold, known, many, nothing, overDays, seconds, show, table, when, words } from "/console/text.js";

const BY = { exception: "the rule's exceptions", form: "shadow_accept" };
export function showPasses(p) {
  const now = Date.parse(known.state.now);
  show("passing", [p.passes, p.forgotten], () => [
    p.passes.length
      ? p.passes.map((x) =>
          fold(
            x.rule + " " + x.by,
            [
              el("code", {}, x.rule),
              ": ",
              BY[x.by] || ["shadow check ", el("code", {}, x.by)],
              ` let ${many(x.count, "request")} of ${many(x.users_known, "user")} pass, the last ${ago(x.last, now)} ago`,
            ],
            el("p", {}, "Over the last 31 days:"),
            overDays(x.days),
            table(
              `Users, those with most requests first${x.users_known > x.users.length ? " (the first " + x.users.length + ")" : ""}`,
              ["User", "Requests", "First", "Last"],
              x.users.map((u) => [
                [u.user || "(none named)", u.proven ? "" : " (claimed)"],
                u.count.toLocaleString("en"),
                when(u.first),
                when(u.last),
              ]),
            ),
          ),
        )
      : nothing(
          "Nobody: no check in shadow, no shadow_accept and no exception has let a request pass since " +
            p.since.slice(0, 10) +
            ".",
        ),
    p.forgotten ? nothing(`${p.forgotten} users gave way to others: the table is full.`) : [],
  ]);
}
export function showUnused() {
  const now = Date.parse(known.state.now),
    watched = now - Date.parse(known.rules.since);
  const exceptions = known.rules.requests.filter((r) => r.loosened.length && r.state === "in force");
  const idle = exceptions.filter((r) => !r.hits || !r.hits.last || now - Date.parse(r.hits.last) > 30 * DAY);
  const key = [idle.map((r) => [r.id, r.hits]), watched > 30 * DAY, Math.floor(watched / DAY), exceptions.length];
  show("unused", key, () =>
    idle.length
      ? el(
          "ul",
          {},
          idle.map((r) =>
            el(
              "li",
              {},
              el("code", {}, r.id),
              ` (line ${r.line}): `,
              r.hits && r.hits.last
                ? ["last used ", when(r.hits.last), ". For 30 days nobody needed it: take it out."]
                : watched > 30 * DAY
                  ? "not used for 30 days. Nobody needs it: take it out."
                  : `not used since the gateway began to watch, ${ago(known.rules.since, now)} ago. After 30 days without use it can go.`,
            ),
          ),
        )
      : nothing(
          exceptions.length
            ? "None: each exception in force was used within 30 days."
            : "None: no rule in force is an exception.",
        ),
  );
}

// ---- clocks

export function showClocks(c) {
  const now = Date.parse(known.state.now);
  const ahead = (ms) => seconds(Math.abs(ms)) + (ms < 0 ? " ahead" : " behind");
  const fate = (u) => {
    const share = Math.abs(u.skew_ms) / u.limit_ms;
    if (share > 1) return "is refused where `time` is enforced";
    const days = (Date.parse(u.last) - Date.parse(u.first)) / DAY,
      drift = (Math.abs(u.skew_ms) - Math.abs(u.first_ms)) / days;
    if (days > 0.04 && drift > 0 && u.first_ms * u.skew_ms > 0)
      return `drifts ${seconds(drift)} a day: refused in about ${many(Math.ceil((u.limit_ms - Math.abs(u.skew_ms)) / drift), "day")}`;
    return `${Math.round(share * 100)} % of what is allowed`;
  };
  show("skews", [c.users, c.forgotten], () => [
    c.users.length
      ? table(
          `Users a fifth or more of the way to a refusal (${c.users_known})`,
          ["User", "Now", "Worst", "Allowed", "What that means", "Last seen"],
          c.users.map((u) => [
            [u.user, u.proven ? "" : " (claimed)"],
            ahead(u.skew_ms),
            ahead(u.worst_ms),
            seconds(u.limit_ms),
            words(fate(u)),
            [ago(u.last, now), " ago"],
          ]),
        )
      : nothing("No clock is far from the gateway's."),
    c.forgotten ? nothing(`${c.forgotten} users gave way to others: the table is full.`) : [],
  ]);
}

// ---- keys

const TYPES = { ink: "InK (signs requests)", trk: "TrK (encrypts replies)" };
export function showKeys(k) {
  const age = (a, i, all) =>
    a.younger_than_days
      ? `under ${many(a.younger_than_days, "day")}`
      : `${all[i - 1].younger_than_days} days or more`;
  show("ages", [k.ink.states, k.trk.states, k.ink.ages, k.trk.ages], () => [
    table(
      "Active keys by age",
      ["Age", TYPES.ink, TYPES.trk],
      k.ink.ages.map((a, i, all) => [
        age(a, i, all),
        a.keys.toLocaleString("en"),
        k.trk.ages[i].keys.toLocaleString("en"),
      ]),
    ),
    ...["ink", "trk"].map((t) => [
      el(
        "p",
        {},
        TYPES[t] + ": ",
        Object.entries(k[t].states)
          .map(([s, n]) => `${n.toLocaleString("en")} ${s}`)
          .join(", "),
        ".",
      ),
      k[t].oldest.length
        ? fold(
            "oldest " + t,
            "Whose are the oldest: " + t,
            table(
              "Oldest active keys: " + t,
              ["User", "Active since"],
              k[t].oldest.map((o) => [o.user, when(o.since)]),
            ),
          )
        : [],
    ]),
  ]);
  show("old", [k.old, k.old_forgotten], () => [
    k.old.length
      ? table(
          `Users who still use an older key (${k.old_known})`,
          ["User", "Type", "Key", "Why it is old", "Ends", "Last used"],
          k.old.map((o) => [
            o.user,
            o.type,
            el("code", {}, o.id),
            o.why === "retiring" ? "a newer one is active" : "a newer one was sent, and not taken up yet",
            when(o.until),
            when(o.last),
          ]),
        )
      : nothing("Nobody that was seen since " + k.since.slice(0, 10) + "."),
    k.old_forgotten ? nothing(`${k.old_forgotten} users gave way to others: the table is full.`) : [],
  ]);
  const names = Object.keys(k.ink.renewals);
  show("renewals", [k.ink.renewals, k.trk.renewals, k.renewed], () => [
    table(
      "Since the gateway's start",
      ["Type", ...names],
      ["ink", "trk"].map((t) => [t, ...names.map((n) => k[t].renewals[n].toLocaleString("en"))]),
    ),
    k.renewed.length
      ? fold(
          "renewed",
          "The last new keys",
          table(
            "Newest first",
            ["User", "New keys", "Sent"],
            k.renewed.map((r) => [r.user, r.ids.join(", "), when(r.time)]),
          ),
        )
      : [],
  ]);
}
