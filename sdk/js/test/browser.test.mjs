// Two pages in Chromium and the CLI, through one relay.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { browser, open, pages } from "./browser.mjs";
import { after, content, dian, folder, relay, run, sha256, token, until } from "./lib.mjs";

const middle = 1 << 20; // bytes after which a transfer is in its middle
const seen = (page, event, sendId) => page.evaluate(([e, i]) => seen(e, i), [event, sendId]);
const login = (page, r, user, accept, options) => page.evaluate(([u, k, a, o]) => login(u, k, a, o), [r.url, token(user), accept, options]);
const result = (page, id) => page.evaluate((i) => result(i), id);
const sendFile = async (page, path, target, options = {}) => {
  await page.setInputFiles("#file", path);
  return page.evaluate(([to, o]) => sendFile(to, o), [target, options]);
};
const going = (page, id) => page.waitForFunction(([i, n]) => progress(i) > n, [id, middle]);
const arriving = (page, n = middle) => page.waitForFunction((m) => seen("receiveProgress").some((e) => e.received > m), n);
const code = (r) => [r.code, r.receipt];

test("the SDK in Chromium", async (t) => {
  const origin = await pages(t);
  const r = await relay(t, `origins: ["${origin}"]\n`);
  const dir = await folder(t);
  const context = await browser(t);
  const faults = [];
  const page = () => open(context, origin, faults);
  const big = await content(join(dir, "big <img src=x onerror=alert(1)>.bin"), 300 << 20, 3);
  const bigSum = await sha256(big);
  const mid = await content(join(dir, "mid.bin"), 128 << 20, 5);
  const midSum = await sha256(mid);
  const digest = (p, id) => p.evaluate((i) => digestOf(i), id);
  const drop = (...list) => Promise.all(list.map(async (p) => {
    await p.evaluate(async () => {
      for (const f of await state.client.files()) await f.remove();
      await state.client.close();
    });
    await p.close();
  }));
  const into = join(dir, "into");
  const listen = run(dian, ["listen", "--user", "gopher", "--server", r.url, "--json", "--dir", into]);
  after(t, () => listen.stop());

  // One whose token ends while the others are tested.
  const renewing = await page();
  const began = Date.now();
  await renewing.evaluate(async ([u, first, next]) => {
    state.client = await sdk.connect(u, { token: first, on: { cmdData() {}, tokenWillExpire: () => void state.client.updateToken(next) } });
  }, [r.url, token("renewing", "--ttl", "32s"), token("renewing")]);

  await t.test("all three kinds go between two pages and the CLI, both ways, 300 MiB with the same hash", async () => {
    const [a, b] = [await page(), await page()];
    assert.equal(await login(a, r, "alice"), "alice");
    await login(b, r, "bob");
    for (const to of ["bob", "gopher", "alice"]) {
      assert.equal(await a.evaluate(async (u) => (await state.client.sendCmd(u, "hi 点", { waitForPeer: 20_000 }).result).code, to), 0);
      assert.equal(await a.evaluate(async (u) => (await state.client.sendBuffer(u, new Uint8Array(5_000_001).fill(9)).result).receipt, to), "stored");
    }
    assert.equal((await seen(b, "cmdData"))[0].text, "hi 点");
    assert.equal((await seen(b, "bufferData"))[0].length, 5_000_001);
    assert.match(await listen.line((l) => l.includes('"cmd"')), /hi 点/);
    await listen.line((l) => l.includes('"buffer"'));
    assert.equal(await run(dian, ["cmd", "--user", "dave", "--server", r.url, "bob", "from go"]).ended, 0);
    assert.equal(await run(dian, ["buffer", "--user", "dave", "--server", r.url, "bob", join(dir, "mid.bin")]).ended === 0, false); // over 100 MiB
    await b.waitForFunction(() => seen("cmdData").some((e) => e.text === "from go" && e.source === "dave"));

    const id = await sendFile(a, big, "gopher");
    assert.deepEqual(code(await result(a, id)), [0, "stored"]);
    const kept = JSON.parse(await listen.line((l) => l.includes('"file"')));
    assert.equal(await sha256(kept.path), bigSum);
    assert.equal(await run(dian, ["send", "--user", "dave", "--server", r.url, "bob", big]).ended, 0);
    const [file] = await seen(b, "fileData");
    assert.deepEqual([file.receipt, file.source, file.size], ["stored", "dave", 300 << 20]);
    assert.equal(await digest(b, file.sendId), bigSum);

    // Names are data: as sent, and made safe.
    assert.equal(file.name, "big <img src=x onerror=alert(1)>.bin");
    assert.equal(file.safeName, "big _img src=x onerror=alert(1)_.bin");
    const saving = b.waitForEvent("download");
    await b.evaluate(async () => (await state.client.files())[0].save());
    const download = await saving;
    assert.equal(download.suggestedFilename(), file.safeName);
    assert.equal(await sha256(await download.path()), bigSum);
    await drop(a, b);
  });

  await t.test("refusal and cancel from either side", async () => {
    const [a, b] = [await page(), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob", "refuse");
    const refused = await result(a, await sendFile(a, mid, "bob"));
    assert.deepEqual(refused.error, { code: 4711, origin: "peer", detail: "not today" });
    await b.evaluate(() => state.client.close());
    await login(b, r, "bob");
    const first = await sendFile(a, mid, "bob");
    await going(a, first);
    assert.equal(await a.evaluate((i) => state.client.cancelSend(i), first), true);
    assert.equal((await result(a, first)).code, 1105);
    await b.waitForFunction((i) => seen("cancelSend", i).length === 1, first);
    const second = await sendFile(a, mid, "bob");
    await going(a, second);
    await b.evaluate((i) => state.offers[i].cancel(), second);
    const stopped = await result(a, second);
    assert.deepEqual([stopped.code, stopped.error.origin], [1105, "peer"]);
    const go = run(dian, ["send", "--user", "dave", "--server", r.url, "bob", mid, "--json"]);
    await b.waitForFunction(() => seen("receiveProgress").some((e) => e.source === "dave" && e.received > 0));
    go.child.kill("SIGINT");
    assert.notEqual(await go.ended, 0);
    await b.waitForFunction(() => seen("cancelSend").some((e) => e.source === "dave"));
    assert.equal((await b.evaluate(async () => (await state.client.files()).length)), 0);
    await drop(a, b);
  });

  await t.test("a reload of the receiving page, then of the sending page, in the middle", async () => {
    const [a, b] = [await page(), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob");
    const id = await sendFile(a, big, "bob");
    await until(() => b.evaluate((i) => journal(i), id)); // what is written down survives
    await b.reload();
    await b.waitForFunction(() => document.title === "ready");
    await login(b, r, "bob");
    await b.waitForFunction((i) => seen("offer", i).length > 0, id);
    assert.ok((await seen(b, "offer", id))[0].received > 0, "it begins with what it has");
    assert.deepEqual(code(await result(a, id)), [0, "stored"]);
    assert.equal(await digest(b, id), bigSum);

    const other = "01890a5d-ac96-774b-bcce-b302099a8057";
    await sendFile(a, mid, "bob", { sendId: other });
    await going(a, other);
    await a.reload();
    await a.waitForFunction(() => document.title === "ready");
    await login(a, r, "alice");
    await sendFile(a, mid, "bob", { sendId: other });
    assert.deepEqual(code(await result(a, other)), [0, "stored"]);
    assert.equal(await digest(b, other), midSum);
    assert.equal((await seen(b, "fileData", other)).length, 1);
    assert.equal((await seen(b, "offer", other)).length, 1);
    await drop(a, b);
  });

  await t.test("a restart of the relay and a time offline in the middle", async () => {
    const [a, b] = [await page(), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob");
    const id = await sendFile(a, mid, "bob");
    await going(a, id);
    await r.kill();
    await r.start();
    assert.deepEqual(code(await result(a, id)), [0, "stored"]);
    assert.equal(await digest(b, id), midSum);
    assert.ok((await seen(b, "reconnected")).length > 0);
    const other = await sendFile(a, mid, "bob");
    await going(a, other);
    await context.setOffline(true);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    await context.setOffline(false);
    assert.deepEqual(code(await result(a, other)), [0, "stored"]);
    assert.equal(await digest(b, other), midSum);
    await drop(a, b);
  });

  await t.test("a second tab of a user kicks the first, goes on with its part, and nobody fights", async () => {
    const [a, b, c] = [await page(), await page(), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob");
    const id = await sendFile(a, mid, "bob");
    await arriving(b);
    await login(c, r, "bob");
    assert.deepEqual(code(await result(a, id)), [0, "stored"]); // the same place: the same instance
    assert.equal(await digest(c, id), midSum);
    assert.equal((await seen(b, "lineOff"))[0].code, 10);
    assert.equal(await b.evaluate(() => state.client.online), false);
    await b.close();
    await drop(a, c);
  });

  await t.test("at most two lanes each way for all tabs; who waits gets its turn", async () => {
    const [a, b, c] = [await page(), await page(), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob");
    await login(c, r, "carol");
    let most = 0;
    const ids = [];
    for (const [from, to] of [[a, "carol"], [a, "carol"], [b, "carol"], [b, "carol"]]) ids.push([from, await sendFile(from, mid, to)]);
    let over = false;
    const count = async () => {
      while (!over) {
        const held = await c.evaluate(async () => (await navigator.locks.query()).held.map((l) => l.name.split(" ").slice(0, 2).join(" ")));
        for (const way of ["dian up", "dian down"]) most = Math.max(most, held.filter((n) => n === way).length);
      }
    };
    const counting = count();
    for (const [from, id] of ids) assert.deepEqual(code(await result(from, id)), [0, "stored"]);
    over = true;
    await counting;
    assert.equal(most, 2);
    await drop(a, b, c);
  });

  await t.test("the browser's own download: receipt handed", async () => {
    const [a, b] = [await page(), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob", "download");
    const saving = b.waitForEvent("download");
    const id = await sendFile(a, mid, "bob");
    const download = await saving;
    assert.deepEqual(code(await result(a, id)), [0, "handed"]);
    assert.equal(await sha256(await download.path()), midSum);
    assert.equal((await seen(b, "fileData"))[0].receipt, "handed");
    await drop(a, b);
  });

  await t.test("a handle that the person chose gets the file whole, or nothing of it", async () => {
    const [a, b] = [await page(), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob", "to");
    const first = await sendFile(a, big, "bob");
    await going(a, first);
    assert.equal(await a.evaluate((i) => state.client.cancelSend(i), first), true);
    await b.waitForFunction((i) => seen("cancelSend", i).length === 1, first);
    assert.equal((await b.evaluate(() => inChosen())).size, 0, "something of a cancelled file");
    const id = await sendFile(a, mid, "bob");
    assert.deepEqual(code(await result(a, id)), [0, "stored"]);
    assert.deepEqual(await b.evaluate(() => inChosen()), { size: 128 << 20, sum: midSum });
    assert.equal((await seen(b, "fileData", id))[0].receipt, "stored");
    await drop(a, b);
  });

  await t.test("the screen stays on while something is sent, if the application does not mind", async () => {
    const [a, b] = [await page(), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob");
    const locks = () => a.evaluate(() => state.locks);
    await a.evaluate(() => countLocks());
    const id = await sendFile(a, big, "bob");
    await going(a, id);
    assert.deepEqual(await locks(), { asked: 1, held: 1 });
    const other = await sendFile(a, mid, "bob");
    assert.deepEqual(code(await result(a, id)), [0, "stored"]);
    assert.deepEqual(code(await result(a, other)), [0, "stored"]);
    await until(async () => (await locks()).held === 0);
    assert.equal((await locks()).asked, 1, "one lock is enough for two files");
    await a.evaluate(() => state.client.close());
    await login(a, r, "alice", "accept", { wakeLock: false });
    assert.deepEqual(code(await result(a, await sendFile(a, mid, "bob"))), [0, "stored"]);
    assert.equal((await locks()).asked, 1);
    await drop(a, b);
  });

  await t.test("a page that comes back from the browser's cache is online again, and goes on", async () => {
    const cached = await browser(t, { ignoreDefaultArgs: ["--disable-back-forward-cache"] });
    const [a, b] = [await open(cached, origin, faults), await page()];
    await login(a, r, "alice");
    await login(b, r, "bob");
    assert.deepEqual(code(await result(a, await sendFile(a, mid, "bob"))), [0, "stored"]);
    const before = await a.evaluate(() => (window.marked = state.log.length));
    await a.goto(`${origin}/empty.html`);
    await a.goBack({ waitUntil: "commit" }); // there is no load
    await a.waitForFunction(() => document.title === "ready");
    assert.equal(await a.evaluate(() => window.marked), before, "the page was loaded anew: nothing is seen here");
    await a.waitForFunction(() => state.client.online);
    assert.equal((await a.evaluate(async () => (await state.client.sendCmd("bob", "back").result).code)), 0);
    assert.deepEqual(code(await result(a, await sendFile(a, mid, "bob"))), [0, "stored"]);
    await drop(a, b);
    await cached.close();
  });

  await t.test("the old names of a video-conference SDK", async () => {
    const [a, b] = [await page(), await page()];
    for (const [p, user] of [[a, "alice"], [b, "bob"]]) {
      await p.evaluate(async ([u, k]) => {
        const { PointToPoint, webNames } = await import("/dist/compat.js");
        const p2p = new PointToPoint(sdk.connect);
        Object.assign(globalThis, webNames(p2p, "CRVideo_"));
        state.log = [];
        for (const name of ["SendCmdRslt", "SendBufferRslt", "SendFileRslt", "NotifyCmdData", "NotifyBufferData"]) globalThis[`CRVideo_${name}`].callback = (...args) => state.log.push([name, ...args]);
        globalThis.CRVideo_NotifyFileData.callback = async (source, tmpFile, orgFileName) => state.log.push(["NotifyFileData", source, orgFileName, await tmpFile.text()]);
        if (await p2p.login(u, { token: k }) !== CRVideo_NOERR) throw new Error("login");
        state.client = p2p.client;
      }, [r.url, token(user)]);
    }
    const log = (p, name) => until(() => p.evaluate((n) => state.log.find((e) => e[0] === n)?.map((x) => (x instanceof Uint8Array ? x.length : x)), name));
    const sent = await a.evaluate(() => [CRVideo_SendCmd("bob", "hi 点", "c"), CRVideo_SendBuffer("bob", new Uint8Array(70_000), "b"), CRVideo_SendFile("bob", new File(["12345"], "a.txt"), "f")]);
    assert.deepEqual(await log(a, "SendCmdRslt"), ["SendCmdRslt", sent[0], 0, "c"]);
    assert.deepEqual(await log(a, "SendBufferRslt"), ["SendBufferRslt", sent[1], 0, "b"]);
    assert.deepEqual(await log(a, "SendFileRslt"), ["SendFileRslt", sent[2], "a.txt", 0, "f"]);
    assert.deepEqual((await log(b, "NotifyCmdData")).slice(0, 3), ["NotifyCmdData", "alice", "hi 点"]);
    assert.deepEqual((await log(b, "NotifyBufferData")).slice(0, 3), ["NotifyBufferData", "alice", 70_000]);
    assert.deepEqual(await log(b, "NotifyFileData"), ["NotifyFileData", "alice", "a.txt", "12345"]);
    await drop(a, b);
  });

  await t.test("a token that was renewed in time", async () => {
    await new Promise((resolve) => setTimeout(resolve, began + 34_000 - Date.now()));
    assert.equal(await renewing.evaluate(() => state.client.online), true);
    assert.equal(await renewing.evaluate(async () => (await state.client.sendCmd("renewing", "me").result).code), 0);
    await drop(renewing);
  });

  assert.deepEqual(faults, []);
});
