// Uppy with its tus plugin, as npm has them, sends from a page to a Go receiver.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { build } from "esbuild";
import { browser } from "./browser.mjs";
import { after, content, dian, folder, here, relay, run, sha256, token } from "./lib.mjs";

const page = `<!doctype html><meta charset="utf-8"><title>uppy</title><input type="file" id="file" multiple><script type="module" src="/page.js"></script>`;

// What an application writes: endpoint, token, and nothing else of ours.
const script = `
import Uppy from "@uppy/core";
import Tus from "@uppy/tus";
window.send = async (endpoint, token, options = {}) => {
  const uppy = new Uppy().use(Tus, { endpoint, headers: { Authorization: "Bearer " + token }, ...options });
  const progress = [];
  uppy.on("upload-progress", (file, p) => progress.push((window.uploaded = p.bytesUploaded)));
  for (const f of document.getElementById("file").files) uppy.addFile({ name: f.name, type: f.type, data: f });
  const { successful, failed } = await uppy.upload();
  return { successful: successful.map((f) => f.name).sort(), failed: failed.map((f) => ({ name: f.name, error: String(f.error) })), progress };
};
document.title = "ready";
`;

async function serve(t) {
  const { outputFiles: [bundle] } = await build({
    stdin: { contents: script, resolveDir: here, sourcefile: "page.js" }, bundle: true, format: "esm", platform: "browser", write: false, logLevel: "silent",
  });
  const server = createServer((request, response) => {
    const js = request.url === "/page.js";
    response.writeHead(200, { "Content-Type": js ? "text/javascript" : "text/html; charset=utf-8" }).end(js ? bundle.contents : page);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(t, () => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}

test("Uppy, unmodified, sends to a Go receiver", async (t) => {
  const origin = await serve(t);
  const r = await relay(t, `origins: ["${origin}"]\n`);
  const dir = await folder(t);
  const into = join(dir, "into");
  const listen = run(dian, ["listen", "--user", "gopher", "--server", r.url, "--json", "--dir", into]);
  after(t, () => listen.stop());
  await listen.line((l) => l.includes('"up"'));
  const faults = [];
  const p = await (await browser(t)).newPage();
  p.on("pageerror", (e) => faults.push(String(e)));
  await p.goto(origin);
  await p.waitForFunction(() => document.title === "ready");
  const endpoint = `${r.url}/v1/users/gopher/transfers`;
  const send = (user, options) => p.evaluate(([e, k, o]) => send(e, k, o), [endpoint, token(user), options]);
  const arrived = async (name) => JSON.parse(await listen.line((l) => l.includes('"file"') && JSON.parse(l).name === name));

  await t.test("several files at once, one with a Chinese name, one empty, with the same hashes", async () => {
    const paths = [await content(join(dir, "照片.bin"), (24 << 20) + 7, 3), await content(join(dir, "small.txt"), 5, 4), await content(join(dir, "empty"), 0)];
    await p.setInputFiles("#file", paths);
    const { successful, failed, progress } = await send("alice");
    assert.deepEqual([failed, successful], [[], ["empty", "small.txt", "照片.bin"]]);
    assert.ok(progress.includes((24 << 20) + 7));
    for (const path of paths) {
      const f = await arrived(path.slice(dir.length + 1));
      assert.deepEqual([f.from, f.receipt, f.size, await sha256(f.path)], ["alice", "stored", (await stat(path)).size, await sha256(path)]);
    }
  });

  await t.test("in chunks", async () => {
    const path = await content(join(dir, "chunks.bin"), (9 << 20) + 1, 5);
    await p.setInputFiles("#file", path);
    const { failed } = await send("alice", { chunkSize: 2 << 20 });
    assert.deepEqual(failed, []);
    const f = await arrived("chunks.bin");
    assert.equal(await sha256(f.path), await sha256(path));
  });

  await t.test("over a relay that is killed", async () => {
    const path = await content(join(dir, "killed.bin"), 128 << 20, 6);
    await p.setInputFiles("#file", path);
    await p.evaluate(() => (window.uploaded = 0));
    const sending = send("alice", { chunkSize: 4 << 20, retryDelays: Array(60).fill(500) });
    await p.waitForFunction(() => window.uploaded > 8 << 20);
    await r.kill();
    assert.equal(listen.lines.some((l) => l.includes("killed.bin")), false, "it was in its middle");
    await r.start();
    const { failed } = await sending;
    assert.deepEqual(failed, []);
    const f = await arrived("killed.bin");
    assert.equal(await sha256(f.path), await sha256(path));
  });

  await t.test("a token that may not, and an origin that may not, are refused at once", async () => {
    await p.setInputFiles("#file", join(dir, "small.txt"));
    const mayNot = await p.evaluate(([e, k]) => send(e, k), [endpoint, token("alice", "--send", "nobody")]);
    assert.deepEqual(mayNot.successful, []);
    assert.match(mayNot.failed[0].error, /403/);
    const elsewhere = await p.context().newPage();
    await elsewhere.goto(origin.replace("127.0.0.1", "localhost"));
    await elsewhere.waitForFunction(() => document.title === "ready");
    await elsewhere.setInputFiles("#file", join(dir, "small.txt"));
    const foreign = await elsewhere.evaluate(([e, k]) => send(e, k, { retryDelays: [] }), [endpoint, token("alice")]);
    assert.deepEqual([foreign.successful, foreign.failed.length], [[], 1]);
  });
  assert.deepEqual(faults, []);
});
