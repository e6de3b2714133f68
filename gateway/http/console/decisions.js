// Live decisions, with filters and a pause.
import { $, el, get, known } from "/console/text.js";
import { openDetail } from "/console/detail.js";

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

export async function follow() {
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
      const r = await get("/decisions?" + q.toString().replace(/\+/g, "%20"), { signal: mine.signal });
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
  if (paused || known.held || !waiting.length) return;
  const list = $("lines"),
    at = list.scrollTop,
    before = list.scrollHeight;
  for (const d of waiting.splice(0)) list.prepend(lineOf(d));
  while (list.children.length > LINES) list.lastChild.remove();
  if (at > 0) list.scrollTop = at + list.scrollHeight - before; // who has scrolled stays where he reads
  if (missed) said(`Live: new decisions appear on top. ${missed} came too fast to be shown: the log has them.`);
}, 250);

export function toggle(button, on, off, pressed) {
  button.setAttribute("aria-pressed", pressed);
  button.textContent = pressed ? on : off;
}
$("pause").addEventListener("click", (e) => {
  paused = !paused;
  toggle(e.target, "Resume", "Pause", paused);
  said(paused ? "Paused." : "Live: new decisions appear on top.");
});
let soon = 0;
const again = () => {
  clearTimeout(soon);
  soon = setTimeout(follow, 300);
};
$("filters").addEventListener("input", again);
$("filters").addEventListener("reset", () => setTimeout(again));
$("filters").addEventListener("submit", (e) => e.preventDefault());
