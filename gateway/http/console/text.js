/*
 * Text and tables of the console, and what all its parts know.
 *
 * What is shown comes from strangers: it is put into the page as text nodes alone (no HTML is ever made of a string; the
 * page's policy forbids it, too), and characters that would hide or turn what stands beside them are written as escapes.
 */
export const $ = (id) => document.getElementById(id);

// The newest answers of /api/state, /api/rules and /api/reasons; held: the page is to stand still.
export const known = { state: null, rules: null, reasons: {}, held: false };

// As on a terminal (gateway/base/text.c): controls, formats (bidi, zero width, tags), what is displayed as nothing.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\p{Cs}\u2028\u2029]/gu;
export const shown = (s) =>
  String(s).replace(HIDDEN, (c) => {
    const n = c.codePointAt(0);
    const hex = n.toString(16);
    return n < 0x20 || n === 0x7f
      ? "\\x" + hex.padStart(2, "0")
      : n > 0xffff
        ? "\\U" + hex.padStart(8, "0")
        : "\\u" + hex.padStart(4, "0");
  });
export const plain = (s) => shown(s) === String(s);

// Children are elements, or what is shown as text; null and undefined are left out.
export function el(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {}))
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) e.setAttribute(name, value);
  for (const c of children.flat(Infinity))
    if (c !== null && c !== undefined) e.append(c instanceof Node ? c : document.createTextNode(shown(c)));
  return e;
}
export const svg = (tag, attributes) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
};
// Our own words may hold `code`.
export const words = (text) =>
  String(text)
    .split("`")
    .map((part, i) => (i % 2 ? el("code", {}, part) : part));
export const many = (n, one) => n.toLocaleString("en") + " " + one + (n === 1 ? "" : "s");
export const seconds = (ms) => (ms / 1000).toFixed(Math.abs(ms) < 10000 ? 2 : 0) + " s";
export const when = (iso) =>
  iso ? el("time", { datetime: iso }, iso.replace("T", " ").replace(/(\.\d+)?Z$/, "")) : "never";
export const DAY = 86400000;
export const ago = (iso, now) => {
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
export function table(caption, heads, rows) {
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
export const overDays = (days) =>
  bars(
    [...days].reverse(),
    `Last ${days.length} days: ${days.reduce((a, b) => a + b, 0)} in all, at most ${Math.max(...days)} a day`,
  );

// Replaces what a place shows, only when it changes: nobody who reads or has opened something there is disturbed.
const last = new Map();
export function show(id, key, make) {
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
export const fold = (key, summary, ...content) =>
  el("details", { "data-key": key }, el("summary", { "data-key": "s:" + key }, summary), content);
export const nothing = (text) => el("p", {}, text);

// What a place shows is to be made again.
export const forget = (id) => last.delete(id);

// ---- asking

/*
 * What the page asks by itself while nobody touches it keeps no session: the gateway ends that after a while (sessions.h),
 * and the sign-in page comes. `touched`: when somebody last did something here.
 */
const IDLE = 15 * 60000,
  WARNED = 60000;
let touched = performance.now(),
  attended = 0;
// Not "focus", which show() gives back by itself; and a pointer that lies still is moved when the page below it moves.
for (const event of ["pointerdown", "pointermove", "keydown", "wheel", "touchmove"])
  addEventListener(
    event,
    (e) => {
      if (event !== "pointermove" || e.movementX || e.movementY) touched = performance.now();
    },
    { capture: true, passive: true },
  );
// The session is about to end.
export const leaving = () => performance.now() - touched > IDLE - WARNED;

export async function get(path, options) {
  const now = performance.now(),
    alone = touched < attended;
  if (!alone) attended = now;
  const headers = alone ? { "X-Kmsgate-Unattended": "1" } : {};
  const r = await fetch(path, { cache: "no-store", credentials: "same-origin", headers, ...options });
  if (r.status === 401 || r.status === 403) location.reload(); // the session is over: the sign-in page comes
  return r;
}
export async function ask(path) {
  const r = await get(path);
  if (!r.ok) throw new Error(path + ": " + r.status);
  return r.json();
}
