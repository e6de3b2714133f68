// Rules in force: their lines, their hits, and what `until` does next.
import { $, DAY, el, known, many, overDays, show, shown, table, when, words } from "/console/text.js";

export function showRules() {
  const now = Date.parse(known.state.now);
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
  show("rules-file", [known.rules.file, known.rules.hash], () => [
    shown(known.rules.file),
    ", SHA-256 ",
    shown(known.rules.hash),
  ]);
  show("ruled", [known.rules.requests, known.rules.responses, new Date(now).getUTCDate()], () => [
    table(
      "Request rules: the first that matches decides",
      ["Rule", "Line", "Lets pass beyond the standard", "Accepted", "Refused", "Last used", "Until"],
      known.rules.requests.map((r) => [
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
      known.rules.responses.map((r) => `${r.id} (line ${r.line})`).join(", "),
    ),
  ]);
  const select = $("filters").elements.rule,
    names = known.rules.requests.map((r) => r.id);
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
