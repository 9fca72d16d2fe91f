// The page of a relay that is not for trying out: tokens.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { browser, open, ownRelay } from "./lib.mjs";

let r, b;
before(async () => {
  [r, b] = await Promise.all([ownRelay(), browser()]);
});
after(async () => {
  await b?.stop();
  await r?.stop();
});

test("a token signs in, a bad one is told apart, and a reload forgets it", async () => {
  const faults = [];
  const page = await open(b.context, r.url, faults);
  const signIn = async (p, token) => {
    await p.locator("#who").fill(token);
    await p.locator("#who").press("Enter");
  };
  for (const [token, words] of [["nonsense", "this is not a token"], [`${(await r.token("eve")).slice(0, -4)}AAAA`, "does not accept this token"]]) {
    await signIn(page, token);
    await page.locator(".fault", { hasText: words }).waitFor();
  }
  const token = await r.token("carol");
  await signIn(page, token);
  await page.locator(".pill[data-line=up]").waitFor();
  await page.getByText("Your token does not list others").waitFor();
  assert.equal(await page.locator(".dev").count(), 0, "toys of dev mode");

  const dave = await open(b.context, r.url, faults);
  await signIn(dave, await r.token("dave", "--see", "*"));
  await dave.locator(".person", { hasText: "carol" }).waitFor();
  await page.getByPlaceholder("Somebody else").fill("dave");
  await page.getByPlaceholder("Somebody else").press("Enter");
  await page.locator("#message").fill("by name");
  await page.locator("#message").press("Enter");
  await dave.locator(".said", { hasText: "by name" }).waitFor();

  const kept = await page.evaluate(async () => [JSON.stringify({ ...localStorage, ...sessionStorage }), document.cookie, location.href, JSON.stringify(history.state)].join());
  assert.ok(!kept.includes(token.split(".")[2]), "the token is kept");
  await page.reload();
  await page.locator("#who").waitFor();
  assert.equal(await page.locator("#who").inputValue(), "");
  assert.deepEqual(faults, []);
});

test("the routes of dev mode are not there", async () => {
  for (const route of ["login", "invite", "cut", "restart"]) {
    assert.equal((await fetch(new URL(`v1/dev/${route}`, r.url), { method: "POST", headers: { Origin: new URL(r.url).origin } })).status, 404);
  }
});
