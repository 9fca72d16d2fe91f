// The vectors that the Go tests read too.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import { FrameSchema, join as joinFrames, split } from "../dist/core/wire.js";
import { isSendId, newSendId, safeName, toHex, userFault } from "../dist/core/names.js";
import { blockSize, X3b, x3b } from "../dist/core/x3b.js";
import { vectors } from "./lib.mjs";

const read = async (name) => JSON.parse(await readFile(join(vectors, name), "utf8"));
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

test("frames.json: every good frame reads and writes as in Go", async () => {
  const { good } = await read("frames.json");
  assert.ok(good.length >= 15);
  for (const v of good) {
    const frames = split(bytes(v.binary));
    assert.equal(frames.length, 1, v.name);
    assert.deepEqual(toJson(FrameSchema, frames[0]), v.json, v.name);
    const again = joinFrames([toBinary(FrameSchema, fromJson(FrameSchema, v.json))]);
    // Two encoders may order fields differently; what they mean is the same.
    assert.deepEqual(toJson(FrameSchema, split(again)[0]), v.json, v.name);
    assert.equal(again.length, bytes(v.binary).length, v.name);
  }
});

test("frames.json: every bad binary message is refused", async () => {
  const { bad } = await read("frames.json");
  const binary = bad.filter((v) => v.json === undefined);
  assert.ok(binary.length > 8);
  for (const v of binary) assert.throws(() => split(bytes(v.binary ?? "")), v.name);
});

test("frames.json: a message cut short anywhere is refused or holds fewer frames", async () => {
  const { good } = await read("frames.json");
  const all = Buffer.concat(good.map((v) => bytes(v.binary)));
  assert.equal(split(new Uint8Array(all)).length, good.length);
  for (const v of good) {
    const b = bytes(v.binary);
    for (let n = 0; n < b.length; n++) assert.throws(() => split(b.subarray(0, n)), `${v.name} at ${n}`);
  }
});

test("x3b.json: digests, whole, in pieces and resumed", async () => {
  const { vectors: list } = await read("x3b.json");
  assert.ok(list.length > 7);
  for (const v of list) {
    const p = new Uint8Array(v.size);
    for (let i = 0; i < p.length; i++) p[i] = (i * 31 + 7) % 251;
    assert.equal(toHex(await x3b(p)), v.x3b, `size ${v.size}`);
    const h = await X3b.create();
    for (let at = 0; at < p.length; at += 1_000_003) h.update(p.subarray(at, at + 1_000_003));
    const whole = Math.floor(p.length / blockSize);
    assert.equal(toHex(h.blocks), v.blocks.slice(0, whole).join(""), `blocks of ${v.size}`);
    const resumed = await X3b.create(h.blocks);
    assert.equal(resumed.length, whole * blockSize);
    resumed.update(p.subarray(resumed.length));
    assert.equal(toHex(h.digest()), v.x3b);
    assert.equal(toHex(resumed.digest()), v.x3b);
  }
});

test("names.json: hostile names become the same safe ones as in Go", async () => {
  const list = await read("names.json");
  assert.ok(list.length > 100);
  for (const v of list) {
    // What is not UTF-8 cannot come over the wire; runs of it are one underscore in Go.
    const name = v.in?.repeat(v.times ?? 1) ?? new TextDecoder().decode(Buffer.from(v.base64, "base64")).replace(/\uFFFD+/g, "_");
    assert.equal(safeName(name), v.safe, JSON.stringify(v));
    assert.equal(safeName(v.safe), v.safe, "twice");
  }
});

test("user ids and sendIds follow the protocol's rules", () => {
  for (const good of ["alice", "点", "a.b*c>d/e@f", "x".repeat(128), "e\u0301".normalize("NFC"), "a b", "😀".repeat(128)]) assert.equal(userFault(good), "", good);
  for (const bad of ["", ".", "..", " a", "a ", "a\nb", "a\u200bb", "a\u202eb", "e\u0301", "x".repeat(129), "\ud800", "\ufdd0", "\u00a0a"]) {
    assert.notEqual(userFault(bad), "", JSON.stringify(bad));
  }
  const id = newSendId();
  assert.ok(isSendId(id) && id[14] === "7", id);
  assert.ok(newSendId(1) < newSendId(2));
  for (const bad of ["", id.toUpperCase(), `${id} `, id.replaceAll("-", "")]) assert.ok(bad === id || !isSendId(bad), bad);
});
