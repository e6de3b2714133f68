/*
 * The console's scripts. They ask /api/… and /decisions of the address that they came from, and show what they get:
 *
 *     console.js      begins, and asks again every two seconds
 *     text.js         text, tables, bars: what the others show things with, and what they know
 *     state.js        state, troubles, engines; traffic
 *     decisions.js    live decisions
 *     detail.js       one decision
 *     fleet.js        whom exceptions let through, clocks, keys
 *     ruled.js        rules in force
 */
import { $, ask, el, forget, known, leaving } from "/console/text.js";
import { showState, showTraffic } from "/console/state.js";
import { follow, toggle } from "/console/decisions.js";
import { showClocks, showKeys, showPasses, showUnused } from "/console/fleet.js";
import { showRules } from "/console/ruled.js";

let turn = 0,
  away = false;
async function refresh() {
  if (document.hidden) return;
  try {
    if (known.held) {
      await ask("/api/reasons"); // nothing is shown; but who reads here stays signed in, and who has left does not
      return;
    }
    known.state = await ask("/api/state");
    away = false;
    showState();
    showTraffic(await ask("/api/traffic"));
    if (turn++ % 3 === 0) {
      known.rules = await ask("/api/rules");
      showRules();
      showUnused();
      showPasses(await ask("/api/passes"));
      showClocks(await ask("/api/clocks"));
      showKeys(await ask("/api/keys"));
    }
  } catch (e) {
    if (!away) {
      forget("troubles");
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
const LEAVING =
  "Nobody has touched this page for a while, and it signs out in less than a minute. Press any key to stay.";
function warn() {
  const text = known.state && known.state.signed_in && leaving() ? LEAVING : "";
  if ($("leaving").textContent !== text) $("leaving").textContent = text;
}
async function turns() {
  warn();
  await refresh();
  setTimeout(turns, 2000);
}

$("hold").addEventListener("click", (e) => {
  known.held = !known.held;
  toggle(e.target, "Resume updates", "Pause updates", known.held);
});

(async () => {
  try {
    known.reasons = await ask("/api/reasons");
    const select = $("filters").elements.reason;
    for (const name of Object.keys(known.reasons)) select.append(el("option", { value: name }, name));
  } catch {
    /* the first turn says so */
  }
  follow();
  turns();
})();
