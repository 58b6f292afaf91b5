// Browsers in which people look at the page, and how they ask the test behind it.
"use strict";

const assert = require("node:assert/strict");
const http = require("node:http");
const net = require("node:net");
const { chromium } = require("playwright-core");

const given = JSON.parse(process.argv[2]); // type given in browser_test.go
const limit = 60_000; // whatever only the speed of the machine decides
const origin = new URL(given.Admin).origin;

// The screens by name, with paths below /ui/.
const screens = {
  overview: "", mesh: "mesh", bans: "bans", why: "why?addr=203.0.113.7", held: "held", allow: "allow", members: "members",
  keys: "keys", audit: "audit", drill: "drill", error: "no-such-page", search: "bans?q=nothing-fits",
};

let browser;
let admitted; // the cookie of the browser that opened the one-time address
let contexts = [];
const complaints = []; // of Chromium: violations of the policy, failed scripts, other errors

async function start() {
  browser = await chromium.launch({
    executablePath: "/usr/bin/chromium", timeout: limit,
    args: ["--disable-gpu", "--host-resolver-rules=MAP evil.example 127.0.0.1"],
  });
}

const keep = async (page) => { admitted = await page.context().storageState(); };
const cookies = () => admitted;

// stranger returns a page of a browser without a cookie. It may complain: it is shown what others do.
async function stranger(options) {
  const context = await browser.newContext({ locale: "en-GB", timezoneId: "Asia/Kolkata", colorScheme: "light", viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(limit);
  contexts.push(context);
  return context.newPage();
}

// person returns a page of the administrator's browser.
async function person(options) {
  const page = await stranger({ storageState: admitted, ...options });
  page.context().on("console", (m) => { if (m.type() === "error" || m.type() === "warning") complaints.push(`${m.location().url}: ${m.text()}`); });
  page.context().on("weberror", (e) => complaints.push(`${page.url()}: ${e.error().stack}`));
  return page;
}

// visit opens a screen by its path below /ui/.
async function visit(page, path = "", status = 200, at = origin) {
  const answer = await page.goto(`${at}/ui/${path}`);
  assert.equal(answer.status(), status, `${path}: ${await answer.text()}`);
  return page;
}

// sees waits for a text in an element that is visible.
const sees = (page, selector, text) => page.locator(selector).filter({ hasText: text, visible: true }).first().waitFor();

// noted waits for what the page says became of a form.
const noted = (page, text) => sees(page, ".note", text);

// ask has the test do something, and returns what it says.
async function ask(path, body) {
  const answer = await fetch(`${given.Rig}/${path}`, { method: "POST", body: JSON.stringify(body ?? null) });
  const text = await answer.text();
  assert.ok(answer.ok, `${path} ${JSON.stringify(body)}: ${text}`);
  return text;
}

// meshban runs a command on node 1, 2 or 3.
const meshban = (node, ...args) => ask(`run/${node}`, args);

// lines runs a command that prints JSON objects.
const lines = async (node, ...args) => (await meshban(node, ...args, "--json")).trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));

// until waits for what a node learns from others.
async function until(what, f) {
  for (const end = Date.now() + limit; !(await f()); await new Promise((go) => setTimeout(go, 100))) assert.ok(Date.now() < end, `not in time: ${what}`);
}

// request is HTTP without a browser. It returns status and body.
function request(url, { method = "GET", headers = {}, body } = {}) {
  return new Promise((done, fail) => {
    const r = http.request(url, { method, headers }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part) => (text += part)).on("end", () => done({ status: answer.statusCode, text }));
    });
    r.on("error", fail).end(body);
  });
}

// servers end with the script.
const listen = (server) => new Promise((done) => server.listen(0, "127.0.0.1", () => done(server.address().port)).unref());

// forward is what `ssh -L` does with the control socket. It returns an origin.
async function forward() {
  const port = await listen(net.createServer((near) => {
    const far = net.connect(given.Socket);
    near.on("error", () => far.destroy()).pipe(far).on("error", () => near.destroy()).pipe(near);
  }));
  return `http://127.0.0.1:${port}`;
}

// site serves one page of somebody else, and returns its port.
const site = (page) => listen(http.createServer((_, w) => w.setHeader("Content-Type", "text/html").end(page)));

const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

// form is a page with a form for another site.
const form = (url, fields) => `<!doctype html><title>evil</title><form method="post" action="${escape(url)}">` +
  Object.entries(fields).map(([name, value]) => `<input type="hidden" name="${name}" value="${escape(value)}">`).join("") +
  `<button>Win</button></form>`;

// tabTo presses Tab until an element has the focus, which must be visible.
async function tabTo(page, selector, text) {
  for (let i = 0; i < 80; i++) {
    await page.keyboard.press("Tab");
    const focus = page.locator("*:focus");
    if (!(await focus.count())) continue;
    const here = await focus.evaluate((e, selector) => ({ is: e.matches(selector), text: e.textContent, ring: getComputedStyle(e).outlineStyle }), selector);
    assert.notEqual(here.ring, "none", `no ring around ${here.text}`);
    if (here.is && here.text.includes(text)) return focus;
  }
  throw new Error(`Tab does not reach ${selector} ${text}`);
}

// run does the checks in turn and prints what became of each.
async function run(checks) {
  await start();
  for (const name of given.Checks) {
    const begun = performance.now();
    let error = "";
    try {
      await checks[name]();
    } catch (e) {
      error = e.stack;
      for (const page of contexts.flatMap((c) => c.pages())) {
        error += `\n--- ${page.url()}\n${(await page.locator("body").innerText({ timeout: 1000 }).catch(String)).slice(0, 2000)}`;
        if (given.Shots) await page.screenshot({ path: `${given.Shots}/failed.png` }).catch(() => {});
      }
    }
    await Promise.all(contexts.map((c) => c.close()));
    contexts = [];
    console.log(JSON.stringify({ Name: name, Error: error, Seconds: (performance.now() - begun) / 1000 }));
  }
  await browser.close();
  process.exit(0); // servers may still have connections
}

module.exports = { given, origin, screens, complaints, keep, cookies, stranger, person, visit, sees, noted, ask, meshban, lines, until, request, forward, site, form, tabTo, run };
