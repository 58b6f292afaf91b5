// What people do with the page, and what others try.
"use strict";

const assert = require("node:assert/strict");
const axe = require("axe-core");
const { given, origin, screens, complaints, keep, cookies, stranger, person, visit, sees, noted, ask, meshban, lines, until, request, forward, site, form, tabTo, run } = require("./people.js");

// What somebody says who would like to run a script in the administrator's browser.
const evil = `<script>window.owned=1</script><img src=x onerror="window.owned=1">&amp;`;
const evilAddress = "203.0.113.7";
const schemes = ["light", "dark"];
const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

// fill gives the screens something to show.
async function fill() {
  await meshban(2, "ban", evilAddress, "--for", "2h", "--reason", evil);
  await meshban(2, "ban", ...Array.from({ length: 60 }, (_, i) => `198.51.100.${i + 1}`), "--for", "90m", "--reason", "port scan");
  await meshban(3, "ban", ...Array.from({ length: 90 }, (_, i) => `192.0.2.${i + 1}`), "--for", "1d", "--reason", "too many failed logins");
  await meshban(1, "ban", "203.0.113.64/28", "--for", "7d", "--reason", "a bad neighbourhood", "--port", "22/tcp,80");
  await meshban(2, "allow", "198.51.100.240/29", "--reason", evil);
  await meshban(1, "key", "add", "shop", "--may", "ban");
  await until("152 bans", async () => (await lines(1, "list")).length === 152);
  await until("an allow entry", async () => (await meshban(1, "allow", "--list")).includes("198.51.100.240"));
}

// banned bans an address and waits until the packets from it are dropped everywhere.
async function banned(address, reason = "for a check") {
  await ask(`watch/${address}`);
  await meshban(2, "ban", address, "--for", "1h", "--reason", reason);
  await ask(`dropped/${address}`);
}

const checks = {};

checks["the address opens the page once"] = async () => {
  const page = await person();
  await page.goto(given.Admin);
  await sees(page, "h1", /All is well|problem/);
  assert.equal(page.url(), `${origin}/ui/`, "the token stays in the address");
  await keep(page);
  const other = await stranger();
  assert.equal((await other.goto(given.Admin)).status(), 403);
  const cookies = await page.context().cookies();
  assert.deepEqual(cookies.map((c) => [c.sameSite, c.httpOnly]), [["Strict", true]]);
};

checks["empty screens say what to do"] = async () => {
  const page = await person();
  let empty = 0;
  for (const path of ["bans", "held", "allow", "keys", "drill", "audit?q=nothing", "bans?q=nothing", "why?addr=203.0.113.9", ""]) {
    await visit(page, path);
    for (const e of await page.locator("main .empty").all()) {
      empty++;
      assert.ok(await e.evaluate((e) => e.querySelector("a,code") || /Run one|Add your/.test(e.textContent)), `${path}: ${await e.textContent()}`);
    }
  }
  assert.ok(empty >= 9, `${empty} empty states`);
  await fill();
};

checks["search"] = async () => {
  const page = await person();
  const find = async (text) => {
    await page.locator("#find").fill(text);
    await page.locator("#find").press("Enter");
    await page.waitForURL((url) => !url.pathname.endsWith("/find") && url.search !== "");
  };
  const rows = () => page.locator("main tbody th a").allTextContents();
  await visit(page);
  await find(evilAddress);
  await sees(page, "h1", evilAddress);
  await find("203.0.113.64/27");
  assert.deepEqual(await rows(), ["203.0.113.64/28"]);
  await find("NEIGHBOURHOOD");
  assert.deepEqual(await rows(), ["203.0.113.64/28"]);
  await find("n3");
  assert.equal((await rows()).length, 50);
  assert.ok((await rows()).every((a) => a.startsWith("192.0.2.")));
  await page.getByLabel("State").selectOption("held");
  await page.getByRole("main").getByRole("button", { name: "Search" }).click();
  await page.waitForURL(/state=held/);
  const held = await rows();
  assert.ok(held.length > 0 && held.length < 50, `${held.length} are held`);
  // Page by page everything comes once.
  await visit(page, "bans?q=cli");
  const all = await rows();
  for (let more = page.getByRole("link", { name: "More" }); await more.count(); all.push(...(await rows()))) {
    const before = page.url();
    await more.click();
    await page.waitForURL((url) => url.href !== before);
  }
  assert.equal(all.length, 152);
  assert.equal(new Set(all).size, 152);
};

checks["why"] = async () => {
  const page = await person();
  await visit(page, "bans?q=neighbourhood");
  await page.getByRole("link", { name: "203.0.113.64/28" }).click();
  await sees(page, "h1", "203.0.113.64/28");
  await until("what the others do", async () => {
    await visit(page, "why?addr=198.51.100.7");
    return (await page.locator("tbody tr").allInnerTexts()).map((row) => row.trim().replace(/\s+/g, " ")).join() === "n1 this node dropped,n2 dropped,n3 dropped";
  });
  await sees(page, "h1", "dropped");
  await sees(page, ".lead", "This node drops every packet from 198.51.100.7 until");
  await sees(page, ".timeline li", /ban of 198.51.100.7.* by n2: port scan/);
};

checks["unban opens every kernel"] = async () => {
  const address = "198.18.1.1";
  await banned(address);
  const page = await visit(await person(), `why?addr=${address}`);
  await page.getByRole("button", { name: "Unban everywhere" }).click();
  await noted(page, `${address} is lifted`);
  await ask(`open/${address}`);
};

checks["an unban is taken back"] = async () => {
  const address = "198.18.1.2";
  await banned(address, "as before");
  const page = await visit(await person(), `why?addr=${address}`);
  await page.getByRole("button", { name: "Unban everywhere" }).click();
  await noted(page, "is lifted");
  await ask(`open/${address}`);
  await page.getByRole("button", { name: "Ban it again" }).click();
  await noted(page, `${address} is banned`);
  await sees(page, ".timeline li", "as before");
  await ask(`dropped/${address}`);
};

checks["allow for a day"] = async () => {
  const address = "198.18.1.3";
  await banned(address);
  const page = await visit(await person(), `why?addr=${address}`);
  await page.getByRole("button", { name: "Allow for a day" }).click();
  await noted(page, `${address} is on the allow list`);
  await ask(`open/${address}`);
  await page.getByRole("button", { name: "Take it off the list" }).click();
  await noted(page, "is off the allow list");
  await ask(`dropped/${address}`);
};

checks["ban for longer"] = async () => {
  const address = "198.18.1.4";
  await banned(address);
  const page = await visit(await person(), `why?addr=${address}`);
  await page.getByLabel("Ban for longer").selectOption("7d");
  await page.getByLabel("Reason").fill("again and again");
  await page.getByRole("button", { name: "Ban", exact: true }).click();
  await noted(page, `${address} is banned`);
  await sees(page, ".timeline li", "again and again");
  await until("the longer ban on node 3", async () =>
    (await lines(3, "list")).some((e) => e.prefix.startsWith(address) && new Date(e.until) - Date.now() > 6.9 * 86_400_000));
};

checks["actions ask or can be undone"] = async () => {
  const page = await person();
  const asks = async (path, button, question) => {
    await visit(page, path);
    await page.getByRole("button", { name: button }).first().click();
    await sees(page, "h1", question);
  };
  await asks("members", "Revoke…", /^Revoke n[23] for good\?$/);
  await page.getByRole("link", { name: "Cancel" }).click();
  await sees(page, "h1", "Members");
  await asks("keys", "Delete…", "Delete the key shop?");
  await asks("held", "Drop all", "Drop everything on hold that n3 has said?");
  await asks("held", "Release", /^Release/);
  const address = (await lines(1, "held", "list"))[0].prefix;
  await page.getByRole("button", { name: "Release" }).click();
  await noted(page, "released");
  await until("a released ban", async () => (await lines(1, "list")).some((e) => e.prefix === address && e.state === "enforced"));
  await visit(page, "allow");
  await page.getByRole("row", { name: "198.51.100.240/29" }).getByRole("button", { name: "Remove" }).click();
  await page.getByRole("button", { name: "Allow it again" }).click();
  await noted(page, "198.51.100.240/29 is on the allow list");
  await visit(page, "keys");
  await page.getByLabel("Name of a new key").fill("robot");
  await page.getByRole("button", { name: "Add" }).click();
  await sees(page, "code.secret", /\w{20}/);
  assert.equal(new URL(page.url()).search, "", "a key is in the address");
  assert.equal((await lines(2, "members")).filter((m) => m.revoked).length, 0, "a question has revoked somebody");
};

checks["a reason is text"] = async () => {
  const page = await person();
  for (const path of ["bans?q=window.owned", `why?addr=${evilAddress}`, "allow", "audit?q=window.owned"]) {
    await visit(page, path);
    await page.getByText(evil, { exact: true }).first().waitFor();
    const found = await page.evaluate(() => [window.owned ?? 0, document.querySelectorAll("main script, main img, main [onerror]").length]);
    assert.deepEqual(found, [0, 0], path);
  }
};

checks["live tail"] = async () => {
  const address = "198.18.1.5";
  const page = await visit(await person());
  const tail = page.locator("[data-tail]");
  await until("the ban in the tail", async () => { // what happens before the browser follows, it does not show
    await meshban(2, "ban", address, "--reason", evil);
    const there = await tail.getByText(address).first().waitFor({ timeout: 2000 }).then(() => true, () => false);
    if (!there) await meshban(2, "unban", address);
    return there;
  });
  const row = tail.locator("li").filter({ hasText: address }).filter({ hasText: evil }).first();
  await row.waitFor();
  assert.match(await row.innerText(), /ban[\s\S]*by n2, cli[\s\S]*\d\.\d ms/);
  assert.deepEqual(await page.evaluate(() => [window.owned ?? 0, document.querySelectorAll("main script, main img").length]), [0, 0]);
  await row.getByRole("link", { name: address }).click();
  await sees(page, "h1", address);
  await page.getByRole("button", { name: "Unban everywhere" }).click();
  await noted(page, "is lifted");
};

checks["a ban's way through the mesh"] = async () => {
  const page = await visit(await person(), "mesh");
  await sees(page, "figcaption", "3 of 3 nodes are alive and in sync");
  const id = (await lines(1, "members")).find((m) => m.name === "n3").id;
  await until("the ban in the picture", async () => {
    await meshban(3, "ban", "198.18.1.6");
    const there = await page.locator(`line.pulse[data-link="${id}"]`).waitFor({ state: "attached", timeout: 2000 }).then(() => true, () => false);
    await meshban(3, "unban", "198.18.1.6");
    return there;
  });
  await page.locator(`g.pulse[data-node="${id}"]`).waitFor();
};

checks["drill"] = async () => {
  const watching = await visit(await person(), "drill");
  const page = await visit(await person(), "drill");
  await page.getByRole("button", { name: "Run a drill" }).click();
  await sees(page, "h2", "3 of 3 nodes dropped");
  for (const node of ["n1", "n2", "n3"]) await sees(page, "tr", new RegExp(`${node}\\s*dropped\\s*\\d+\\.\\d ms`));
  const address = (await page.locator("h2").filter({ hasText: "nodes dropped" }).innerText()).split(" ").at(-1);
  await sees(watching, "[data-tail] li", address);
  await visit(page, "drill");
  await sees(page, "section", `3 of 3 nodes dropped ${address}`);
};

// token returns what goes into each form of the administrator.
async function token(page) {
  await visit(page, "bans");
  return page.locator("input[name=token]").first().getAttribute("value");
}

// others has pages of other sites send a form to target. The first is of another site, to which the cookie is not sent; the
// second is of the same site, but of another origin.
async function others(victim, target, fields) {
  const port = await site(form(`${target}/ui/do/ban`, fields));
  for (const host of ["localhost", "127.0.0.1"]) {
    await victim.goto(`http://${host}:${port}/`);
    const refused = victim.waitForResponse(`${target}/ui/do/ban`);
    await victim.getByRole("button", { name: "Win" }).click();
    assert.equal((await refused).status(), 403, `from ${host}`);
  }
  assert.ok(!(await lines(1, "list")).some((e) => e.prefix.startsWith(fields.addr)), "it has banned");
}

checks["a page of another site changes nothing"] = async () => {
  const victim = await stranger({ storageState: cookies() });
  const fields = { token: await token(victim), addr: "198.18.1.7" };
  await others(victim, origin, fields);
  await others(victim, await forward(), fields);
  // Nor can one show the page inside of its own.
  const port = await site(`<!doctype html><title>evil</title><iframe src="${origin}/ui/"></iframe>`);
  await victim.goto(`http://127.0.0.1:${port}/`);
  assert.equal(await victim.frames()[1].locator("h1").count(), 0, "it is shown in a frame");
};

checks["a foreign host is refused"] = async () => {
  const near = await forward();
  const page = await stranger();
  for (const at of [origin, near]) {
    const answer = await page.goto(`http://evil.example:${new URL(at).port}/ui/`);
    assert.equal(answer.status(), 403, at);
  }
  const cookie = cookies().cookies.map((c) => `${c.name}=${c.value}`).join("; ");
  for (const host of ["evil.example", "evil.example:80", "127.0.0.1.evil.example"]) {
    const { status, text } = await request(`${origin}/ui/`, { headers: { host, cookie } });
    assert.equal(status, 403);
    assert.match(text, /cross-site/);
  }
  assert.equal((await request(`${origin}/ui/`, { headers: { cookie } })).status, 200); // it is the host
};

// looks opens every screen as somebody who may only look.
async function looks(page, at) {
  for (const [name, path] of Object.entries(screens)) {
    if (name !== "error") await visit(page, path, 200, at);
    assert.equal(await page.locator("form[method=post]").count(), 0, name);
    const buttons = await page.getByRole("button").allTextContents();
    assert.ok(buttons.every((b) => b === "Search"), `${name}: ${buttons}`);
  }
  await page.locator(".role").waitFor();
  for (const action of ["ban", "unban", "allow", "revoke", "key-add", "drill", "decide"]) {
    const status = await page.evaluate(async (url) => (await fetch(url, { method: "POST", body: new URLSearchParams({ addr: "198.18.1.8", name: "x", sure: "yes", token: "" }) })).status, `/ui/do/${action}`);
    assert.equal(status, 403, action);
  }
}

checks["who may look sees no buttons"] = async () => {
  const page = await stranger();
  await page.goto(given.Reader);
  await sees(page, ".role", "You may look, but not change anything.");
  await looks(page, new URL(given.Reader).origin);
};

checks["a forwarded socket only shows"] = async () => {
  const at = await forward();
  const page = await visit(await stranger(), "", 200, at);
  await sees(page, ".role", "meshban dashboard");
  await looks(page, at);
  // The administrator's form token does not help: the browser has not come through `meshban dashboard`.
  const body = new URLSearchParams({ addr: "198.18.1.8", token: await token(await person()) }).toString();
  const { status } = await request(`${at}/ui/do/ban`, { method: "POST", body, headers: { "content-type": "application/x-www-form-urlencoded" } });
  assert.equal(status, 403);
  assert.ok(!(await lines(1, "list")).some((e) => e.prefix.startsWith("198.18.1.8")));
};

checks["a key opens it on the api listener"] = async () => {
  const at = "http://127.0.0.1:8080";
  assert.equal((await request(`${at}/ui/`)).status, 401);
  const open = async (...rights) => {
    const password = (await meshban(1, "key", "add", rights.join("-"), "--may", rights.join(","))).trim();
    return visit(await stranger({ httpCredentials: { username: "", password } }), "bans", 200, at);
  };
  await looks(await open("look"), at);
  const page = await open("look", "operate");
  await others(page, at, { addr: "198.18.1.13", token: await page.locator("input[name=token]").first().getAttribute("value") });
  await visit(page, "bans", 200, at);
  await page.getByText("Ban an address").click();
  await page.getByLabel("Address or network").fill("198.18.1.14");
  await page.getByRole("button", { name: "Ban", exact: true }).click();
  await noted(page, "198.18.1.14 is banned");
};

checks["without JavaScript"] = async () => {
  const address = "198.18.1.9";
  await banned(address);
  const page = await person({ javaScriptEnabled: false });
  for (const [name, path] of Object.entries(screens)) {
    await visit(page, path, name === "error" ? 404 : 200);
    await page.locator("main h1").waitFor();
  }
  await page.locator("#find").fill(address);
  await page.locator("#find").press("Enter");
  await sees(page, "time", "UTC");
  await page.getByRole("button", { name: "Unban everywhere" }).click();
  await noted(page, "is lifted");
  await ask(`open/${address}`);
  await page.getByRole("button", { name: "Ban it again" }).click();
  await noted(page, "is banned");
  await page.getByRole("link", { name: "Members" }).click();
  await page.getByRole("button", { name: "Revoke…" }).first().click();
  await sees(page, "h1", "for good?");
  await visit(page, "bans");
  await page.getByText("Ban an address").click();
  await page.getByLabel("Address or network").fill("198.18.1.10");
  await page.getByRole("button", { name: "Ban", exact: true }).click();
  await noted(page, "198.18.1.10 is banned");
};

checks["keyboard only"] = async () => {
  const address = "198.18.1.11";
  await banned(address);
  const page = await visit(await person());
  const press = (key) => page.keyboard.press(key);
  await tabTo(page, "a.skip", "Skip");
  await press("Enter");
  assert.equal(await page.locator("main:focus").count(), 1);
  await press("/");
  assert.equal(await page.locator("#find:focus").count(), 1);
  await page.keyboard.type(address);
  await press("Enter");
  await sees(page, "h1", address);
  await tabTo(page, "button", "Unban everywhere");
  await press("Enter");
  await noted(page, "is lifted");
  await ask(`open/${address}`);
  await tabTo(page, "button", "Ban it again");
  await press("Space");
  await noted(page, "is banned");
  await tabTo(page, "nav a", "Bans");
  await press("Enter");
  await sees(page, "h1", "Bans");
  await tabTo(page, "summary", "Ban an address");
  await press("Enter");
  await tabTo(page, "#addr", "");
  await page.keyboard.type("198.18.1.12");
  await tabTo(page, "main form[method=post] button", "Ban");
  await press("Enter");
  await noted(page, "198.18.1.12 is banned");
  await tabTo(page, "button", "Unban");
  await press("Enter");
  await noted(page, "198.18.1.12 is lifted");
};

checks["phone width"] = async () => {
  const page = await person(phone);
  for (const [name, path] of Object.entries(screens)) {
    await visit(page, path, name === "error" ? 404 : 200);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= phone.viewport.width, `${name} is ${wide} pixels wide`);
  }
};

checks["times are the reader's"] = async () => {
  const page = await visit(await person(), "audit");
  const time = page.locator("main time").first();
  const [exact, title, text] = await time.evaluate((t) => [t.dateTime, t.title, t.textContent]);
  assert.equal(title, exact.replace("T", " ").replace("Z", " UTC"));
  const there = new Date(exact).toLocaleTimeString("en-GB", { timeZone: "Asia/Kolkata", hour: "2-digit", minute: "2-digit" });
  assert.ok(text.includes(there), `${exact} is shown as ${text}, want ${there}`);
};

checks["light and dark"] = async () => {
  const paper = [];
  for (const colorScheme of schemes) {
    const page = await visit(await person({ colorScheme }));
    paper.push(await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g).slice(0, 3).reduce((sum, c) => sum + Number(c), 0)));
  }
  assert.ok(paper[0] > 600 && paper[1] < 150, `${paper}`);
};

checks["everybody can use it"] = async () => {
  const found = [];
  // In the dark and on a phone only colours and sizes differ.
  for (const [colorScheme, options, rules] of [["light", {}, null], ["dark", phone, ["color-contrast", "target-size"]]]) {
    const page = await person({ ...options, colorScheme });
    const judge = async (name) => {
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate((rules) => window.axe.run(document, { resultTypes: ["violations"], preload: false, ...(rules && { runOnly: rules }) }), rules);
      for (const v of violations) found.push(`${v.impact}: ${name}, ${colorScheme}: ${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).slice(0, 3).join(" ")}`);
    };
    for (const [name, path] of Object.entries(screens)) {
      await visit(page, path, name === "error" ? 404 : 200);
      await judge(name);
    }
    await visit(page, "members");
    await page.getByRole("button", { name: "Revoke…" }).first().click();
    await sees(page, "h1", "for good?");
    await judge("a question");
  }
  console.error(found.join("\n")); // the others are shown if something fails
  assert.deepEqual(found.filter((f) => /^(serious|critical)/.test(f)), []);
};

checks["pictures"] = async () => {
  if (!given.Shots) return;
  for (const [width, options] of [["wide", {}], ["phone", phone]]) {
    for (const colorScheme of schemes) {
      const page = await person({ ...options, colorScheme });
      for (const [name, path] of Object.entries(screens)) {
        await visit(page, path, name === "error" ? 404 : 200);
        await page.screenshot({ path: `${given.Shots}/${name}-${colorScheme}-${width}.png`, fullPage: true });
      }
    }
  }
};

checks["no CSP reports"] = async () => {
  assert.deepEqual(complaints.filter((c) => !c.includes("no-such-page")), []);
  const page = await visit(await person()); // a script inside the page would be reported
  await page.evaluate(() => document.body.append(Object.assign(document.createElement("script"), { text: "window.owned = 1" })));
  await until("a report", () => complaints.some((c) => /Content Security Policy/.test(c)));
  assert.equal(await page.evaluate(() => window.owned), undefined);
};

run(checks);
