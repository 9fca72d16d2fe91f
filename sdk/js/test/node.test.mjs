// The SDK in Node against a real relay: session, commands, presence, tokens.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, codeOf, connect, DianError } from "../dist/index.node.js";
import { after, folder, gather, relay, run, token, until, dian } from "./lib.mjs";

const login = async (t, r, user, options = {}) => {
  const c = await connect(r.url, { token: token(user), receiveDir: await folder(t), ...options });
  after(t, () => c.close());
  return c;
};

test("bad input and bad tokens are typed errors", async (t) => {
  const r = await relay(t);
  const fails = async (p, code, origin) => {
    const e = await p.then(() => assert.fail("no error"), (x) => x);
    assert.ok(e instanceof DianError, String(e));
    assert.equal(e.code, code, e.message);
    if (origin !== undefined) assert.equal(e.origin, origin);
  };
  await fails(connect(r.url, {}), Code.badParameter);
  await fails(connect("ftp://x", { token: "x" }), Code.badParameter);
  await fails(connect("http://user:pw@x", { token: "x" }), Code.badParameter);
  await fails(connect(r.url, { token: "nonsense", sendOnly: true }), Code.tokenMalformed, "server");
  const [head, body, sign] = token("a").split(".");
  const elsewhere = Buffer.from(Buffer.from(body, "base64url").toString().replace('"demo"', '"nowhere"')).toString("base64url");
  await fails(connect(r.url, { token: `${head}.${elsewhere}.${sign}`, sendOnly: true }), Code.noSuchApp, "server");
  await fails(connect("http://127.0.0.1:1", { token: token("a"), sendOnly: true }), Code.connectFailed);
  await fails(connect(r.url, { tokenProvider: () => Promise.reject(new Error("no")), sendOnly: true }), Code.wrongCredentials);
  await fails(connect(r.url, { token: token("a"), sendOnly: true, signal: AbortSignal.abort() }), Code.cancelled);

  const c = await login(t, r, "alice", { sendOnly: true });
  await fails(c.sendCmd("", "x").then(), Code.badTarget);
  await fails(c.sendCmd("a\u202eb", "x").then(), Code.badTarget);
  await fails(c.sendCmd("bob", new Uint8Array(65_537)).then(), Code.commandTooLarge);
  await fails(c.sendCmd("bob", "x", { sendId: "X" }).then(), Code.badSendId);
  await fails(c.sendCmd("bob", "x", { meta: new Uint8Array(4097) }).then(), Code.badParameter);
  await fails(c.sendBuffer("bob", new Uint8Array(104_857_601)).then(), Code.bufferTooLarge);
  await fails(c.sendFile("bob", "/no/such/file").then(), Code.fileNotFound);
  await fails(c.sendFile("bob", "/tmp").then(), Code.fileError);
  await fails(c.sendFile("bob", 7).then(), Code.badParameter);
  await fails(c.sendCmd("nobody", "x").then(), Code.peerOffline, "server");
  await fails(c.sendBuffer("nobody", "x").then(), Code.peerOffline, "server");
  assert.throws(() => c.setStatus(true), (e) => codeOf(e) === Code.wrongLoginState);
  assert.equal(await c.cancelSend("01890a5d-ac96-774b-bcce-b302099a8057"), false);
});

test("commands arrive in order and once, over a relay that is killed", async (t) => {
  const r = await relay(t);
  const got = [];
  const bob = await login(t, r, "bob", { on: { cmdData: (c) => got.push(c.text()) } });
  const alice = await login(t, r, "alice");
  const total = 600;
  const tasks = [];
  for (let i = 0; i < total; i++) {
    tasks.push(alice.sendCmd("bob", String(i), { waitForPeer: 60_000 })); // alice may be back before bob
    if (i === 200) await until(() => got.length > 50);
    if (i === 300) {
      await r.kill();
      setTimeout(() => void r.start(), 300);
    }
    if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const results = await Promise.all(tasks.map((x) => x.result));
  assert.deepEqual(results.map((x) => x.code), new Array(total).fill(0));
  assert.deepEqual(got, Array.from({ length: total }, (_, i) => String(i)));
  assert.ok(bob.online && alice.online);
});

test("a handler's reply and error reach the sender; what nobody handles is refused", async (t) => {
  const r = await relay(t);
  await login(t, r, "bob", {
    async handleCmd(c) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      if (c.text() === "bad") throw new DianError("x", 4711, { detail: "因为" });
      if (c.text() === "worse") throw new Error("/secret/path");
      if (c.text() === "long") return new Uint8Array(65_537);
      return `${c.source}:${c.text()}:${new TextDecoder().decode(c.meta)}`;
    },
  });
  await login(t, r, "deaf");
  const alice = await login(t, r, "alice", { sendOnly: true });
  const ok = await alice.sendCmd("bob", "ping", { meta: "m", cookie: 7 });
  assert.equal(new TextDecoder().decode(ok.reply), "alice:ping:m");
  assert.equal(ok.cookie, 7);
  const bad = (await alice.sendCmd("bob", "bad").result).error;
  assert.deepEqual([bad.code, bad.origin, bad.detail], [4711, "peer", "因为"]);
  const worse = (await alice.sendCmd("bob", "worse").result).error;
  assert.deepEqual([worse.code, worse.detail], [Code.peerRefused, ""]);
  assert.equal((await alice.sendCmd("bob", "long").result).code, Code.commandTooLarge);
  assert.equal((await alice.sendCmd("deaf", "x").result).code, Code.peerRefused);
  assert.equal((await alice.sendBuffer("deaf", "x").result).code, Code.peerRefused);
  const many = await Promise.all(Array.from({ length: 300 }, (_, i) => alice.sendCmd("bob", String(i))));
  assert.deepEqual(many.map((m) => new TextDecoder().decode(m.reply)), Array.from({ length: 300 }, (_, i) => `alice:${i}:`));
});

test("an application's bug in a listener or a hook stops nothing else", async (t) => {
  const r = await relay(t);
  const faults = [];
  globalThis.reportError = (e) => faults.push(e.message); // as in a browser; Node has none
  after(t, () => void delete globalThis.reportError);
  const got = [];
  const bob = await login(t, r, "bob", { acceptFile: () => { throw new Error("hook"); } });
  bob.on("cmdData", () => { throw new Error("listener"); });
  bob.on("cmdData", (c) => got.push(c.text()));
  const alice = await login(t, r, "alice", { sendOnly: true });
  assert.equal((await alice.sendCmd("bob", "1")).code, 0);
  assert.equal((await alice.sendFile("bob", new Blob(["x"])).result).code, Code.internal);
  assert.equal((await alice.sendCmd("bob", "2")).code, 0);
  await until(() => got.length === 2 && faults.length === 3);
  assert.deepEqual(faults.sort(), ["hook", "listener", "listener"]);
});

test("commands go to and from the CLI", async (t) => {
  const r = await relay(t);
  const bob = await login(t, r, "bob");
  const cmds = gather(bob, "cmdData");
  assert.equal(await run(dian, ["cmd", "--user", "alice", "--server", r.url, "bob", "from go 点"]).ended, 0);
  assert.deepEqual([cmds.list[0].source, cmds.list[0].text()], ["alice", "from go 点"]);
  const listen = run(dian, ["listen", "--user", "carol", "--server", r.url, "--json", "--dir", await folder(t)]);
  after(t, () => listen.stop());
  const sent = await bob.sendCmd("carol", "from js", { waitForPeer: 20_000 });
  assert.equal(sent.code, 0);
  assert.match(await listen.line((l) => l.includes('"cmd"')), /from js/);
});

test("presence: queries, subscriptions over a restart, status", async (t) => {
  const r = await relay(t);
  const alice = await login(t, r, "alice");
  assert.deepEqual(await alice.userStatus("bob"), [{ user: "bob", status: 0, doNotDisturb: 0 }]);
  let now = [];
  alice.on("userStatus", (l) => { for (const u of l) if (u.user === "bob") now = [u.status, u.doNotDisturb]; });
  await alice.startUserStatusNotify("bob");
  const bob = await login(t, r, "bob");
  await until(() => now[0] === 1);
  bob.setStatus(true, -5);
  await until(() => now[0] === 2 && now[1] === -5);
  now = [];
  await r.kill();
  await r.start();
  await until(() => now[0] === 2 && now[1] === -5);
  assert.ok((await alice.userStatus()).some((u) => u.user === "bob"));
  await alice.stopUserStatusNotify("bob");
  await assert.rejects(() => alice.userStatus("a\nb"), (e) => codeOf(e) === Code.badTarget);
});

test("a second login kicks the first, which does not fight back", async (t) => {
  const r = await relay(t);
  const first = await login(t, r, "bob");
  const off = gather(first, "lineOff");
  const second = await login(t, r, "bob");
  const why = await first.done;
  assert.equal(why.code, Code.kicked);
  assert.equal((await off.next()).code, Code.kicked);
  assert.equal((await first.sendCmd("alice", "x").result).code, Code.kicked);
  assert.ok(second.online);
  await second.close();
  assert.equal((await second.done).code, Code.notLoggedIn);
  assert.equal((await second.sendBuffer("alice", "x").result).code, Code.notLoggedIn);
});

test("the token is renewed before it ends, by the provider or by the application", async (t) => {
  const r = await relay(t);
  let asked = 0;
  const alice = await login(t, r, "alice", { token: undefined, sendOnly: true, tokenProvider: () => token("alice", "--ttl", ++asked === 1 ? "36s" : "1h") });
  const bob = await login(t, r, "bob", { token: token("bob", "--ttl", "36s") });
  const notice = await gather(bob, "tokenWillExpire").next(); // 30 s before the end: there is time to ask for it
  assert.ok(notice.expires.getTime() > Date.now());
  await bob.updateToken(token("bob"));
  await assert.rejects(bob.updateToken(token("eve")), (e) => e instanceof DianError && e.origin === "server");
  await until(() => asked === 2);
  assert.equal((await bob.sendCmd("alice", "x").result).code, Code.peerOffline); // alice only sends
  assert.ok(alice.online && bob.online);
});
