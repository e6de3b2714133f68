// One decision: what it says, what to do, and the commands that tell the rest.
import { $, el, known, plain, seconds, shown, table, words } from "/console/text.js";

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
    rule = known.rules && known.rules.requests.find((r) => r.id === d.rule);
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
      words((known.reasons[s] || {}).what || ""),
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

export function openDetail(d) {
  const r = known.reasons[d.reason] || { what: "", do: "" },
    rule = known.rules && known.rules.requests.find((x) => x.id === d.rule);
  const found = findings(d),
    at = ["--at", d.time],
    config = ["--config", known.state ? known.state.config : undefined];
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
            known.state && d.rules && d.rules !== known.state.rules_hash ? "; other rules were in force then." : ".",
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
      ["--rules", known.rules ? known.rules.file : undefined],
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
