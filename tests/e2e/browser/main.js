"use strict";
/*
 * A browser for the tests: JSON commands on standard input, a line each, JSON answers on standard output.
 *
 *     node main.js FOLDER-OF-node_modules
 *     {"do":"open","url":"http://127.0.0.1:9090/","theme":"dark","width":360,"height":740}
 */
const path = require("path");
const readline = require("readline");
const modules = path.join(process.argv[2], "node_modules");
const { chromium } = require(path.join(modules, "playwright-core"));
const AXE = require("fs").readFileSync(path.join(modules, "axe-core", "axe.min.js"), "utf8");
// Debian's chromium has no need of anything beyond this machine.
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

let browser,
  page,
  faults = [],
  asked = [];

const DO = {
  async open(a) {
    if (page) await page.context().close();
    const context = await browser.newContext({
      viewport: { width: a.width || 1280, height: a.height || 900 },
      colorScheme: a.theme || "light",
      reducedMotion: "reduce",
      permissions: ["clipboard-read", "clipboard-write"],
      ignoreHTTPSErrors: Boolean(a.insecure),
    });
    faults = [];
    asked = [];
    page = await context.newPage();
    page.on("console", (m) => m.type() === "error" && faults.push("console: " + m.text()));
    page.on("pageerror", (e) => faults.push("error: " + e.message));
    page.on("dialog", (d) => {
      faults.push("dialog: " + d.message());
      d.dismiss();
    });
    page.on("request", (r) => asked.push(r.method() + " " + r.url()));
    page.on("popup", (p) => faults.push("popup: " + p.url()));
    const r = await page.goto(a.url);
    return { status: r.status(), headers: r.headers() };
  },
  text: (a) => page.locator(a.at).first().innerText(),
  count: (a) => page.locator(a.at).count(),
  html: (a) => page.locator(a.at).first().innerHTML(),
  run: (a) => page.evaluate(a.script),
  click: (a) => page.locator(a.at).first().click(),
  fill: (a) => page.locator(a.at).first().fill(a.text),
  select: (a) => page.locator(a.at).first().selectOption(a.text),
  press: (a) => page.keyboard.press(a.key),
  see: (a) => page.locator(a.at).first().scrollIntoViewIfNeeded(),
  shot: (a) =>
    (a.at ? page.locator(a.at).first() : page).screenshot({
      path: a.path,
      fullPage: Boolean(a.full),
      animations: "disabled",
    }),
  told: async () => ({ faults, asked }),
  async axe() {
    await page.evaluate(AXE);
    return page.evaluate(async () => {
      const r = await axe.run(document, {
        runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
      });
      const told = (list) =>
        list.map(
          (v) =>
            v.id +
            ": " +
            v.help +
            ": " +
            v.nodes.map((n) => n.html.slice(0, 200) + " — " + n.failureSummary).join("; "),
        );
      return { violations: told(r.violations), passes: r.passes.map((p) => p.id), version: axe.version };
    });
  },
};

(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: FLAGS });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const ask = JSON.parse(line);
    let answer;
    try {
      answer = { ok: await DO[ask.do](ask) };
    } catch (e) {
      answer = { failed: String(e.message) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  await browser.close();
})();
