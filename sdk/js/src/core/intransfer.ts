// One incoming buffer or file with its machine.
import { Code, DianError } from "../codes.js";
import type { Entry, Key, Part, Slot } from "../platform.js";
import { same } from "./bytes.js";
import { Alarm, awake, jitter } from "./clock.js";
import { Mailbox } from "./context.js";
import { placeCode, type Incoming } from "./incoming.js";
import { PassedFile } from "./keptfile.js";
import { toHex } from "./names.js";
import { InOffer } from "./offer.js";
import { digestOf, DownloadPart, MemoryPart } from "./parts.js";
import { Receiver } from "./receiver.js";
import type { ContentDigest, ReceiverAction, ReceiverEvent, ReceiverVerdict } from "./steps.js";
import { AnswerSchema, create, Decision, ReceivedSchema, Receipt, StandingSchema, TransferState, VerdictSchema, type Body } from "./wire.js";

const tellEvery = 125; // ms between two receiveProgress of one transfer
const markEvery = 1_000; // ms between two marks of a part, off the hot path
const yieldAfter = 15_000; // ms after which a lane lets another one of this origin go on
const idleSlack = 30_000;

/** What an offer says, or what is remembered of one. */
export interface OfferFields {
  transfer: string;
  url: string;
  ticket: string;
  size: number;
  kind: "buffer" | "file";
  name: string;
  type: string;
  meta: Uint8Array;
  inlined: boolean;
  inline: Uint8Array;
  digest: ContentDigest | undefined;
}

const receipts = { none: Receipt.UNSPECIFIED, stored: Receipt.STORED, handed: Receipt.HANDED };
const decisions = { accept: Decision.ACCEPT, refuse: Decision.REFUSE, have: Decision.HAVE };
const standings = { unknown: TransferState.UNKNOWN, partial: TransferState.PARTIAL, have: TransferState.HAVE, cancelled: TransferState.CANCELLED };

export class InTransfer {
  readonly key: Key;
  readonly keyText: string;
  transfer = ""; // Incoming's
  asked = false; // an offer has come

  readonly #in: Incoming;
  readonly #m: Receiver;
  readonly #box = new Mailbox();
  readonly #end = new AbortController();
  readonly #alarm = new Alarm(() => this.post({ on: "tick" }));
  #fields: OfferFields | undefined;
  #offer: InOffer | undefined;
  #part: Part | undefined;
  #entry: Entry | undefined; // of a part in the vault
  #releases: (() => void)[] = [];
  #lane: AbortController | undefined;
  #running: Promise<void> = Promise.resolve(); // the lane that may still be writing
  #etag = "";
  #lastTold = -Infinity;
  #shown = -1;
  #lastMark = awake();
  #marking: Promise<void> = Promise.resolve();
  #gone = false;

  constructor(incoming: Incoming, key: Key, keyText: string) {
    this.#in = incoming;
    this.key = key;
    this.keyText = keyText;
    this.#m = new Receiver({ record: incoming.record(keyText), idle: incoming.c.resumeWindow() + idleSlack, jitter }, awake());
  }

  post(e: ReceiverEvent): void {
    this.#box.post(() => this.step(e));
  }

  /** Takes in what a frame says. If the transfer is forgotten meanwhile the frame is taken in anew. */
  frame(f: Body, fn: (x: InTransfer) => void): void {
    this.#box.post(() => (this.#gone ? this.#in.frame(f) : fn(this)));
  }

  offered(o: OfferFields): void {
    this.asked = true;
    this.#fields ??= o;
    if (o.transfer !== this.#m.transfer) this.#etag = "";
    const { transfer, url, ticket, size, inlined, digest } = o;
    this.step({ on: "offered", transfer, url, ticket, size, inlined, digest });
  }

  /** A download's bytes are seen by nobody here: what the server has passed on counts. */
  sync(offset: number): void {
    if (this.#part instanceof DownloadPart) {
      this.#part.offset = offset;
      this.step({ on: "took", offset });
    }
    this.step({ on: "sync", offset });
  }

  /** Moves the machine and does what it says. */
  step(e: ReceiverEvent): void {
    if (this.#gone) return;
    for (const a of this.#m.step(awake(), e)) {
      this.#do(a);
      if (this.#gone) return;
    }
    if (this.#m.ended) this.#free();
    this.#alarm.set(this.#m.wake());
  }

  #do(a: ReceiverAction): void {
    const c = this.#in.c;
    const sendId = this.key.sendId;
    switch (a.do) {
      case "answer":
        c.send({ case: "answer", value: create(AnswerSchema, { transfer: a.transfer, decision: decisions[a.decision], offset: BigInt(a.offset),
          code: a.verdict.code, receipt: receipts[a.verdict.receipt], detail: a.verdict.detail }) });
        break;
      case "received": void this.#received(a.transfer, a.offset, a.mark); break;
      case "verdict":
        c.send({ case: "verdict", value: create(VerdictSchema, { sendId, transfer: a.transfer, code: a.verdict.code,
          receipt: receipts[a.verdict.receipt], detail: a.verdict.detail, lengthOnly: a.verdict.lengthOnly }) });
        break;
      case "standing":
        c.send({ case: "standing", value: create(StandingSchema, { transfer: a.transfer, sendId, state: standings[a.state], offset: BigInt(a.offset),
          size: BigInt(a.size), code: a.verdict.code, receipt: receipts[a.verdict.receipt], detail: a.verdict.detail }) });
        break;
      case "ask": this.#ask(); break;
      case "prepare": void this.#prepare(); break;
      case "openLane": this.#openLane(a.lane, a.length); break;
      case "endLane": this.#endLane(); break;
      case "verify": void this.#verify(); break;
      case "drop": void this.#drop(a.record); break;
      case "leave": this.#leave(); break;
      case "withdrawn": this.#offer?.finish(); break;
      case "notifyCancel": {
        const kind = this.#fields?.kind ?? "file";
        c.emitter.emit("cancelSend", { sendId, source: this.key.source, kind });
        break;
      }
      case "forget":
        this.#gone = true;
        this.#in.forget(this);
        this.#alarm.stop();
        this.#endLane();
        this.#free();
    }
  }

  async #received(transfer: string, offset: number, mark: boolean): Promise<void> {
    this.#tellProgress(offset);
    if (mark) {
      try {
        await this.#mark();
      } catch (e) {
        this.#broke(e);
        return;
      }
      if (this.#gone || this.#m.state === "cancelled") return;
    } else if (awake() - this.#lastMark > markEvery) void this.#mark().catch((e: unknown) => this.#broke(e));
    this.#in.c.send({ case: "received", value: create(ReceivedSchema, { transfer, offset: BigInt(offset) }) });
  }

  #tellProgress(received: number): void {
    const f = this.#fields;
    if (f === undefined || received <= this.#shown || (received < f.size && awake() - this.#lastTold < tellEvery)) return;
    this.#lastTold = awake();
    this.#shown = received;
    this.#in.c.emitter.emit("receiveProgress", { sendId: this.key.sendId, source: this.key.source, kind: f.kind, received, total: f.size });
  }

  /** Makes what is here survive this process. */
  #mark(): Promise<void> {
    const part = this.#part;
    const entry = this.#entry;
    if (part === undefined || entry === undefined) return Promise.resolve();
    this.#lastMark = awake();
    this.#marking = this.#marking.catch(() => {}).then(async () => {
      if (this.#entry !== entry || entry.state !== "partial") return;
      const at = await part.mark();
      if (this.#entry !== entry || entry.state !== "partial") return;
      entry.offset = at.offset;
      entry.blocks = at.blocks;
      await this.#in.write(entry);
    });
    return this.#marking;
  }

  /** Asks the application, or answers for it. */
  #ask(): void {
    const f = this.#fields as OfferFields;
    const { options, emitter, platform } = this.#in.c;
    const before = this.#in.left.get(this.keyText);
    this.#in.left.delete(this.keyText);
    if (before !== undefined && before.size === f.size && before.kind === f.kind) {
      this.#offer = before;
      before.attach((e) => this.post(e));
      this.post(before.again());
      return;
    }
    const record = this.#in.record(this.keyText);
    const received = record.state === "partial" && record.size === f.size ? record.offset : 0;
    const keep = this.#in.vault !== undefined && options.preferDownload !== true;
    const offer = (this.#offer = new InOffer({ ...f, ...this.key, received }, { keep, download: platform.download !== undefined }));
    offer.attach((e) => this.post(e));
    const hook = f.kind === "buffer" ? options.acceptBuffer : options.acceptFile;
    if (hook !== undefined) emitter.run(() => {
      try {
        hook(offer);
      } catch (e) {
        offer.refuse(Code.internal); // the sender does not wait for a bug here
        throw e;
      }
    });
    else if (emitter.has(f.kind === "buffer" ? "bufferData" : "fileData")) offer.accept();
    else offer.refuse(Code.peerRefused, "nothing is received here");
  }

  /** Waits for the transfer's turn and finds a place for its bytes. */
  async #prepare(): Promise<void> {
    const f = this.#fields as OfferFields;
    let part: Part | undefined;
    try {
      if (f.kind === "buffer") this.#releases.push(await this.#in.memory.take(f.size, this.#end.signal));
      if (!f.inlined) {
        this.#releases.push(await this.#in.slots.take(1, this.#end.signal));
        part = await this.#place(f);
      } else if (f.kind === "file" && this.#offer?.choice?.how === "download") part = undefined;
    } catch (e) {
      if (!this.#end.signal.aborted) this.#broke(e);
      return;
    }
    this.#box.post(() => {
      if (this.#gone || this.#m.state !== "preparing") { // it was cancelled meanwhile
        if (this.#m.state === "cancelled") void part?.drop();
        else void part?.close();
        return;
      }
      this.#part = part;
      this.step({ on: "ready", offset: part?.offset ?? 0 });
    });
  }

  async #place(f: OfferFields): Promise<Part> {
    if (f.kind === "buffer") return new MemoryPart(f.size);
    const { vault, c } = this.#in;
    const choice = this.#offer?.choice ?? { how: "keep" };
    if (choice.how === "download" && c.platform.download !== undefined) {
      const { download } = c.platform;
      const name = (this.#offer as InOffer).safeName;
      return new DownloadPart((url) => download(url, name));
    }
    if (vault === undefined) throw new DianError("receive", Code.fileWrite, { detail: "no place for files" });
    if (choice.how === "to" && typeof choice.to !== "string") return vault.openTarget(choice.to, f.size);
    let e = this.#in.entry(this.keyText);
    const sha256 = f.digest?.algorithm === "sha-256" ? toHex(f.digest.value) : "";
    if (e !== undefined && e.state === "partial" && e.size !== f.size) {
      await vault.remove(e.file); // another content was begun under this id: it gives way
      e = undefined;
    }
    if (e === undefined || e.state !== "partial") e = this.#newEntry(f, sha256);
    const part = await vault.open(e.file, e.size, e.offset, e.blocks);
    e.offset = part.offset;
    e.notified = false;
    if (!f.inlined) await this.#in.write(e); // content of an offer is written down when it is whole
    this.#entry = e;
    return part;
  }

  #newEntry(f: OfferFields, sha256: string): Entry {
    return { key: this.keyText, ...this.key, state: "partial", size: f.size, offset: 0, blocks: "", code: 0, name: f.name, type: f.type,
      meta: toHex(f.meta), sha256, file: toHex(crypto.getRandomValues(new Uint8Array(16))), at: Date.now(), notified: false };
  }

  /** Opens a down-lane, after the one before has written its last byte. */
  #openLane(lane: number, length: number): void {
    this.#endLane();
    const control = (this.#lane = new AbortController());
    const before = this.#running;
    this.#running = before.then(() => this.#runLane(control, lane, length));
  }

  async #runLane(control: AbortController, lane: number, length: number): Promise<void> {
    const part = this.#part;
    const f = this.#fields;
    const c = this.#in.c;
    if (part === undefined || f === undefined || control.signal.aborted) return;
    await this.#marking.catch(() => {});
    let slot: Slot | undefined;
    let fair: ReturnType<typeof setInterval> | undefined;
    try {
      slot = await c.platform.slot("down", c.origin, control.signal);
      const share = slot;
      fair = setInterval(() => void share.wanted().then((w) => w && control.abort("share")), yieldAfter);
      const took = (offset: number) => this.post({ on: "took", offset });
      const request = { url: c.laneUrl(this.#m.url), ticket: this.#m.ticket, etag: this.#etag, size: f.size, length };
      const end = await part.receive(request, took, control.signal);
      if (control.signal.aborted && control.signal.reason !== "share") return;
      if (end.fault !== 0) this.#broke(new DianError("receive", end.fault));
      if (end.etag !== "") this.#etag = end.etag;
      if (end.end === "gone") this.#etag = ""; // whatever comes next is taken as it is
      this.post({ on: "laneEnded", lane, end: end.end });
    } catch (e) {
      if (!control.signal.aborted) this.#broke(e);
    } finally {
      clearInterval(fair);
      slot?.release();
    }
  }

  #endLane(): void {
    this.#lane?.abort();
    this.#lane = undefined;
  }

  /** Takes in an error of the place. */
  #broke(e: unknown): void {
    const { code, detail } = placeCode(e);
    this.#in.c.log(`cannot receive ${this.key.sendId}: ${code}`);
    if (this.#m.ended) return;
    this.post({ on: "broke", code, detail });
    this.#failed(new DianError("receive", code, { peer: this.key.source, cause: e }));
  }

  #failed(error: DianError): void {
    const kind = this.#fields?.kind ?? "file";
    this.#in.c.emitter.emit("receiveFailed", { sendId: this.key.sendId, source: this.key.source, kind, error });
  }

  /** Checks the whole content, keeps it, and has the application told: in this order, and the sender last. */
  async #verify(): Promise<void> {
    await this.#running;
    let verdict: ReceiverVerdict = { code: Code.ok, receipt: "stored", lengthOnly: false, detail: "" };
    try {
      verdict = await this.#keep(this.#fields as OfferFields);
    } catch (e) {
      verdict = { ...verdict, ...placeCode(e), receipt: "none" };
      this.#in.c.log(`cannot keep ${this.key.sendId}: ${verdict.code}`);
      this.#failed(new DianError("receive", verdict.code, { peer: this.key.source, cause: e }));
      if (verdict.code === Code.digestMismatch) await this.#drop(false);
      else await this.#closePart();
    }
    this.post({ on: "kept", verdict });
  }

  async #keep(f: OfferFields): Promise<ReceiverVerdict> {
    const { emitter } = this.#in.c;
    const part = this.#part;
    const digest = this.#m.digest ?? f.digest;
    const handed = this.#offer?.choice?.how === "download";
    const lengthOnly = digest === undefined || part instanceof DownloadPart;
    const verdict: ReceiverVerdict = { code: Code.ok, receipt: handed ? "handed" : "stored", lengthOnly, detail: "" };
    if (digest !== undefined && !(part instanceof DownloadPart)) {
      const sum = part === undefined ? await digestOf(f.inline, digest.algorithm) : await part.digest(digest.algorithm);
      if (!same(sum, digest.value)) throw new DianError("receive", Code.digestMismatch);
    }
    if (f.kind === "buffer") {
      this.#in.addVerdict(this.keyText, verdict);
      const data = part instanceof MemoryPart ? part.data : f.inline;
      const releases = this.#releases;
      this.#releases = [];
      emitter.emit("bufferData", { ...this.key, name: f.name, type: f.type, meta: f.meta, data }, () => releases.forEach((r) => r()));
      return verdict;
    }
    await this.#keepFile(f, part, verdict);
    return verdict;
  }

  async #keepFile(f: OfferFields, part: Part | undefined, verdict: ReceiverVerdict): Promise<void> {
    const { vault, c } = this.#in;
    const choice = this.#offer?.choice;
    const to = choice?.how === "to" && typeof choice.to !== "string" ? choice.to : undefined;
    const passed = new PassedFile({ ...f, ...this.key }, verdict.receipt, to);
    if (part instanceof DownloadPart || (part === undefined && verdict.receipt === "handed")) {
      if (part === undefined) c.platform.download?.(URL.createObjectURL(new Blob([f.inline.slice()], { type: "application/octet-stream" })), passed.safeName);
      this.#in.addVerdict(this.keyText, verdict);
      c.emitter.emit("fileData", passed);
      return;
    }
    if (vault === undefined) throw new DianError("receive", Code.fileWrite);
    if (part === undefined) part = to === undefined ? await this.#placeInline(f) : await vault.openTarget(to, f.size);
    await part.commit();
    if (to !== undefined) {
      this.#in.addVerdict(this.keyText, verdict);
      c.emitter.emit("fileData", passed);
      return;
    }
    const e = this.#entry as Entry;
    await this.#marking.catch(() => {});
    Object.assign(e, { state: "kept", offset: f.size, blocks: "" });
    if (choice?.how === "to" && typeof choice.to === "string") await this.#saveTo(e, choice.to);
    await this.#in.write(e);
    this.#in.tellFile(e);
  }

  /** Moves a kept file to where the application wanted it; if that fails it stays here. */
  async #saveTo(e: Entry, to: string): Promise<void> {
    try {
      const { where } = await (this.#in.vault as NonNullable<Incoming["vault"]>).save(e.file, (this.#offer as InOffer).safeName, to);
      e.file = where;
    } catch {
      this.#in.c.log(`file stays in the receive folder: ${this.key.sendId}`);
    }
  }

  async #placeInline(f: OfferFields): Promise<Part> {
    const part = await this.#place(f);
    await part.receiveBytes?.(f.inline);
    return part;
  }

  async #drop(record: boolean): Promise<void> {
    const part = this.#part;
    const entry = this.#entry ?? this.#in.entry(this.keyText);
    this.#part = this.#entry = undefined;
    this.#endLane();
    try {
      if (record) {
        const verdict = { code: Code.cancelled, receipt: "none" as const, lengthOnly: false, detail: "" };
        this.#in.addVerdict(this.keyText, verdict);
      }
      await this.#running;
      await this.#marking.catch(() => {});
      await part?.drop();
      if (entry === undefined) return;
      if (part === undefined && entry.file !== "") await this.#in.vault?.remove(entry.file);
      if (record) await this.#in.write({ ...entry, state: "cancelled", code: Code.cancelled, file: "", blocks: "", offset: 0 });
      else await this.#in.forgetEntry(entry.key);
    } catch {
      this.#in.c.log(`not removed: ${this.key.sendId}`);
    }
  }

  /** Closes what is here, to go on with it later. */
  #leave(): void {
    if (this.#offer?.choice !== undefined) this.#in.left.set(this.keyText, this.#offer);
    void this.#closePart();
  }

  async #closePart(): Promise<void> {
    const part = this.#part;
    this.#endLane();
    await this.#running;
    await this.#mark().catch(() => {});
    if (this.#part === part) this.#part = this.#entry = undefined;
    await part?.close().catch(() => {});
  }

  /** Gives back what the transfer had of what there is little of. */
  #free(): void {
    this.#end.abort();
    for (const r of this.#releases) r();
    this.#releases = [];
    if (this.#m.state === "done" || this.#m.state === "refused") this.#offer?.finish();
    if (this.#m.ended && this.#m.state !== "failed") {
      this.#part = undefined;
      if (this.#fields !== undefined) this.#fields = { ...this.#fields, inline: new Uint8Array() };
    }
  }

  /** Ends it with the client; what is here in part is kept. */
  async close(): Promise<void> {
    this.#gone = true;
    this.#alarm.stop();
    this.#end.abort();
    if (this.#m.ended) {
      this.#endLane();
      await this.#running;
    } else await this.#closePart();
    this.#offer?.finish();
  }
}
