"use strict";
/*
 * The console's script. It asks /api/… and /decisions of the address that it came from, and shows what it gets.
 *
 * What is shown comes from strangers: it is put into the page as text nodes alone (no HTML is ever made of a string; the
 * page's policy forbids it, too), and characters that would hide or turn what stands beside them are written as escapes.
 */
(() => {
  const $ = (id) => document.getElementById(id);

  // ---- text

  // As on a terminal (gateway/base/text.c): controls, formats (bidi, zero width, tags), what is displayed as nothing.
  const HIDDEN = /[\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\p{Cs}\u2028\u2029]/gu;
  const shown = (s) =>
    String(s).replace(HIDDEN, (c) => {
      const n = c.codePointAt(0);
      const hex = n.toString(16);
      return n < 0x20 || n === 0x7f
        ? "\\x" + hex.padStart(2, "0")
        : n > 0xffff
          ? "\\U" + hex.padStart(8, "0")
          : "\\u" + hex.padStart(4, "0");
    });
  const plain = (s) => shown(s) === String(s);

  // Children are elements, or what is shown as text; null and undefined are left out.
  function el(tag, attributes, ...children) {
    const e = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {}))
      if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) e.setAttribute(name, value);
    for (const c of children.flat(Infinity))
      if (c !== null && c !== undefined) e.append(c instanceof Node ? c : document.createTextNode(shown(c)));
    return e;
  }
  const svg = (tag, attributes) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
    return e;
  };
  // Our own words may hold `code`.
  const words = (text) =>
    String(text)
      .split("`")
      .map((part, i) => (i % 2 ? el("code", {}, part) : part));
  const many = (n, one) => n.toLocaleString("en") + " " + one + (n === 1 ? "" : "s");
  const seconds = (ms) => (ms / 1000).toFixed(Math.abs(ms) < 10000 ? 2 : 0) + " s";
  const when = (iso) =>
    iso ? el("time", { datetime: iso }, iso.replace("T", " ").replace(/(\.\d+)?Z$/, "")) : "never";
  const DAY = 86400000;
  const ago = (iso, now) => {
    const s = Math.max(0, Math.round((now - Date.parse(iso)) / 1000));
    return s < 90
      ? many(s, "second")
      : s < 5400
        ? many(Math.round(s / 60), "minute")
        : s < 172800
          ? many(Math.round(s / 3600), "hour")
          : many(Math.round(s / 86400), "day");
  };

  // A table whose roles stay when a narrow screen shows each row as a card. rows: arrays; the first cell names its row.
  function table(caption, heads, rows) {
    const cell = (c, i) =>
      el(
        i ? "td" : "th",
        { role: i ? "cell" : "rowheader", scope: i ? null : "row", "data-label": heads[i] },
        el("div", {}, c),
      );
    return el(
      "table",
      { role: "table" },
      el("caption", {}, caption),
      el(
        "thead",
        { role: "rowgroup" },
        el(
          "tr",
          { role: "row" },
          heads.map((h) => el("th", { role: "columnheader", scope: "col" }, h)),
        ),
      ),
      el(
        "tbody",
        { role: "rowgroup" },
        rows.map((r) => el("tr", { role: "row" }, r.map(cell))),
      ),
    );
  }

  // Bars of what happened, the oldest left. Who cannot see them has the label.
  function bars(values, label) {
    const most = Math.max(1, ...values);
    const g = svg("svg", {
      class: "small",
      viewBox: `0 0 ${values.length * 4} 24`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": label,
    });
    values.forEach(
      (v, i) =>
        v &&
        g.append(
          svg("rect", {
            class: "accept",
            x: i * 4,
            width: 3,
            y: 24 - Math.max(1, (v / most) * 24),
            height: Math.max(1, (v / most) * 24),
          }),
        ),
    );
    g.append(svg("line", { class: "base", x1: 0, x2: values.length * 4, y1: 24, y2: 24 }));
    return g;
  }
  const overDays = (days) =>
    bars(
      [...days].reverse(),
      `Last ${days.length} days: ${days.reduce((a, b) => a + b, 0)} in all, at most ${Math.max(...days)} a day`,
    );

  // Replaces what a place shows, only when it changes: nobody who reads or has opened something there is disturbed.
  const last = new Map();
  function show(id, key, make) {
    const text = JSON.stringify(key);
    if (last.get(id) === text) return;
    last.set(id, text);
    const place = $(id);
    const open = new Set([...place.querySelectorAll("details[open]")].map((d) => d.dataset.key));
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    place.replaceChildren(...[make()].flat(Infinity));
    for (const d of place.querySelectorAll("details")) d.open = open.has(d.dataset.key);
    if (focused) for (const e of place.querySelectorAll("[data-key]")) if (e.dataset.key === focused) e.focus();
  }
  const fold = (key, summary, ...content) =>
    el("details", { "data-key": key }, el("summary", { "data-key": "s:" + key }, summary), content);
  const nothing = (text) => el("p", {}, text);

  // ---- asking

  let state = null,
    rules = null,
    reasons = {},
    traffic = null,
    range = "minutes",
    held = false,
    away = false;

  async function ask(path) {
    const r = await fetch(path, { cache: "no-store", credentials: "same-origin" });
    if (r.status === 401 || r.status === 403) location.reload(); // the session is over: the sign-in page comes
    if (!r.ok) throw new Error(path + ": " + r.status);
    return r.json();
  }

  // ---- state and troubles

  const LEVELS = { bad: "Now: ", warn: "Soon: ", note: "Note: " };
  function showState() {
    const s = state;
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
              s.replay.where ? shown(s.replay.where) + "; " : "",
              s.replay.remembered.toLocaleString("en"),
              " requests remembered; a Time is accepted from ",
              when(s.replay.accepts_from),
            ],
          ],
          ["Key store", s.keys.age_s < 5 ? "in step" : `not in step for ${s.keys.age_s} s`, shown(s.keys.where)],
          [
            "Decision log",
            s.decisions.dropped ? many(s.decisions.dropped, "line") + " lost" : "complete",
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

  const sum = (o) => Object.values(o).reduce((a, b) => a + b, 0);
  function showTraffic() {
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
      const most = Math.max(1, ...t.bins.map((b) => sum(b.accept) + sum(b.reject)));
      const total = (v) => t.bins.reduce((a, b) => a + sum(b[v]), 0);
      const g = svg("svg", {
        viewBox: `0 0 ${t.steps * 6} 100`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label":
          `Requests over ${whole}: ${total("accept")} accepted, ${total("reject")} refused, ` +
          `at most ${per(most, step)} a second`,
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
          el("span", {}, `at most ${per(most, step)} a second`),
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

  // ---- decisions

  const LINES = 200;
  const waiting = [];
  let paused = false,
    missed = 0,
    following = null;

  function wanted() {
    const q = new URLSearchParams();
    for (const [name, value] of new FormData($("filters"))) {
      const v = value.trim();
      if (v) q.set(name, (name === "user" || name === "source") && !v.includes("*") ? "*" + v + "*" : v);
    }
    return q;
  }
  const said = (text) => {
    if ($("stream").textContent !== text) $("stream").textContent = text;
  };

  async function follow() {
    if (following) following.abort();
    const mine = (following = new AbortController());
    waiting.length = 0;
    missed = 0;
    $("lines").replaceChildren();
    const q = wanted();
    q.set("n", "50");
    q.set("follow", "1");
    while (!mine.signal.aborted) {
      try {
        const r = await fetch("/decisions?" + q.toString().replace(/\+/g, "%20"), {
          signal: mine.signal,
          cache: "no-store",
        });
        if (!r.ok)
          throw new Error(
            r.status === 400 ? "These filters are not understood." : "The gateway takes no more followers.",
          );
        said("Live: new decisions appear on top.");
        await readLines(r.body.getReader(), mine);
        throw new Error("The gateway has ended the stream.");
      } catch (e) {
        if (mine.signal.aborted) return;
        said(e.message + " Trying again.");
        q.set("n", "0");
        await new Promise((done) => setTimeout(done, 2000));
      }
    }
  }
  async function readLines(reader, mine) {
    const decoder = new TextDecoder();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done || mine.signal.aborted) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = parts.pop();
      for (const line of parts.filter(Boolean)) {
        const d = JSON.parse(line);
        if (d.lost) missed += d.lost;
        else waiting.push(d);
      }
      if (waiting.length > LINES) missed += waiting.splice(0, waiting.length - LINES).length;
    }
  }
  function lineOf(d) {
    const who = d.user || "(no user)";
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", onclick: () => openDetail(d) },
        el("span", {}, d.time.slice(11, 23)),
        el("span", { class: "verdict " + d.verdict }, d.verdict),
        el("span", {}, el("code", {}, d.reason)),
        el("span", { class: "user" }, who, d.proven === false ? " (claimed)" : ""),
        el(
          "span",
          { class: "rule" },
          d.rule || "(no rule)",
          d.shadow ? ", shadow: " + d.shadow.join(", ") : "",
          d.captured ? ", captured" : "",
        ),
        el("span", {}, d.source),
      ),
    );
  }
  setInterval(() => {
    if (paused || held || !waiting.length) return;
    const list = $("lines"),
      at = list.scrollTop,
      before = list.scrollHeight;
    for (const d of waiting.splice(0)) list.prepend(lineOf(d));
    while (list.children.length > LINES) list.lastChild.remove();
    if (at > 0) list.scrollTop = at + list.scrollHeight - before; // who has scrolled stays where he reads
    if (missed) said(`Live: new decisions appear on top. ${missed} came too fast to be shown: the log has them.`);
  }, 250);

  // ---- one decision

  const RESULTS = {
    pass: "holds",
    fail: "failed: refused",
    shadow_fail: "failed in shadow: let pass",
    off: "off",
    skip: "not looked at",
  };
  // A word of a command line that a shell reads as it stands here; null where none is that can be read before it is pasted.
  const quoted = (s) => (!plain(s) ? null : /^[\w/:.,@%+=-]+$/.test(s) ? s : "'" + s.replaceAll("'", "'\\''") + "'");
  const CUT = 256; // a decision's texts end there: nobody knows how they went on
  const NO_URI = /[\0-\x20<>"{}|\\^`\x7f]/;
  const bytes = (s) => new TextEncoder().encode(s).length;

  function command(parts) {
    const left = [],
      line = [];
    for (const p of parts) {
      if (typeof p === "string") line.push(p);
      else if (p[1] !== undefined && p[1] !== "") {
        const q = bytes(p[1]) >= CUT || (p[0] === "--user" && NO_URI.test(p[1])) ? null : quoted(p[1]);
        if (q === null) left.push(p[0]);
        else line.push(p[0] + "=" + q);
      }
    }
    const text = line.join(" ");
    return [
      el(
        "div",
        { class: "command" },
        el("pre", { tabindex: "0" }, text),
        el(
          "button",
          {
            type: "button",
            onclick: (e) => {
              navigator.clipboard.writeText(text).then(
                () => {
                  e.target.textContent = "Copied";
                },
                () => {},
              );
            },
          },
          "Copy",
        ),
      ),
      left.length
        ? el("p", {}, "Left out, since its text is cut, holds hidden characters or is no URI: " + left.join(", "))
        : null,
    ];
  }

  function findings(d) {
    const out = [],
      c = d.claims || {},
      rule = rules && rules.requests.find((r) => r.id === d.rule);
    const checks = d.checks || {},
      failed = (n) => checks[n] === "fail" || checks[n] === "shadow_fail";
    if (d.skew_ms !== undefined && (failed("time") || Math.abs(d.skew_ms) > 2000))
      out.push([
        `The request's Time is ${seconds(Math.abs(d.skew_ms))} ${d.skew_ms < 0 ? "ahead of" : "behind"} the gateway's clock`,
        rule ? `; the rule allows ${seconds(rule.past_ms)} behind and ${seconds(rule.future_ms)} ahead.` : ".",
      ]);
    if (failed("client_req_url"))
      out.push(
        [
          "ClientReqUrl was ",
          el("code", {}, c.client_req_url || "(none)"),
          ", and ",
          el("code", {}, d.expected_url || "?"),
          " was due. If all clients say so, `public_url` is wrong.",
        ].flatMap((x) => (typeof x === "string" ? words(x) : [x])),
      );
    if (failed("kms_uri"))
      out.push(["KmsUri was ", el("code", {}, c.kms_uri || "(none)"), ": it is none of the rules' kms.uris."]);
    if (failed("signature") || failed("key_policy"))
      out.push([
        "The signature names the key ",
        el("code", {}, d.key_id || "(none)"),
        d.key_type ? `, a key of the user of type ${d.key_type}` : ", which is no key of this user",
        c.trk_id ? ["; TrK-ID is ", el("code", {}, c.trk_id)] : null,
        ".",
      ]);
    if (d.proven === false) out.push(["Nothing proves who asked: the user is only claimed."]);
    for (const s of d.shadow || [])
      out.push([
        "Let through, though it would be refused for ",
        el("code", {}, s),
        ": ",
        words((reasons[s] || {}).what || ""),
      ]);
    if (d.upstream) out.push([`The KMS answered ${d.upstream.status || "nothing"} after ${d.upstream.ms} ms.`]);
    return out;
  }
  const flat = (o, path, out) => {
    for (const [k, v] of Object.entries(o))
      if (v && typeof v === "object" && !Array.isArray(v)) flat(v, path + k + ".", out);
      else out.push([path + k, Array.isArray(v) ? v.join(", ") : v]);
    return out;
  };

  function openDetail(d) {
    const r = reasons[d.reason] || { what: "", do: "" },
      rule = rules && rules.requests.find((x) => x.id === d.rule);
    const found = findings(d),
      at = ["--at", d.time],
      config = ["--config", state ? state.config : undefined];
    $("detail-title").textContent =
      (d.verdict === "accept" ? "Accepted" : "Refused") +
      ": " +
      shown(d.reason) +
      (d.status ? ", status " + d.status : "");
    $("detail-body").replaceChildren(
      el(
        "p",
        {},
        d.user
          ? ["User ", el("code", {}, d.user), d.proven ? ", proven by the signature" : ", claimed"]
          : "No user is known",
        ", from ",
        el("code", {}, d.source),
        ".",
      ),
      el("h3", {}, "What happened"),
      el("p", {}, words(r.what || "—")),
      el(
        "ul",
        {},
        found.map((f) => el("li", {}, f)),
      ),
      ...(r.do ? [el("h3", {}, "What to do"), el("p", {}, words(r.do))] : []),
      el("h3", {}, "The rule"),
      el(
        "p",
        {},
        d.rule
          ? [
              el("code", {}, d.rule),
              rule ? ` (line ${rule.line})` : " (not in force any more)",
              state && d.rules && d.rules !== state.rules_hash ? "; other rules were in force then." : ".",
            ]
          : "None was asked, or none matched.",
      ),
      d.checks
        ? table(
            "The checks, in the order of judging",
            ["Check", "Result"],
            Object.entries(d.checks).map(([k, v]) => [
              el("code", {}, k),
              el("span", { class: "result " + v }, RESULTS[v] || v),
            ]),
          )
        : "",
      el("h3", {}, "For the rest"),
      d.captured
        ? el("p", {}, "Its body was kept. This judges it as it came:")
        : el(
            "p",
            {},
            "What the body says, byte by byte, only the body tells. Captured into REQUEST.xml, this judges it again:",
          ),
      ...command(
        d.captured
          ? ["kmsgate explain", config, ["--capture", d.id]]
          : ["kmsgate explain", config, ["--path", d.path], ["--source", d.source], at, "REQUEST.xml"],
      )
        .flat()
        .filter(Boolean),
      el("p", {}, "Which rules such a request meets, and why not those above:"),
      ...command([
        "kmsgate which",
        ["--rules", rules ? rules.file : undefined],
        ["--user", d.user],
        ["--source", d.source],
        ["--path", d.path],
        ["--form", d.form],
        ["--client-id", d.client_id],
        at,
      ])
        .flat()
        .filter(Boolean),
      table(
        "All that the decision says",
        ["Field", "Value"],
        flat(d, "", []).map(([k, v]) => [el("code", {}, k), v]),
      ),
    );
    $("detail").showModal();
    $("detail-title").focus();
  }

  // ---- whom shadow and exceptions let through

  const BY = { exception: "the rule's exceptions", form: "shadow_accept" };
  function showPasses(p) {
    const now = Date.parse(state.now);
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
  function showUnused() {
    const now = Date.parse(state.now),
      watched = now - Date.parse(rules.since);
    const idle = rules.requests.filter(
      (r) =>
        r.loosened.length &&
        r.state === "in force" &&
        (!r.hits || !r.hits.last || now - Date.parse(r.hits.last) > 30 * DAY),
    );
    show("unused", [idle.map((r) => [r.id, r.hits]), watched > 30 * DAY, Math.floor(watched / DAY)], () =>
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
                    : `not used since the gateway began to watch, ${ago(rules.since, now)} ago. After 30 days without use it can go.`,
              ),
            ),
          )
        : nothing("None: each exception in force was used within 30 days."),
    );
  }

  // ---- clocks

  function showClocks(c) {
    const now = Date.parse(state.now);
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
  function showKeys(k) {
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

  // ---- rules

  function showRules() {
    const now = Date.parse(state.now);
    const next = (r) => {
      const left = Math.ceil((Date.parse(r.until) + DAY - now) / DAY),
        then = [
          " then ",
          r.then.map((id, i) => [i ? ", " : "", el("code", {}, id)]),
          r.then.length
            ? r.then_all
              ? " decides"
              : " or no rule decides"
            : "such requests meet no rule and are refused",
        ];
      return r.state === "not yet"
        ? ["begins on ", r.since]
        : r.state === "ended"
          ? ["ended with ", r.until, ": it matches nothing"]
          : r.until
            ? [`ends with ${r.until}, in ${many(left, "day")};`, then]
            : "has no end";
    };
    show("rules-file", [rules.file, rules.hash], () => [shown(rules.file), ", SHA-256 ", shown(rules.hash)]);
    show("ruled", [rules.requests, rules.responses, new Date(now).getUTCDate()], () => [
      table(
        "Request rules: the first that matches decides",
        ["Rule", "Line", "Lets pass beyond the standard", "Accepted", "Refused", "Last used", "Until"],
        rules.requests.map((r) => [
          [el("code", {}, r.id), r.why ? el("div", { class: "quiet" }, r.why) : null],
          r.line,
          r.deny
            ? "refuses all that it matches"
            : r.loosened.length
              ? el(
                  "ul",
                  {},
                  r.loosened.map((l) => el("li", {}, words(l))),
                )
              : "nothing",
          r.hits ? [r.hits.accepted.toLocaleString("en"), overDays(r.hits.days)] : 0,
          r.hits ? r.hits.rejected.toLocaleString("en") : 0,
          r.hits && r.hits.last ? when(r.hits.last) : "not seen",
          next(r),
        ]),
      ),
      el(
        "p",
        { class: "quiet" },
        "Response rules: ",
        rules.responses.map((r) => `${r.id} (line ${r.line})`).join(", "),
      ),
    ]);
    const select = $("filters").elements.rule,
      names = rules.requests.map((r) => r.id);
    if (
      [...select.options]
        .slice(1)
        .map((o) => o.value)
        .join() === names.join()
    )
      return;
    const chosen = select.value;
    select.replaceChildren(el("option", { value: "" }, "any"), ...names.map((n) => el("option", { value: n }, n)));
    select.value = names.includes(chosen) ? chosen : "";
  }

  // ---- turns

  let turn = 0;
  async function refresh() {
    if (held || document.hidden) return;
    try {
      state = await ask("/api/state");
      away = false;
      showState();
      traffic = await ask("/api/traffic");
      showTraffic();
      if (turn++ % 3 === 0) {
        rules = await ask("/api/rules");
        showRules();
        showUnused();
        showPasses(await ask("/api/passes"));
        showClocks(await ask("/api/clocks"));
        showKeys(await ask("/api/keys"));
      }
    } catch (e) {
      if (!away) {
        last.delete("troubles");
        $("word").textContent = "no answer";
        $("word").className = "badge bad";
        $("troubles").replaceChildren(
          el(
            "ul",
            { class: "troubles" },
            el(
              "li",
              { class: "bad" },
              el("strong", {}, "The gateway does not answer this page."),
              el("span", {}, "What to do: see whether it runs, and its log. What stands below is from before."),
            ),
          ),
        );
      }
      away = true;
    }
  }
  async function turns() {
    await refresh();
    setTimeout(turns, 2000);
  }

  function toggle(button, on, off, pressed) {
    button.setAttribute("aria-pressed", pressed);
    button.textContent = pressed ? on : off;
  }
  $("hold").addEventListener("click", (e) => {
    held = !held;
    toggle(e.target, "Resume updates", "Pause updates", held);
  });
  $("pause").addEventListener("click", (e) => {
    paused = !paused;
    toggle(e.target, "Resume", "Pause", paused);
    said(paused ? "Paused." : "Live: new decisions appear on top.");
  });
  for (const name of ["minutes", "day"])
    $("range-" + name).addEventListener("click", () => {
      range = name;
      for (const n of ["minutes", "day"]) $("range-" + n).setAttribute("aria-pressed", n === name);
      if (traffic) showTraffic();
    });
  let soon = 0;
  const again = () => {
    clearTimeout(soon);
    soon = setTimeout(follow, 300);
  };
  $("filters").addEventListener("input", again);
  $("filters").addEventListener("reset", () => setTimeout(again));
  $("filters").addEventListener("submit", (e) => e.preventDefault());

  (async () => {
    try {
      reasons = await ask("/api/reasons");
      const select = $("filters").elements.reason;
      for (const name of Object.keys(reasons)) select.append(el("option", { value: name }, name));
    } catch {
      /* the first turn says so */
    }
    follow();
    turns();
  })();
})();
