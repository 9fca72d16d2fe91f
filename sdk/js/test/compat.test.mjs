// The old names over this SDK, against a real relay.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { connect } from "../dist/index.node.js";
import { NOERR, PointToPoint, webNames } from "../dist/compat.js";
import { after, content, folder, relay, sha256, token, until } from "./lib.mjs";

/** A logged-in user, with a list of all that it was called back with. */
async function user(t, r, name, receives = true) {
  const p = new PointToPoint(connect);
  const log = [];
  const told = (callback) => (...args) => log.push([callback, ...args]);
  for (const c of ["sendCmdRlst", "sendBufferRlst", "sendFileRlst", "cancelSendRlst", "notifySendProgress", "notifyCancelSend", "loginRslt", "notifyLineOff"]) p[c] = told(c);
  if (receives) for (const c of ["notifyCmdData", "notifyBufferData", "notifyFileData"]) p[c] = told(c);
  assert.equal(await p.login(r.url, { token: token(name), receiveDir: await folder(t) }, "mine"), NOERR);
  assert.deepEqual(log.shift(), ["loginRslt", 0, "mine"]);
  after(t, () => p.logout());
  return { p, log, next: (callback, id) => until(() => log.find((e) => e[0] === callback && (id === undefined || e[1] === id))) };
}

test("command, buffer and file under the old names: calls, callbacks, cookies, numbers", async (t) => {
  const r = await relay(t);
  const [alice, bob] = [await user(t, r, "alice"), await user(t, r, "bob")];

  const cmd = alice.p.sendCmd("bob", '{"CmdType":"IM"} 点', "c1");
  assert.deepEqual(alice.log, [], "no callback before the call has returned");
  assert.deepEqual(await alice.next("sendCmdRlst"), ["sendCmdRlst", cmd, 0, "c1"]);
  const [, source, text, whole] = await bob.next("notifyCmdData");
  assert.deepEqual([source, text, whole.sendId], ["alice", '{"CmdType":"IM"} 点', cmd]);

  const data = new Uint8Array(5_000_001).fill(9);
  const buffer = alice.p.sendBuffer("bob", data, { any: "cookie" });
  data.fill(1); // it was copied
  assert.deepEqual(await alice.next("sendBufferRlst"), ["sendBufferRlst", buffer, 0, { any: "cookie" }]);
  const [, from, bytes, id] = await bob.next("notifyBufferData");
  assert.deepEqual([from, bytes.length, bytes.every((b) => b === 9), id], ["alice", 5_000_001, true, buffer]);

  const path = await content(join(await folder(t), "照片.bin"), (20 << 20) + 3);
  const file = alice.p.sendFile("bob", path);
  assert.deepEqual(await alice.next("sendFileRlst"), ["sendFileRlst", file, path, 0, ""]);
  const [, sender, tmpFile, orgFileName, kept] = await bob.next("notifyFileData");
  assert.deepEqual([sender, orgFileName, kept.sendId], ["alice", "照片.bin", file]);
  assert.equal(await sha256(tmpFile), await sha256(path));
  await kept.remove();
  await assert.rejects(readFile(tmpFile), { code: "ENOENT" });

  for (const [sent, total] of [[buffer, 5_000_001], [file, (20 << 20) + 3]]) {
    const list = alice.log.filter((e) => e[0] === "notifySendProgress" && e[1] === sent);
    assert.ok(list.length > 0);
    assert.deepEqual(list.map((e) => e[2]), list.map((e) => e[2]).sort((a, b) => a - b), "it never goes back");
    assert.deepEqual(list.at(-1).slice(2, 4), [total, total], "sent = total is the last");
    assert.ok(alice.log.indexOf(list.at(-1)) < alice.log.findIndex((e) => e[0].endsWith("Rlst") && e[1] === sent), "and comes before the result");
  }
  assert.equal(alice.log.some((e) => e[0] === "notifySendProgress" && e[1] === cmd), false, "none of a command");
  assert.equal(bob.log.length, 3);
});

test("cancel: first that it took, then 1105; what cannot be cancelled is 1104; the receiver is told", async (t) => {
  const r = await relay(t);
  const [alice, bob] = [await user(t, r, "alice"), await user(t, r, "bob")];
  const id = alice.p.sendFile("bob", await content(join(await folder(t), "big"), 200 << 20), "task");
  await alice.next("notifySendProgress", id);
  alice.p.cancelSend(id, "cancel");
  await alice.next("sendFileRlst", id);
  const ends = alice.log.filter((e) => e[0].endsWith("Rlst"));
  assert.deepEqual(ends.map((e) => e[0]), ["cancelSendRlst", "sendFileRlst"]);
  assert.deepEqual([ends[0].slice(1), ends[1].slice(3)], [[id, 0, "cancel"], [1105, "task"]]);
  assert.deepEqual(await bob.next("notifyCancelSend"), ["notifyCancelSend", id, "alice"]);

  const cmd = alice.p.sendCmd("bob", "x");
  alice.p.cancelSend(cmd, "no");
  alice.p.cancelSend(id, "late");
  await alice.next("sendCmdRlst", cmd);
  assert.deepEqual(alice.log.filter((e) => e[0] === "cancelSendRlst").slice(1), [["cancelSendRlst", cmd, 1104, "no"], ["cancelSendRlst", id, 1104, "late"]]);
  assert.equal(bob.log.some((e) => e[0] === "notifyFileData"), false);
});

test("refusals have the old numbers", async (t) => {
  const r = await relay(t);
  const [alice, deaf] = [await user(t, r, "alice"), await user(t, r, "deaf", false)];
  const code = async (callback, id) => (await alice.next(callback, id)).at(-2);
  const cases = [
    ["sendCmdRlst", alice.p.sendCmd("nobody", "x"), 603],
    ["sendBufferRlst", alice.p.sendBuffer("nobody", "x"), 603],
    ["sendFileRlst", alice.p.sendFile("nobody", new Blob(["x"])), 603],
    ["sendCmdRlst", alice.p.sendCmd("", "x"), 1102],
    ["sendCmdRlst", alice.p.sendCmd("deaf", new Uint8Array(65_537)), 1100],
    ["sendBufferRlst", alice.p.sendBuffer("deaf", new Uint8Array(104_857_601)), 1101],
    ["sendFileRlst", alice.p.sendFile("deaf", "/no/such/file"), 1400],
    ["sendFileRlst", alice.p.sendFile("deaf", "/tmp"), 1103],
    ["sendCmdRlst", alice.p.sendCmd("deaf", "nobody takes commands there"), 606],
    ["sendBufferRlst", alice.p.sendBuffer("deaf", "x"), 606],
    ["sendFileRlst", alice.p.sendFile("deaf", new Blob(["x"])), 606],
  ];
  for (const [callback, id, want] of cases) assert.equal(await code(callback, id), want, `${callback} ${want}`);
  // Callbacks may be set after login, and taken away.
  deaf.p.notifyCmdData = (source, data) => deaf.log.push([source, data]);
  assert.equal(await code("sendCmdRlst", alice.p.sendCmd("deaf", "heard")), 0);
  assert.deepEqual(deaf.log, [["alice", "heard"]]);
  deaf.p.notifyCmdData = undefined;
  assert.equal(await code("sendCmdRlst", alice.p.sendCmd("deaf", "x")), 606);
});

test("login states: refused, twice, kicked and back, logged out", async (t) => {
  const r = await relay(t);
  const p = new PointToPoint(connect);
  const results = [];
  p.loginRslt = (sdkErr, cookie) => results.push([sdkErr, cookie]);
  p.sendCmdRlst = (...args) => results.push(args);
  const early = p.sendCmd("bob", "x", "early");
  p.cancelSendRlst = (id, sdkErr, cookie) => results.push([id, sdkErr, cookie]);
  p.cancelSend("unknown", "c");
  await until(() => results.length === 2);
  assert.deepEqual(results.splice(0), [[early, 12, "early"], ["unknown", 1104, "c"]]);
  assert.equal(await p.updateToken("x"), 12);
  assert.equal(await p.login(r.url, { token: "nonsense", receiveDir: await folder(t) }), 19);
  assert.equal(await p.login(r.url, { token: token("bob"), receiveDir: await folder(t) }, 1), 0);
  after(t, () => p.logout());
  assert.equal(await p.login(r.url, { token: token("bob"), receiveDir: await folder(t) }, 2), 9);
  assert.deepEqual(results.splice(0), [[19, ""], [0, 1], [9, 2]]);
  assert.equal(await p.updateToken(token("bob")), 0);
  assert.equal(await p.updateToken("nonsense"), 19);

  const off = new Promise((resolve) => (p.notifyLineOff = resolve));
  const newer = await user(t, r, "bob");
  assert.equal(await off, 10);
  assert.equal(p.client, undefined);
  await newer.p.logout();
  assert.equal(await p.login(r.url, { token: token("bob"), receiveDir: await folder(t) }), 0); // as old applications do
  await p.logout();
  p.sendCmd("bob", "x");
  await until(() => results.some((e) => e[1] === 12));
});

test("the web form: slots, both spellings, a prefix", async (t) => {
  const r = await relay(t);
  const bob = await user(t, r, "bob");
  const p = new PointToPoint(connect);
  const CR = webNames(p);
  const globals = webNames(p, "CRVideo_");
  assert.equal(CR.SendCmdRslt, CR.SendCmdRlst);
  assert.equal(await p.login(r.url, { token: token("alice"), receiveDir: await folder(t) }), globals.CRVideo_NOERR);
  after(t, () => p.logout());
  const got = new Promise((resolve) => (CR.SendCmdRslt.callback = (...args) => resolve(args)));
  const cmd = CR.SendCmd("bob", "hi");
  assert.deepEqual(await got, [cmd, 0, ""]);
  assert.equal(globals.CRVideo_SendCmdRlst.callback, p.sendCmdRlst);
  const file = new Promise((resolve) => (globals.CRVideo_SendFileRslt.callback = (...args) => resolve(args)));
  const progress = [];
  globals.CRVideo_SendProgress.callback = (...args) => progress.push(args);
  const id = globals.CRVideo_SendFile("bob", new File(["12345"], "a.txt"), "k");
  assert.deepEqual(await file, [id, "a.txt", 0, "k"]);
  assert.deepEqual(progress, [[id, 5, 5, "k"]]);
  const heard = new Promise((resolve) => (globals.CRVideo_NotifyCmdData.callback = (source, data) => resolve([source, data])));
  bob.p.sendCmd("alice", "back");
  assert.deepEqual(await heard, ["bob", "back"]);
});

test("the package exports it, typed", async () => {
  const self = await import("@dian-im/sdk/compat");
  assert.equal(typeof self.PointToPoint, "function");
  assert.match(await readFile(new URL(import.meta.resolve("@dian-im/sdk/compat")).pathname.replace(/\.js$/, ".d.ts"), "utf8"), /class PointToPoint/);
});
