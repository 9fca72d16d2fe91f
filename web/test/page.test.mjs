// The page as people use it: two of them in Chromium, through one relay.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { browser, choose, folder, open, relay, signIn, slowly } from "./lib.mjs";

const sum = (p) => createHash("sha256").update(p).digest("hex");
const middle = 0.02; // of a transfer: it has begun and is far from its end
let r, b, dir, alice, bob, big, bigSum, huge;
const faults = [];

before(async () => {
  [r, b, dir] = await Promise.all([relay(), browser(), folder()]);
  const content = randomBytes(128 << 20);
  big = join(dir, "big.bin");
  bigSum = sum(content);
  await writeFile(big, content);
  huge = join(dir, "huge.bin");
  await writeFile(huge, "");
  await truncate(huge, 2 ** 30);
  alice = await open(b.context, r.url, faults);
  await signIn(alice, "alice");
  bob = await open(b.context, r.url, faults);
  await signIn(bob, "bob");
  await choose(alice, "bob");
  await choose(bob, "alice");
});

after(async () => {
  await b?.stop();
  await r?.stop();
  await rm(dir, { recursive: true, force: true });
});

const card = (page, name) => page.locator(".talk .card", { hasText: name }).last();
const ended = (page, name, how) => page.locator(`.talk .card.${how}`, { hasText: name }).last().waitFor();
const attach = (page, files) => page.locator("#picker").setInputFiles(files);
const said = (page, text) => page.locator(".talk .said", { hasText: text }).last();
const isGoing = (page, name) => page.waitForFunction(([n, m]) => [...document.querySelectorAll(".talk .card")].some((c) => c.textContent.includes(n) && c.querySelector("progress").value > m), [name, middle]);
async function saved(page, name) {
  const download = page.waitForEvent("download");
  await card(page, name).getByRole("button", { name: "Save" }).click();
  const d = await download;
  return { name: d.suggestedFilename(), sum: sum(await readFile(await d.path())) };
}

test("what comes over the wire has the policy, and the page keeps to it", async () => {
  const answer = await fetch(r.url);
  const policy = answer.headers.get("content-security-policy");
  for (const part of ["default-src 'none'", "script-src 'self' 'wasm-unsafe-eval';", "style-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"]) {
    assert.ok(policy.includes(part), `${part} is not in ${policy}`);
  }
  assert.ok(!policy.includes("unsafe-inline"));
  assert.equal(answer.headers.get("x-content-type-options"), "nosniff");
  assert.equal(answer.headers.get("cache-control"), "no-cache");
  const html = await answer.text();
  assert.ok(!/<script>|<style|style=|\son\w+=/.test(html), "something is inline");
  const script = /src="\.\/(assets\/[^"]+\.js)"/.exec(html)[1];
  const asset = await fetch(new URL(script, r.url));
  assert.match(asset.headers.get("cache-control"), /immutable/);
  assert.equal(asset.headers.get("content-security-policy"), policy);
  const other = await open(b.context, r.url);
  await assert.rejects(other.evaluate(() => (document.body.innerHTML = "<b>x</b>")), /TrustedHTML/);
  await other.close();
  assert.equal(await alice.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage })).then((s) => /eyJ/.test(s)), false, "a token is kept");
});

test("a command arrives, and says so", async () => {
  await alice.locator("#message").fill("hello 点");
  await alice.locator("#message").press("Enter");
  await said(bob, "hello 点").waitFor();
  await alice.locator(".bubble.out", { hasText: "hello 点" }).getByText("delivered").waitFor();
});

test("a buffer is offered, accepted and shown as text; a picture as a picture", async () => {
  await alice.getByRole("radio", { name: "Buffer" }).check();
  await alice.locator("#message").fill("<script>alert(1)</script> in a buffer");
  await alice.locator("#message").press("Enter");
  await bob.getByRole("button", { name: /^Accept/ }).click();
  await bob.locator(".preview pre", { hasText: "<script>alert(1)</script> in a buffer" }).waitFor();
  const png = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
  await attach(alice, { name: "dot.png", mimeType: "image/png", buffer: png });
  await bob.getByRole("button", { name: /^Accept/ }).click();
  await bob.locator(".preview img").waitFor();
  await attach(alice, { name: "evil.svg", mimeType: "image/svg+xml", buffer: Buffer.from("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>") });
  await bob.getByRole("button", { name: /^Accept/ }).click();
  await ended(bob, "evil.svg", "done");
  assert.equal(await bob.locator(".preview img").count(), 1, "an SVG is shown as a picture");
  await alice.getByRole("radio", { name: "Command" }).check();
});

test("a file arrives with the same bytes, is saved and removed", async () => {
  const content = randomBytes(3 << 20);
  await attach(alice, { name: "photo one.jpg", mimeType: "application/x-photo", buffer: content });
  await bob.getByRole("button", { name: "Accept: photo one.jpg" }).click();
  await ended(alice, "photo one.jpg", "done");
  assert.match(await card(alice, "photo one.jpg").innerText(), /bob has it, complete and checked/);
  assert.deepEqual(await saved(bob, "photo one.jpg"), { name: "photo one.jpg", sum: sum(content) });
  await card(bob, "photo one.jpg").getByRole("button", { name: /^Remove/ }).click();
  await bob.getByText("removed from this browser").first().waitFor();
});

/** What is dragged or pasted: files [name, text], or a text. */
const carried = (page, what) => page.evaluateHandle((x) => {
  const data = new DataTransfer();
  if (typeof x === "string") data.setData("text/plain", x);
  else for (const [name, content] of x) data.items.add(new File([content], name, { type: "text/plain" }));
  return data;
}, what);
/** Drags it over an element, and lets it go if `ends` says so. */
async function drag(page, selector, what, ends = true) {
  const dataTransfer = await carried(page, what);
  for (const event of ["dragenter", "dragover", ...(ends ? ["drop"] : ["dragleave"])]) await page.dispatchEvent(selector, event, { dataTransfer });
}

test("files are dropped on a name and on a talk", async () => {
  await bob.evaluate(() => [...document.querySelectorAll(".person")].find((p) => p.textContent.includes("alice")).setAttribute("data-test", "alice"));
  const [name, talk] = [".person[data-test=alice]", ".talk-col"];
  const dataTransfer = await carried(bob, [["x.txt", "x"]]);
  await bob.dispatchEvent(name, "dragenter", { dataTransfer });
  await bob.locator(`${name}.dropping`).waitFor();
  await bob.dispatchEvent(name, "dragleave", { dataTransfer });
  assert.equal(await bob.locator(".dropping").count(), 0);
  await drag(bob, name, "a text is not a file");
  assert.equal(await bob.locator(".dropping").count(), 0);
  await drag(bob, name, [["one.txt", "1"], ["two 点.txt", "22"]]);
  for (const file of ["one.txt", "two 点.txt"]) {
    await alice.getByRole("button", { name: `Accept: ${file}` }).click();
    await ended(bob, file, "done");
  }
  assert.equal((await saved(alice, "two 点.txt")).sum, sum("22"));
  await drag(bob, talk, [["three.txt", "333"]]);
  await alice.getByRole("button", { name: "Accept: three.txt" }).click();
  await ended(bob, "three.txt", "done");
  assert.equal(await bob.locator(".dropping").count(), 0);
  assert.equal(await bob.locator(".talk .card", { hasText: "text is not" }).count(), 0);
});

test("files are pasted into the message, and text stays text", async () => {
  const paste = async (what) => bob.locator("#message").evaluate((el, data) => {
    const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
    el.dispatchEvent(event);
    return event.defaultPrevented;
  }, await carried(bob, what));
  assert.equal(await paste("only text"), false, "the browser pastes text itself");
  assert.equal(await paste([["screenshot.png", "png"]]), true);
  await alice.getByRole("button", { name: "Accept: screenshot.png" }).click();
  await ended(bob, "screenshot.png", "done");
});

test("a file goes to the place that was chosen; a dialog that is closed answers nothing", async () => {
  const content = randomBytes(5 << 20);
  const carol = await b.context.newPage();
  await carol.addInitScript(() => {
    window.dialog = { closed: true, names: [] };
    window.showSaveFilePicker = async ({ suggestedName }) => {
      window.dialog.names.push(suggestedName);
      if (window.dialog.closed) throw new DOMException("The user aborted a request.", "AbortError");
      return (await navigator.storage.getDirectory()).getFileHandle("chosen", { create: true });
    };
  });
  await carol.goto(r.url);
  await signIn(carol, "carol");
  await choose(alice, "carol");
  await attach(alice, { name: "<choose>.bin", mimeType: "application/x-thing", buffer: content });
  const button = carol.getByRole("button", { name: /^Save to…: / });
  await button.click();
  await carol.waitForFunction(() => window.dialog.names.length === 1);
  await carol.evaluate(() => (window.dialog.closed = false));
  await button.click(); // the offer stands
  await ended(alice, "choose", "done");
  await ended(carol, "choose", "done");
  const [names, kept] = await carol.evaluate(async () => {
    const file = await (await (await navigator.storage.getDirectory()).getFileHandle("chosen")).getFile();
    return [window.dialog.names, [...new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()))].map((x) => x.toString(16).padStart(2, "0")).join("")];
  });
  assert.deepEqual(names, ["_choose_.bin", "_choose_.bin"]);
  assert.equal(kept, sum(content));
  await carol.close();
  await choose(alice, "bob");
});

test("names and texts of others are text, and nothing turns around", async () => {
  const name = "<img src=x onerror=document.title='owned'>\u202egpj.exe";
  await attach(alice, { name, mimeType: "text/html", buffer: Buffer.from("<script>document.title='owned'</script>") });
  const offer = bob.locator(".offer");
  await offer.waitFor();
  assert.match(await offer.innerText(), /<img src=x onerror=document\.title='owned'>⟨202E⟩gpj\.exe/);
  assert.equal(await bob.locator(".shell img[src=x]").count(), 0);
  await offer.getByRole("button", { name: /^Accept/ }).click();
  await ended(bob, "gpj.exe", "done");
  const file = await saved(bob, "gpj.exe");
  assert.ok(!/[<>\u202e]/.test(file.name), `saved as ${JSON.stringify(file.name)}`);
  await alice.locator("#message").fill("<b onclick=alert(1)>bold</b> \u202eback");
  await alice.locator("#message").press("Enter");
  await said(bob, "<b onclick=alert(1)>bold</b> ⟨202E⟩back").waitFor();
  const eve = await open(b.context, r.url, faults);
  await signIn(eve, "<i>eve</i>");
  await bob.locator(".person", { hasText: "<i>eve</i>" }).waitFor();
  await eve.close();
  assert.doesNotMatch(await bob.title(), /owned/);
});

test("what is refused is said to be, with whose word it is", async () => {
  await attach(alice, { name: "no.txt", mimeType: "text/plain", buffer: Buffer.from("x") });
  await bob.getByRole("button", { name: "Refuse: no.txt" }).click();
  await ended(alice, "no.txt", "failed");
  assert.match(await card(alice, "no.txt").innerText(), /bob refused \(code 606\)/);
  await card(bob, "no.txt").getByText("you refused it").waitFor();
  await card(alice, "no.txt").getByRole("button", { name: "Try again" }).click();
  await bob.getByRole("button", { name: "Accept: no.txt" }).click();
  await ended(alice, "no.txt", "done");
});

test("always accept from somebody, and take that back", async () => {
  await attach(alice, { name: "first.txt", mimeType: "text/plain", buffer: Buffer.from("1") });
  await bob.getByRole("button", { name: "Always accept from alice" }).click();
  await ended(bob, "first.txt", "done");
  await attach(alice, { name: "second.txt", mimeType: "text/plain", buffer: Buffer.from("2") });
  await ended(bob, "second.txt", "done");
  await bob.getByRole("button", { name: /accepted without asking/ }).click();
  await attach(alice, { name: "third.txt", mimeType: "text/plain", buffer: Buffer.from("3") });
  await bob.getByRole("button", { name: "Accept: third.txt" }).click();
  await ended(bob, "third.txt", "done");
});

test("cancel from either side, and both say so", async () => {
  for (const [page, other, words] of [[alice, bob, "cancelled by alice"], [bob, alice, "cancelled by bob"]]) {
    await attach(alice, huge);
    await bob.getByRole("button", { name: "Accept: huge.bin" }).click();
    await isGoing(alice, "huge.bin");
    await card(page, "huge.bin").getByRole("button", { name: "Cancel huge.bin" }).click();
    await ended(alice, "huge.bin", "failed");
    await ended(bob, "huge.bin", "failed");
    await card(other, "huge.bin").getByText(words).waitFor();
    await card(page, "huge.bin").getByText("cancelled", { exact: true }).waitFor();
  }
});

for (const [what, button, page] of [["the sender's line is cut", "Cut the line", () => alice], ["the receiver's line is cut", "Cut the line", () => bob], ["the server is restarted", "Restart the server", () => alice]]) {
  test(`a transfer goes on when ${what}`, async () => {
    const fast = await slowly(alice, 8 << 20); // so that it is in the middle when the line breaks
    await attach(alice, big);
    await bob.getByRole("button", { name: "Accept: big.bin" }).click();
    await isGoing(alice, "big.bin");
    await page().getByRole("button", { name: button }).click();
    await fast();
    await ended(alice, "big.bin", "done");
    await ended(bob, "big.bin", "done");
    assert.equal((await saved(bob, "big.bin")).sum, bigSum);
    await card(bob, "big.bin").getByRole("button", { name: /^Remove/ }).click();
    await alice.locator(".pill[data-line=up]").waitFor();
    assert.match(await alice.locator(".counter").innerText(), /^Sent twice: .* of /);
  });
}

test("with the keyboard alone: sign in, choose, send a file, accept, save", async () => {
  const [carol, dave] = [await open(b.context, r.url, faults), await open(b.context, r.url, faults)];
  for (const [page, name] of [[carol, "carol"], [dave, "dave"]]) {
    await page.locator("#who:focus").waitFor(); // the cursor is there already
    await page.keyboard.type(name);
    await page.keyboard.press("Enter");
    await page.locator(".pill[data-line=up]").waitFor();
  }
  await carol.locator(".person", { hasText: "dave" }).waitFor();
  const tabTo = async (page, selector) => {
    for (let i = 0; i < 60; i++) {
      if (await page.evaluate((s) => document.activeElement?.matches(s), selector)) {
        const ring = await page.evaluate(() => document.activeElement.matches(":focus-visible") && getComputedStyle(document.activeElement).outlineStyle !== "none");
        assert.ok(ring, `${selector} has no visible focus`);
        return;
      }
      await page.keyboard.press("Tab");
    }
    assert.fail(`Tab does not lead to ${selector}`);
  };
  carol.on("filechooser", () => {}); // from here on, so that no dialog comes before the browser knows that somebody waits
  await carol.evaluate(() => [...document.querySelectorAll(".person")].find((p) => p.textContent.includes("dave")).setAttribute("data-test", ""));
  await tabTo(carol, ".person[data-test]");
  await carol.keyboard.press("Enter");
  await carol.locator("#message:focus").waitFor();
  await tabTo(carol, ".attach");
  const chooser = carol.waitForEvent("filechooser");
  await carol.keyboard.press("Enter");
  await (await chooser).setFiles({ name: "keys.txt", mimeType: "text/plain", buffer: Buffer.from("typed") });
  await dave.locator(".offer").waitFor();
  await tabTo(dave, ".offer .main");
  await dave.keyboard.press("Enter");
  await carol.locator(".talk .card.done", { hasText: "keys.txt" }).waitFor();
  await dave.locator(".talk .card.done", { hasText: "keys.txt" }).waitFor();
  await tabTo(dave, ".talk .actions .main");
  const download = dave.waitForEvent("download");
  await dave.keyboard.press("Enter");
  assert.equal((await readFile(await (await download).path())).toString(), "typed");
  assert.ok(await dave.locator("[role=status]", { hasText: "keys.txt: complete and checked" }).count() > 0, "a screen reader hears nothing of the result");
  await carol.close();
  await dave.close();
});

test("everything that can be pressed has a name", async () => {
  for (const page of [alice, bob]) {
    const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input, textarea, progress, [role=log], [role=region]")]
      .filter((e) => e.offsetParent !== null && !e.hasAttribute("aria-hidden") && (e.getAttribute("aria-label") ?? e.getAttribute("aria-labelledby") ?? e.labels?.[0]?.textContent ?? e.textContent ?? "").trim() === "").map((e) => e.outerHTML));
    assert.deepEqual(nameless, []);
  }
});

test("nothing is wider than a narrow phone, in both languages", async () => {
  const phone = await open(b.context, r.url, faults);
  await phone.setViewportSize({ width: 360, height: 740 });
  const fits = async (where) => assert.deepEqual(await phone.evaluate(() => [...document.querySelectorAll("html, button, input, textarea, p, h1, h2, h3, li, section, header, nav, .pill, .card *")]
    .filter((e) => e.offsetParent !== null && !e.closest(".sr, .skip") && e.getBoundingClientRect().right > innerWidth + 1).map((e) => `${e.tagName}.${e.className}`)), [], where);
  await fits("sign in");
  await signIn(phone, "a-rather-long-name-that-somebody-has-chosen-for-a-reason");
  for (const language of ["en", "zh"]) {
    for (const [n, view] of ["people", "talk", "activity"].entries()) {
      await phone.locator(".tabs button").nth(n).click();
      await phone.locator(`.shell[data-view=${view}]`).waitFor();
      await fits(`${view} in ${language}`);
    }
    await phone.locator(".switches button").first().click();
  }
  await attach(alice, { name: "for-the-phone-with-a-long-name-that-goes-on-and-on.txt", mimeType: "text/plain", buffer: Buffer.from("x") });
  await phone.close();
});

test("who signs in under the same name takes the place, and the other is told why", async () => {
  const second = await open(b.context, r.url, faults);
  await signIn(second, "alice");
  await alice.locator(".banner.bad", { hasText: "the same name signed in somewhere else" }).waitFor();
  await alice.getByRole("button", { name: "Sign in again" }).click();
  await alice.locator("#who").press("Enter");
  await alice.locator(".pill[data-line=up]").waitFor();
  await second.locator(".banner.bad").waitFor();
  await second.close();
});

test("who is not there is said to be, and can be tried again", async () => {
  await alice.getByPlaceholder("Somebody else").fill("nobody");
  await alice.getByPlaceholder("Somebody else").press("Enter");
  await alice.locator("#message").fill("are you there?");
  await alice.locator("#message").press("Enter");
  await alice.locator(".bubble.failed", { hasText: "nobody is not online (code 603)" }).waitFor();
});

test("a relay that is gone is said to be, and when it is tried again", async () => {
  await r.stop();
  await bob.locator(".pill[data-line=down]").waitFor();
  await bob.locator(".banner", { hasText: /The line is down \(.+\)\. Try \d+ (in \d+ s|is under way)/ }).waitFor();
  assert.ok(await bob.getByRole("button", { name: "Try now" }).isVisible());
});

test("no page has complained", () => assert.deepEqual(faults, []));
