// Buffers and files in Node, both ways, also with the CLI, also with everything killed.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile, readdir, stat, truncate, writeFile, appendFile } from "node:fs/promises";
import { connect as netConnect, createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { Code, connect } from "../dist/index.node.js";
import { newSendId } from "../dist/core/names.js";
import { after, content, dian, folder, gather, here, relay, run, sha256, token, until } from "./lib.mjs";

const login = async (t, r, user, options = {}) => {
  const c = await connect(r.url, { token: token(user), receiveDir: await folder(t), ...options });
  after(t, () => c.close());
  return c;
};
const peer = (t, ...args) => {
  const p = run(process.execPath, [join(here, "peer.mjs"), ...args]);
  after(t, () => p.stop("SIGKILL"));
  return { ...p, event: (fits) => p.line((l) => fits(JSON.parse(l))).then((l) => JSON.parse(l)) };
};

test("buffers of all sizes, with name, type, meta and progress", async (t) => {
  const r = await relay(t);
  const bob = await login(t, r, "bob");
  const got = gather(bob, "bufferData");
  const alice = await login(t, r, "alice");
  for (const size of [0, 1, 65_536, 65_537, 8 << 20, (9 << 20) + 1]) {
    const data = new Uint8Array(size).map((_, i) => (i * 7 + size) & 0xff);
    const seen = [];
    const task = alice.sendBuffer("bob", data, { name: "../n", type: "a/b", meta: "m", cookie: "c" });
    task.onProgress((p) => seen.push(p.sent));
    const result = await task;
    assert.deepEqual([result.code, result.receipt, result.size, result.cookie], [0, "stored", size, "c"]);
    const b = await got.next((x) => x.sendId === task.id);
    assert.deepEqual([b.source, b.name, b.type, new TextDecoder().decode(b.meta)], ["alice", "../n", "a/b", "m"]);
    assert.ok(Buffer.from(b.data).equals(Buffer.from(data)), `size ${size}`);
    await until(() => seen.at(-1) === size);
    assert.ok(seen.every((x, i) => i === 0 || x >= seen[i - 1]), "progress never goes back");
  }
  const self = await bob.sendBuffer("bob", "to myself");
  assert.equal(self.code, 0);
});

test("files to and from the CLI have the same hash", async (t) => {
  const r = await relay(t);
  const dir = await folder(t);
  const path = await content(join(dir, "照片 (1).bin"), (40 << 20) + 3);
  const sum = await sha256(path);
  const into = join(dir, "into");
  const listen = run(dian, ["listen", "--user", "carol", "--server", r.url, "--json", "--dir", into]);
  after(t, () => listen.stop());
  const bob = await login(t, r, "bob");
  const files = gather(bob, "fileData");
  const there = await bob.sendFile("carol", path, { waitForPeer: 20_000 });
  assert.deepEqual([there.code, there.receipt, there.fileName], [0, "stored", path]);
  assert.equal(await sha256(join(into, "照片 (1).bin")), sum);
  assert.equal((await bob.sendBuffer("carol", new Uint8Array(3 << 20), { name: "b" })).code, 0);

  assert.equal(await run(dian, ["send", "--user", "carol2", "--server", r.url, "bob", path]).ended, 0);
  const f = await files.next();
  assert.deepEqual([f.source, f.name, f.safeName, f.size], ["carol2", "照片 (1).bin", "照片 (1).bin", (40 << 20) + 3]);
  assert.equal(await sha256(f.path), sum);
  assert.equal((await f.blob()).size, f.size);
  assert.equal((await bob.files()).length, 1);
  const saved = await f.save(dir); // the name is taken: never replaced
  assert.equal(saved, join(dir, "照片 (1) (1).bin"));
  assert.equal(await sha256(saved), sum);
  assert.equal((await bob.files()).length, 0);
  await assert.rejects(f.blob(), (e) => e.code === Code.fileNotFound);
});

test("a Blob, a stream and an empty file are sent; hostile names stay in the folder", async (t) => {
  const r = await relay(t);
  const dir = await folder(t);
  const into = await folder(t);
  const bob = await login(t, r, "bob", { acceptFile: (o) => o.acceptTo(into) });
  const files = gather(bob, "fileData");
  const alice = await login(t, r, "alice", { sendOnly: true });
  const big = new Uint8Array(3 << 20).fill(7);
  const a = await alice.sendFile("bob", new File([big], "../../evil<b>.html", { type: "text/html" }));
  const b = await alice.sendFile("bob", new Blob([big, "x"]).stream(), { name: "/etc/passwd" });
  const c = await alice.sendFile("bob", await content(join(dir, "empty"), 0), { name: "CON" });
  assert.deepEqual([a.code, b.code, c.code, b.size, c.size], [0, 0, 0, (3 << 20) + 1, 0]);
  await until(() => files.list.length === 3);
  assert.deepEqual((await readdir(into)).sort(), ["_CON", "evil_b_.html", "passwd"]);
  assert.equal((await stat(join(into, "passwd"))).size, (3 << 20) + 1);
  assert.equal((await stat(join(into, "passwd"))).mode & 0o777, 0o600);
});

test("many small files need no lanes and all arrive once", async (t) => {
  const r = await relay(t);
  const bob = await login(t, r, "bob");
  const files = gather(bob, "fileData");
  const alice = await login(t, r, "alice", { sendOnly: true });
  const tasks = Array.from({ length: 150 }, (_, i) => alice.sendFile("bob", new Blob([`content ${i}`]), { name: `${i}.txt` }));
  assert.ok((await Promise.all(tasks)).every((x) => x.receipt === "stored"));
  await until(() => files.list.length === 150);
  for (const f of files.list) assert.equal(await readFile(f.path, "utf8"), `content ${parseInt(f.name, 10)}`);
  assert.equal(new Set(files.list.map((f) => f.sendId)).size, 150);
});

test("refusal, cancel from either side, cancel that is too late", async (t) => {
  const r = await relay(t);
  let how = (o) => o.refuse(4711, "今天不行");
  const bob = await login(t, r, "bob", { acceptFile: (o) => how(o), on: { bufferData() {} } });
  const notices = gather(bob, "cancelSend");
  const alice = await login(t, r, "alice", { sendOnly: true });
  const cancels = gather(alice, "cancelSendResult");
  const path = await content(join(await folder(t), "big"), 200 << 20);
  const refused = (await alice.sendFile("bob", path).result).error;
  assert.deepEqual([refused.code, refused.origin, refused.detail], [4711, "peer", "今天不行"]);

  how = (o) => o.accept();
  const task = alice.sendFile("bob", path);
  await until(() => task.progress.sent > 0);
  assert.equal(await task.cancel(), true);
  const result = await task.result;
  assert.equal(result.code, Code.cancelled);
  assert.equal((await notices.next()).sendId, task.id);
  assert.equal(cancels.list.at(-1).error, undefined);
  // A cancelled id may not be offered again.
  assert.equal((await alice.sendFile("bob", path, { sendId: task.id }).result).code, Code.cancelled);

  let offer;
  how = (o) => (offer = o).accept();
  const other = alice.sendFile("bob", path);
  await until(() => other.progress.sent > 0);
  offer.cancel();
  const stopped = (await other.result).error;
  assert.deepEqual([stopped.code, stopped.origin], [Code.cancelled, "peer"]);
  await offer.done;

  // An offer that waits for its answer is withdrawn.
  how = (o) => (offer = o);
  const waiting = alice.sendFile("bob", path);
  await until(() => offer?.sendId === waiting.id);
  assert.equal(await alice.cancelSend(waiting.id), true);
  await offer.done;

  const done = await alice.sendBuffer("bob", new Uint8Array(100_000));
  assert.equal(await alice.cancelSend(done.sendId), false);
  assert.equal(cancels.list.at(-1).error.code, Code.badSendId);
});

test("a source that changes while it is sent fails with 1103, and nothing is delivered", async (t) => {
  const r = await relay(t);
  const bob = await login(t, r, "bob");
  const files = gather(bob, "fileData");
  const alice = await login(t, r, "alice", { sendOnly: true });
  const path = await content(join(await folder(t), "log"), 64 << 20);
  const task = alice.sendFile("bob", path);
  await until(() => task.progress.sent > 0);
  await appendFile(path, "more");
  assert.equal((await task.result).code, Code.fileError);
  const shrinking = alice.sendFile("bob", await content(path, 64 << 20, 9));
  await until(() => shrinking.progress.sent > 0);
  await truncate(path, 5);
  assert.equal((await shrinking.result).code, Code.fileError);
  assert.equal(files.list.length, 0);
});

test("a transfer goes on after the relay was killed and started again", async (t) => {
  const r = await relay(t);
  const bob = await login(t, r, "bob");
  const files = gather(bob, "fileData");
  const alice = await login(t, r, "alice");
  const path = await content(join(await folder(t), "big.bin"), 192 << 20);
  const task = alice.sendFile("bob", path);
  await until(() => task.progress.sent > 1 << 20);
  await r.kill();
  const before = task.progress.sent;
  assert.ok(before < 192 << 20, "it was not over before");
  await new Promise((resolve) => setTimeout(resolve, 200));
  await r.start();
  const result = await task;
  assert.equal(result.receipt, "stored");
  const f = await files.next();
  assert.equal(await sha256(f.path), await sha256(path));
  assert.equal(files.list.length, 1);
});

test("a receiver that is killed goes on from its journal in its next life", async (t) => {
  const r = await relay(t);
  const dir = await folder(t);
  const path = await content(join(await folder(t), "big.bin"), 640 << 20); // long enough to be killed in the middle
  const first = peer(t, "receive", r.url, token("bob"), dir);
  await first.event((e) => e.event === "ready");
  const alice = await login(t, r, "alice", { sendOnly: true });
  const task = alice.sendFile("bob", path);
  await first.event((e) => e.event === "progress" && e.received > 8 << 20);
  await until(async () => JSON.parse((await readFile(join(dir, await entryOf(dir)), "utf8"))).offset > 0);
  await first.stop("SIGKILL");
  assert.ok(!task.ended);
  const second = peer(t, "receive", r.url, token("bob"), dir);
  const offer = await second.event((e) => e.event === "offer");
  assert.ok(offer.received > 0, "it begins with what it has");
  const result = await task;
  assert.equal(result.receipt, "stored");
  const file = await second.event((e) => e.event === "file");
  assert.equal(await sha256(file.path), await sha256(path));
  assert.equal(file.sendId, task.id);
});
const entryOf = async (dir) => (await readdir(dir)).find((n) => n.endsWith(".json")) ?? "none";

test("a sender that is killed goes on with the same sendId; it is delivered once", async (t) => {
  const r = await relay(t);
  const bob = await login(t, r, "bob");
  const files = gather(bob, "fileData");
  const path = await content(join(await folder(t), "big.bin"), 192 << 20);
  const id = newSendId();
  const first = peer(t, "send", r.url, token("alice"), "", "bob", path, id);
  await first.event((e) => e.event === "progress" && e.sent > 1 << 20);
  await first.stop("SIGKILL");
  for (let life = 0; life < 2; life++) { // the second only asks: the receiver has it
    const next = peer(t, "send", r.url, token("alice"), "", "bob", path, id);
    assert.deepEqual(await next.event((e) => e.event === "result"), { event: "result", code: 0, receipt: "stored" });
  }
  assert.equal(await sha256((await files.next()).path), await sha256(path));
  assert.equal(files.list.length, 1);
});

test("the CLI's transfer goes on after a kill of the relay, in both directions", async (t) => {
  const r = await relay(t);
  const dir = await folder(t);
  const path = await content(join(dir, "big.bin"), 192 << 20);
  const bob = await login(t, r, "bob");
  const files = gather(bob, "fileData");
  const progress = gather(bob, "receiveProgress");
  const send = run(dian, ["send", "--user", "alice", "--server", r.url, "bob", path]);
  await progress.next((p) => p.received > 1 << 20);
  await r.kill();
  await r.start();
  assert.equal(await send.ended, 0, send.errors());
  assert.equal(await sha256((await files.next()).path), await sha256(path));

  const into = join(dir, "into");
  const listen = run(dian, ["listen", "--user", "carol", "--server", r.url, "--json", "--dir", into]);
  after(t, () => listen.stop());
  const task = bob.sendFile("carol", path, { waitForPeer: 20_000 });
  await until(() => task.progress.sent > 1 << 20);
  await r.kill();
  await r.start();
  assert.equal((await task).receipt, "stored");
  assert.equal(await sha256(join(into, "big.bin")), await sha256(path));
});

test("a file that arrived and was not told of is told in the next life", async (t) => {
  const r = await relay(t);
  const dir = await folder(t);
  const path = await content(join(await folder(t), "f.bin"), 1 << 20);
  const quiet = await connect(r.url, { token: token("bob"), receiveDir: dir, acceptFile: (o) => o.accept() });
  const alice = await login(t, r, "alice", { sendOnly: true });
  assert.equal((await alice.sendFile("bob", path)).receipt, "stored");
  await quiet.close();
  const told = [];
  const next = await connect(r.url, { token: token("bob"), receiveDir: dir, on: { fileData: (f) => told.push(f) } });
  after(t, () => next.close());
  await until(() => told.length === 1);
  assert.equal(await sha256(told[0].path), await sha256(path));
  await told[0].remove();
  assert.equal((await next.files()).length, 0);
  // A folder belongs to one client at a time.
  await assert.rejects(connect(r.url, { token: token("bob"), receiveDir: dir }), (e) => e.code === Code.fileWrite);
  await writeFile(join(dir, "not-ours"), "x");
});

test("a lane's answer that comes behind the verdict is waited for, and its connection is used again", async (t) => {
  const r = await relay(t);
  const to = new URL(r.url);
  let connections = 0;
  const front = createServer((down) => {
    const late = ++connections > 1 ? 200 : 0; // not the session's
    const up = netConnect(Number(to.port), to.hostname);
    down.on("data", (b) => up.write(b)).on("close", () => up.destroy()).on("error", () => {});
    up.on("data", (b) => setTimeout(() => down.write(b), late)).on("close", () => setTimeout(() => down.destroy(), late)).on("error", () => {});
  }).listen(0, "127.0.0.1");
  await once(front, "listening");
  after(t, () => front.close());
  const bob = await login(t, r, "bob");
  const alice = await connect(`http://127.0.0.1:${front.address().port}`, { token: token("alice"), sendOnly: true });
  after(t, () => alice.close());
  const got = gather(bob, "bufferData");
  for (let i = 1; i <= 6; i++) {
    await alice.sendBuffer("bob", new Uint8Array(200_000));
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  await until(() => got.list.length === 6);
  assert.ok(connections <= 3, `${connections} connections for 6 buffers`);
});
