// The machines of transfers and commands alone: whatever comes, whenever, they do not
// break, and end what they began once. The seed of a failing run is in its message.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Sender } from "../dist/core/sender.js";
import { Receiver } from "../dist/core/receiver.js";
import { Outbox } from "../dist/core/outbox.js";
import { InOrder } from "../dist/core/inorder.js";
import { Budget } from "../dist/core/context.js";
import { rangeLength } from "../dist/core/downlane.js";
import { upEnd } from "../dist/core/uplane.js";
import { CommandOutcome, Origin } from "../dist/core/wire.js";

const ends = ["broken", "confirmed", "conflict", "notThere", "gone", "tooLarge", "final", "whole", "nothing", "over"];
const half = (d) => d / 2;

function dice(seed) {
  let x = seed * 2654435761 >>> 0 || 1;
  return (n) => {
    x ^= x << 13; x >>>= 0; x ^= x >>> 17; x ^= x << 5; x >>>= 0;
    return x % n;
  };
}

test("no event at any time breaks a machine, and a task has one result", () => {
  for (let seed = 1; seed <= 3000; seed++) {
    const roll = dice(seed);
    const size = roll(101);
    const pick = (...l) => l[roll(l.length)];
    let now = 1e6;
    const s = new Sender({ size, inlined: roll(2) === 0, reused: roll(2) === 0, window: 60_000, offerWait: 60_000, peerWait: roll(2) * 5_000, jitter: half }, now);
    const r = new Receiver({ record: { state: pick("unknown", "partial", "have", "cancelled"), offset: 0, size, code: 0, receipt: "stored" }, idle: 60_000, jitter: half }, now);
    let told = 0;
    for (let i = 0; i < 60; i++) {
      now += roll(20_000);
      const n = roll(112);
      const lane = roll(6);
      const end = pick(...ends);
      const result = { code: pick(0, 8, 603, 606, 1104, 1105, 1110), receipt: "stored", origin: pick("peer", "server"), lengthOnly: false, detail: "" };
      const events = [{ on: "lineUp" }, { on: "lineDown" }, { on: "accepted", transfer: "t", url: "u", offset: n, instance: new Uint8Array(16) },
        { on: "received", offset: n }, { on: "verdict", transfer: pick("t", ""), result }, { on: "unknown" }, { on: "cancel" },
        { on: "sourceFailed", code: 1103, detail: "" }, { on: "digested" }, { on: "wrote", lane, offset: n },
        { on: "laneEnded", lane, end, offset: n - 2 }, { on: "tick" }];
      try {
        for (const a of s.step(now, pick(...events))) if (a.do === "tell") told++;
        const at = s.wake();
        assert.ok(at === undefined || Number.isFinite(at));
        const verdict = { code: pick(0, 1110), receipt: "stored", lengthOnly: false, detail: "" };
        r.step(now, pick({ on: "offered", transfer: "t", url: "u", ticket: "k", size: n, inlined: n % 2 === 0, digest: undefined }, { on: "sync", offset: n },
          { on: "finish", digest: undefined }, { on: "cancel", transfer: "t" }, { on: "query", transfer: "t", url: "u", ticket: "k" }, { on: "acked" },
          { on: "lineUp" }, { on: "lineDown" }, { on: "accept", receipt: "stored" }, { on: "refuse", code: 606, detail: "" }, { on: "stop" },
          { on: "ready", offset: n }, { on: "broke", code: 1112, detail: "" }, { on: "took", offset: n }, { on: "laneEnded", lane, end },
          { on: "kept", verdict }, { on: "tick" }));
        r.wake();
      } catch (e) {
        throw new Error(`seed ${seed}`, { cause: e });
      }
      assert.ok(s.confirmed <= size && told <= 1, `seed ${seed}`);
      assert.equal(told === 1, s.ended, `seed ${seed}`);
    }
  }
});

test("a held offer waits for the peer to come back; a wake is never in the past", () => {
  let now = 1e6;
  const s = new Sender({ size: 1 << 20, inlined: false, reused: false, window: 120_000, offerWait: 60_000, peerWait: 0, jitter: half }, now);
  const refuse = (code) => s.step(now, { on: "verdict", transfer: "", result: { code, receipt: "none", origin: "server", lengthOnly: false, detail: "" } });
  s.step(now, { on: "lineUp" });
  refuse(8);
  now = s.wake();
  assert.equal(s.step(now, { on: "tick" })[0].do, "offer");
  refuse(603); // the receiver was there, so it may be reconnecting
  assert.ok(!s.ended);
  while (!s.ended) {
    const at = s.wake();
    assert.ok(at >= now);
    now = at;
    for (const a of s.step(now, { on: "tick" })) if (a.do === "offer") refuse(603);
  }
  assert.ok([603, 207].includes(s.result.code));
});

test("a stalled up-lane goes on in pieces, and a proxy's 413 too", () => {
  let now = 0;
  const s = new Sender({ size: 64 << 20, inlined: false, reused: false, window: 120_000, offerWait: 60_000, peerWait: 0, jitter: half }, now);
  s.step(now, { on: "lineUp" });
  let [lane] = s.step(now, { on: "accepted", transfer: "t", url: "u", offset: 0, instance: new Uint8Array(16) });
  assert.deepEqual([lane.do, lane.length], ["openLane", 64 << 20]);
  s.step(now, { on: "wrote", lane: 1, offset: 1 << 20 });
  now = 10_000;
  assert.equal(s.step(now, { on: "tick" })[0].do, "endLane");
  now = s.wake();
  const [head] = s.step(now, { on: "tick" });
  assert.equal(head.do, "askHead");
  [lane] = s.step(now, { on: "laneEnded", lane: head.lane, end: "confirmed", offset: 0 });
  assert.deepEqual([lane.do, lane.length], ["openLane", 2 << 20]);
  s.step(now, { on: "laneEnded", lane: lane.lane, end: "tooLarge" });
  now = s.wake();
  const [again] = s.step(now, { on: "tick" });
  [lane] = s.step(now, { on: "laneEnded", lane: again.lane, end: "confirmed", offset: 0 });
  assert.equal(lane.length, 1 << 20);
});

test("a HEAD that tells of the whole content has the verdict asked for: it may have gone to nobody", () => {
  let now = 0;
  const s = new Sender({ size: 100, inlined: false, reused: false, window: 120_000, offerWait: 60_000, peerWait: 0, jitter: half }, now);
  s.step(now, { on: "lineUp" });
  const [lane] = s.step(now, { on: "accepted", transfer: "t", url: "u", offset: 0, instance: new Uint8Array(16) });
  s.step(now, { on: "laneEnded", lane: lane.lane, end: "broken" });
  now = s.wake();
  const [head] = s.step(now, { on: "tick" });
  assert.equal(head.do, "askHead");
  s.step(now, { on: "laneEnded", lane: head.lane, end: "confirmed", offset: 100 });
  now = s.wake();
  assert.equal(s.step(now, { on: "tick" })[0].do, "offer");
});

test("commands over a line that loses anything are delivered in order and once", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const roll = dice(seed);
    let now = 0;
    let ref = 0n;
    const box = new Outbox(60_000, () => 7n);
    const inbox = new InOrder(false);
    const got = [];
    const results = new Map();
    const moment = { $typeName: "dian.v1.Moment", server: 1n, count: 5n };
    let count = 5n;
    inbox.lineUp(moment);
    const add = (i) => box.add(now, { id: `id-${i}`, target: "bob", data: new Uint8Array([i]), meta: new Uint8Array(), wait: 60_000, done: (o) => results.set(i, o.code) });
    const take = () => {
      const { frames, outcomes } = box.take();
      for (const [o, outcome] of outcomes) o.done(outcome);
      return frames;
    };
    let next = 0;
    let up = false;
    for (let step = 0; step < 4000 && results.size < 40; step++) {
      now += 20;
      if (!up || (step < 600 && roll(25) === 0)) {
        if (up) box.lineDown();
        up = true;
        box.lineUp(now, { ...moment, count: ++count });
      }
      if (next < 40 && roll(2) === 0) add(next++);
      box.tick(now);
      for (let frames = take(); frames.length > 0; frames = take()) for (const f of frames) {
        if (step < 600 && roll(4) === 0) { // lost on the way, or the answer is
          box.result(now, { id: f.id, outcome: CommandOutcome.LOST, code: 0, origin: Origin.SERVER, reply: new Uint8Array(), detail: "" });
          if (roll(2) === 0) continue;
        }
        const [d, ack] = inbox.arrive(now, { ...f, source: { user: "alice" }, ref: ++ref });
        if (d !== undefined) {
          got.push(d.data[0]);
          inbox.handled(d, 0, new Uint8Array(), "");
        }
        if (ack !== undefined) box.result(now, { ...ack, origin: Origin.PEER });
      }
    }
    assert.deepEqual(got, Array.from({ length: 40 }, (_, i) => i), `seed ${seed}`);
    assert.equal(results.size, 40, `seed ${seed}`);
  }
});

test("a budget gives turns in order and takes back what is given twice once", async () => {
  const b = new Budget(2);
  const never = new AbortController();
  const first = await b.take(2, never.signal);
  const order = [];
  const quit = new AbortController();
  const a = b.take(1, quit.signal).then(() => order.push("a"), () => order.push("quit"));
  const c = b.take(5, never.signal).then((give) => (order.push("c"), give));
  quit.abort(new Error("stop"));
  first();
  first();
  await a;
  (await c)();
  assert.deepEqual(order, ["quit", "c"]);
  (await b.take(2, never.signal))();
});

test("answers of lanes mean what the protocol says", async () => {
  const end = (status, headers = {}, body = "") => upEnd(status, (n) => headers[n] ?? null, async () => body);
  assert.deepEqual(await end(204, { "Upload-Offset": "7" }), { end: "confirmed", offset: 7 });
  assert.deepEqual(await end(204), { end: "broken" });
  assert.deepEqual(await end(204, { "Upload-Offset": "1e99" }), { end: "broken" });
  for (const [status, what] of [[409, "conflict"], [423, "notThere"], [404, "gone"], [500, "broken"], [401, "broken"], [429, "broken"]]) assert.equal((await end(status)).end, what);
  assert.deepEqual(await end(413), { end: "tooLarge", code: 1000, detail: "HTTP 413" });
  assert.deepEqual(await end(413, {}, '{"code":1405,"detail":"x"}'), { end: "final", code: 1405, detail: "x" });
  assert.equal((await end(403, {}, "null")).code, 1000);
  assert.equal(rangeLength("bytes 5-9/10", 5, 10), 5);
  for (const bad of ["bytes 4-9/10", "bytes 5-10/10", "bytes 5-9/11", "bytes 5-4/10", "bytes */10", ""]) assert.equal(rangeLength(bad, 5, 10), undefined, bad);
});
