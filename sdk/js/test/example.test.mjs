// examples/web as it is: its server, its page, twice in Chromium.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { cp, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { browser } from "./browser.mjs";
import { after, content, folder, here, relay, run, sha256 } from "./lib.mjs";

const example = join(here, "../../../examples/web");

/**
 * A port that is free now: the relay wants to know the page's origin, and the page the relay's. It is below those that
 * systems give to outgoing connections.
 */
async function freePort() {
  const port = 10000 + Math.floor(Math.random() * 22000);
  const s = createServer().listen(port, "127.0.0.1");
  await new Promise((resolve, reject) => s.on("listening", resolve).on("error", reject));
  await new Promise((resolve) => s.close(resolve));
  return port;
}

test("the example: two pages exchange a command and a file", async (t) => {
  const dir = await folder(t);
  const app = join(dir, "app");
  await cp(example, app, { recursive: true, filter: (p) => !p.includes("node_modules") });
  await mkdir(join(app, "node_modules/@dian-im"), { recursive: true }); // what npm install does
  await symlink(join(here, ".."), join(app, "node_modules/@dian-im/sdk"));
  await symlink(join(here, "../node_modules/esbuild"), join(app, "node_modules/esbuild"));
  const secret = randomBytes(48).toString("base64");
  await writeFile(join(dir, "secret"), secret);
  const port = await freePort();
  const r = await relay(t, `origins: ["http://127.0.0.1:${port}"]\napps: [{ id: example, keys: [{ algorithm: HS256, secret_file: ${join(dir, "secret")} }] }]\n`);
  const web = run(process.execPath, ["serve.mjs", String(port), r.url], { cwd: app, env: { ...process.env, DIAN_APP: "example", DIAN_SECRET: secret } });
  after(t, () => web.stop());
  const origin = await web.line((l) => l.startsWith("http"));

  const context = await browser(t);
  const faults = [];
  const page = async (user) => {
    const p = await context.newPage();
    p.on("pageerror", (e) => faults.push(String(e)));
    p.on("console", (m) => { if (m.type() === "error" && !m.location().url.endsWith("/favicon.ico")) faults.push(m.text()); });
    await p.goto(origin);
    await p.fill("[name=user]", user);
    await p.click("#login button");
    await p.getByText(`connected as ${user}`).waitFor();
    return p;
  };
  const [alice, bob] = [await page("alice"), await page("bob")];
  const path = await content(join(dir, "照片.bin"), (12 << 20) + 1, 8);
  await alice.fill("[name=to]", "bob");
  await alice.fill("[name=text]", "你好 <b>");
  await alice.setInputFiles("[name=file]", path);
  await alice.click("#send button:not([type=button])");
  await bob.getByText("alice: 你好 <b>").waitFor();
  await alice.getByText('bob has "你好 <b>"').waitFor();
  await alice.getByText("bob has 照片.bin").waitFor(); // stored
  assert.equal(await alice.evaluate(() => document.getElementById("bar").value), 1);
  const saving = bob.waitForEvent("download");
  await bob.getByRole("button", { name: "Save" }).click();
  const download = await saving;
  assert.equal(download.suggestedFilename(), "照片.bin");
  assert.equal(await sha256(await download.path()), await sha256(path));
  await bob.getByRole("button", { name: "Delete" }).click();
  await bob.getByText("照片.bin").waitFor({ state: "detached" });
  assert.deepEqual(faults, []);
});

test("what docs/web.md shows is in the example, word for word", async () => {
  const parts = (await Promise.all(["app.js", "serve.mjs", "index.html"].map((f) => readFile(join(example, f), "utf8")))).join("\n");
  for (const doc of ["web.md", "web.zh-CN.md"]) {
    const text = await readFile(join(here, "../../../docs", doc), "utf8");
    const shown = [...text.matchAll(/```(?:js|html)\n([\s\S]*?)```/g)].map((m) => m[1]);
    assert.ok(shown.length >= 4, doc);
    for (const s of shown) assert.ok(parts.includes(s), `${doc} shows what the example does not have:\n${s}`);
  }
});
