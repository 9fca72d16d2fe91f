// The buffers and files that a client receives.
import type { FileData } from "../api.js";
import { Code, DianError } from "../codes.js";
import { keyText, type Entry, type Key, type Vault } from "../platform.js";
import { fromHex } from "./names.js";
import { Budget, type Context } from "./context.js";
import { KeptFile } from "./keptfile.js";
import { InTransfer, type OfferFields } from "./intransfer.js";
import type { InOffer } from "./offer.js";
import type { ReceiverRecord, ReceiverVerdict } from "./steps.js";
import { AnswerSchema, create, Decision, Kind, StandingSchema, TransferState, VerdictSchema, type Body, type Offer, type Query } from "./wire.js";

const receiveMost = 4096; // transfers that are known at a time; more are refused (602)
const knownNames = 4096; // ids of transfers that are not open, for a late cancel
const verdictsMost = 16_384; // of buffers, and of what is not kept here
const bufferBudget = 256 << 20; // bytes of buffers at a time
const day = 86_400_000;
const ages: Partial<Record<Entry["state"], number>> = { partial: day, cancelled: day, have: 7 * day };

export class Incoming {
  readonly c: Context;
  readonly vault: Vault | undefined;
  readonly slots: Budget;
  readonly memory = new Budget(bufferBudget);
  readonly left = new Map<string, InOffer>(); // accepted, and left to be gone on with
  up = false;

  readonly #entries = new Map<string, Entry>();
  readonly #verdicts = new Map<string, ReceiverVerdict>();
  readonly #all = new Map<string, InTransfer>();
  readonly #byTransfer = new Map<string, InTransfer>();
  readonly #names = new Map<string, Key>();
  #greeted = false;
  #closed = false;
  #cleaner: ReturnType<typeof setInterval> | undefined;

  constructor(c: Context, vault: Vault | undefined) {
    this.c = c;
    this.vault = vault;
    this.slots = new Budget(Math.max(1, c.options.parallelReceive ?? 16));
  }

  /** Reads what earlier lives have written down. */
  async load(): Promise<void> {
    for (const e of (await this.vault?.ledger.all()) ?? []) {
      this.#entries.set(e.key, e);
      if (e.file === "" || (await this.vault?.exists(e.file, e.state === "partial")) === true) continue;
      // Somebody, or the browser's own cleaning, has taken the bytes.
      if (e.state === "partial") await this.forgetEntry(e.key);
      else await this.write({ ...e, state: "have", file: "" });
    }
    await this.#clean();
    this.#cleaner = setInterval(() => void this.#clean().catch(() => this.c.log("receive place not cleaned")), 3_600_000);
    if (typeof this.#cleaner === "object") this.#cleaner.unref();
  }

  /** Removes what is too old. */
  async #clean(): Promise<void> {
    for (const e of [...this.#entries.values()]) {
      const most = ages[e.state];
      if (most === undefined || Date.now() - e.at < most || this.#all.has(e.key)) continue;
      if (e.file !== "") await this.vault?.remove(e.file);
      await this.forgetEntry(e.key);
    }
  }

  entry(key: string): Entry | undefined {
    return this.#entries.get(key);
  }

  /** Writes an entry down; it is durable when this resolves. */
  async write(e: Entry): Promise<void> {
    e.at = Date.now();
    this.#entries.set(e.key, e);
    await this.vault?.ledger.put({ ...e });
  }

  async forgetEntry(key: string): Promise<void> {
    this.#entries.delete(key);
    await this.vault?.ledger.delete(key);
  }

  /** Remembers how something ended that is not written down. */
  addVerdict(key: string, v: ReceiverVerdict): void {
    this.#verdicts.set(key, v);
    for (const old of this.#verdicts.keys()) {
      if (this.#verdicts.size <= verdictsMost) break;
      this.#verdicts.delete(old);
    }
  }

  /** What is known of a transfer that is not open. */
  record(key: string): ReceiverRecord {
    const none = { offset: 0, size: 0, code: 0, receipt: "none" as const };
    const v = this.#verdicts.get(key);
    if (v !== undefined) return v.code === Code.cancelled ? { ...none, state: "cancelled", code: v.code } : { ...none, state: "have", code: v.code, receipt: v.receipt };
    const e = this.#entries.get(key);
    if (e === undefined) return { ...none, state: "unknown" };
    if (e.state === "cancelled") return { ...none, state: "cancelled", code: e.code };
    if (e.state === "partial") return { ...none, state: "partial", offset: e.offset, size: e.size };
    return { ...none, state: "have", code: e.code, receipt: "stored" };
  }

  /** Takes in a frame that was checked alone. */
  frame(f: Body): void {
    switch (f.case) {
      case "offer": this.#offer(f, f.value); return;
      case "query": this.#query(f, f.value); return;
      case "sync": {
        const { transfer, offset } = f.value;
        this.#find(transfer, false)?.frame(f, (x) => x.sync(Number(offset)));
        return;
      }
      case "finish": {
        const d = f.value.digest;
        const digest = d === undefined ? undefined : { algorithm: d.algorithm, value: d.value.slice() };
        this.#find(f.value.transfer, true)?.frame(f, (x) => x.step({ on: "finish", digest }));
        return;
      }
      case "verdictAck":
        this.#find(f.value.transfer, false)?.frame(f, (x) => x.step({ on: "acked" }));
        return;
      case "cancel": {
        const { transfer, source, sendId } = f.value;
        let x = this.#find(transfer, true);
        // Of an earlier life, whose part may be here.
        if (x === undefined && source !== undefined) x = this.#open({ source: source.user, sendId }, transfer);
        if (x !== undefined) x.frame(f, (y) => y.step({ on: "cancel", transfer }));
        else this.c.send({ case: "verdict", value: create(VerdictSchema, { sendId, transfer, code: Code.cancelled }) });
      }
    }
  }

  #offer(f: Body, o: Offer): void {
    const refuse = (code: number, detail: string) => this.c.send({ case: "answer",
      value: create(AnswerSchema, { transfer: o.transfer, decision: Decision.REFUSE, code, detail }) });
    const size = Number(o.size);
    if (!Number.isSafeInteger(size)) {
      refuse(Code.fileTooLarge, "over 2^53 - 1 bytes");
      return;
    }
    const x = this.#open({ source: o.source?.user ?? "", sendId: o.sendId }, o.transfer);
    if (x === undefined) {
      refuse(Code.peerBusy, "");
      return;
    }
    const fields: OfferFields = {
      transfer: o.transfer, url: o.url, ticket: o.ticket, size, kind: o.kind === Kind.BUFFER ? "buffer" : "file",
      name: o.name, type: o.type, meta: o.meta.slice(), inlined: o.inlined, inline: o.inline.slice(),
      digest: o.digest === undefined ? undefined : { algorithm: o.digest.algorithm, value: o.digest.value.slice() },
    };
    x.frame(f, (y) => y.offered(fields));
  }

  #query(f: Body, q: Query): void {
    const key = { source: q.source?.user ?? "", sendId: q.sendId };
    const x = this.#open(key, q.transfer);
    if (x === undefined) {
      this.c.send({ case: "standing", value: create(StandingSchema, { transfer: q.transfer, sendId: q.sendId, state: TransferState.UNKNOWN }) });
      return;
    }
    x.frame(f, (y) => {
      // A part that an earlier life has accepted: the application is asked again, and its
      // answer to that offer serves as the answer to the question.
      const e = this.#entries.get(keyText(key));
      if (y.asked || e === undefined || e.state !== "partial") {
        y.step({ on: "query", transfer: q.transfer, url: q.url, ticket: q.ticket });
        return;
      }
      y.offered({
        transfer: q.transfer, url: q.url, ticket: q.ticket, size: e.size, kind: "file", name: e.name, type: e.type, meta: fromHex(e.meta),
        inlined: false, inline: new Uint8Array(), digest: e.sha256 === "" ? undefined : { algorithm: "sha-256", value: fromHex(e.sha256) },
      });
    });
  }

  /** Returns the transfer of a key, a new one if there is none; undefined if there are too many. */
  #open(key: Key, transfer: string): InTransfer | undefined {
    if (this.#closed) return undefined;
    const text = keyText(key);
    let x = this.#all.get(text);
    if (x === undefined) {
      if (this.#all.size >= receiveMost) return undefined;
      x = new InTransfer(this, key, text);
      this.#all.set(text, x);
    }
    if (x.transfer !== transfer) {
      if (this.#byTransfer.get(x.transfer) === x) this.#byTransfer.delete(x.transfer);
      x.transfer = transfer;
      this.#byTransfer.set(transfer, x);
    }
    return x;
  }

  #find(transfer: string, again: boolean): InTransfer | undefined {
    const x = this.#byTransfer.get(transfer);
    const key = this.#names.get(transfer);
    return x === undefined && again && key !== undefined ? this.#open(key, transfer) : x;
  }

  forget(x: InTransfer): void {
    if (this.#all.get(x.keyText) === x) this.#all.delete(x.keyText);
    if (this.#byTransfer.get(x.transfer) !== x) return;
    this.#byTransfer.delete(x.transfer);
    this.#names.set(x.transfer, x.key);
    for (const old of this.#names.keys()) {
      if (this.#names.size <= knownNames) break;
      this.#names.delete(old);
    }
  }

  line(up: boolean): void {
    this.up = up;
    for (const x of [...this.#all.values()]) x.post({ on: up ? "lineUp" : "lineDown" });
    if (!up || this.#greeted) return;
    this.#greeted = true;
    for (const e of [...this.#entries.values()]) if (e.state === "kept" && !e.notified) this.tellFile(e);
  }

  /** Tells the application of a kept file, and then notes that it was told. */
  tellFile(e: Entry): void {
    if (!this.c.emitter.has("fileData")) return; // whoever listens finds it at the next login
    this.c.emitter.emit("fileData", this.#kept(e), () => {
      e.notified = true;
      if (/[/\\]/.test(e.file)) Object.assign(e, { state: "have", file: "" }); // it lies where the application wanted it
      if (this.#entries.get(e.key) === e) this.write(e).catch(() => this.c.log(`file will be told again: ${e.sendId}`));
    });
  }

  #kept(e: Entry): FileData {
    return new KeptFile(e, this.vault as Vault, async () => {
      e.state = "have";
      e.file = "";
      await this.write(e);
    });
  }

  async files(): Promise<FileData[]> {
    const list = [...this.#entries.values()].filter((e) => e.state === "kept").sort((a, b) => a.at - b.at);
    return list.map((e) => this.#kept(e));
  }

  /** Ends everything and keeps what is here in part. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#cleaner);
    const all = [...this.#all.values()];
    this.#all.clear();
    this.#byTransfer.clear();
    await Promise.all(all.map((x) => x.close()));
    for (const o of this.left.values()) o.finish();
    await this.vault?.close();
  }
}

/** What a sender is told of an error of the place. */
export function placeCode(e: unknown): { code: number; detail: string } {
  return { code: e instanceof DianError && e.code !== Code.unknown ? e.code : Code.fileWrite, detail: "" };
}
