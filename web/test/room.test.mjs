// dian serve --dev --lan: a phone in the room, which is another machine to the relay.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { browser, choose, open, relay, signIn } from "./lib.mjs";

let r, b, link;
before(async () => {
  [r, b] = await Promise.all([relay("--lan", "--listen", "0.0.0.0:0"), browser()]);
  r.url = r.url.replace("0.0.0.0", "127.0.0.1");
  link = /http:\/\/\S+#in=\S+/.exec(r.out())?.[0];
});
after(async () => {
  await b?.stop();
  await r?.stop();
});

test("a phone comes in by the link, once, and drops a photo", async (t) => {
  if (link === undefined) return t.skip("this machine has no network");
  const faults = [];
  const alice = await open(b.context, r.url, faults);
  await signIn(alice, "alice");
  const phone = await open(b.context, link, faults);
  await phone.setViewportSize({ width: 390, height: 844 });
  assert.equal(new URL(phone.url()).hash, "", "the link stays in the address");
  await phone.locator("#who").fill("alice");
  await phone.locator("#who").press("Enter");
  await phone.getByText("Somebody here has this name").waitFor();
  await signIn(phone, "phone");
  await choose(phone, "alice");
  await phone.locator("#picker").setInputFiles({ name: "photo.jpg", mimeType: "image/jpeg", buffer: Buffer.alloc(2 << 20, 1) });
  await alice.getByRole("button", { name: "Accept: photo.jpg" }).click();
  await phone.locator(".talk .card.done", { hasText: "photo.jpg" }).waitFor();

  // Back to the phone: without HTTPS it has no place for files but its downloads.
  await choose(alice, "phone");
  await alice.locator("#picker").setInputFiles({ name: "back.bin", mimeType: "", buffer: Buffer.alloc(1 << 20, 2) });
  const download = phone.waitForEvent("download");
  await phone.getByRole("button", { name: "Accept: back.bin" }).click();
  assert.equal((await download).suggestedFilename(), "back.bin");
  await alice.getByText("handed to phone's browser").first().waitFor();

  const again = await open(b.context, link);
  await again.locator("#who").fill("thief");
  await again.locator("#who").press("Enter");
  await again.getByText("This link was used already").waitFor();
  const without = await open(b.context, new URL(link).origin + "/");
  await without.getByText("This relay lets in who was invited").waitFor();

  // One more, from the page.
  await alice.getByRole("button", { name: "Invite a phone" }).click();
  await alice.locator("dialog .qr").waitFor();
  const tablet = await open(b.context, await alice.locator("dialog .url").innerText(), faults);
  await signIn(tablet, "tablet");
  assert.deepEqual(faults, []);
});
