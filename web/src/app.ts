// What the page knows, and what it does with the SDK. Views read it and are told of changes.
import { Code, connect, DianError, Limit, type Client, type Kind, type Offer, type Result, type Status } from "@dian-im/sdk";
import { devToken, DevError, relayURL, type PageSettings } from "./dev.js";
import { readable, saveBlob } from "./content.js";
import { newItem, title, words, type Item } from "./item.js";
import { shownName } from "./format.js";
import { Friends } from "./settings.js";
import { expiry, seesNobody } from "./token.js";
import { w } from "./words.js";

export type LineState = "out" | "connecting" | "up" | "down" | "off";

export interface Line {
  state: LineState;
  code: number; // why it is down or off
  attempt: number;
  next: number; // when it is tried again, Unix ms
}

export interface Person {
  name: string;
  status: Status | undefined;
  doNotDisturb: number;
}

const itemsMost = 2000;
const renewBefore = 10 * 60_000;

export class App {
  readonly settings: PageSettings;
  line: Line = { state: "out", code: 0, attempt: 0, next: 0 };
  me = "";
  app = "";
  busy = false;
  token = "";
  tokenEnds: number | undefined; // set when the token ends soon and nobody renews it
  mayNotSee = false;
  selected: string | undefined;
  readonly people = new Map<string, Person>();
  readonly items: Item[] = [];
  readonly offers = new Map<string, { offer: Offer; item: Item }>();
  readonly unread = new Map<string, number>();
  readonly drafts = new Map<string, string>();
  friends = new Friends("", "");
  /** Called after changes, at most once a frame. */
  draw: () => void = () => {};
  /** Says something to those who cannot see it. */
  announce: (text: string) => void = () => {};
  /** Shows something for a moment. */
  notice: (text: string) => void = () => {};

  #client: Client | undefined;
  readonly #byKey = new Map<string, Item>();
  #drawing = false;
  #countdown: ReturnType<typeof setInterval> | undefined; // while the line is down
  #ticker: ReturnType<typeof setInterval> | undefined;

  constructor(settings: PageSettings) {
    this.settings = settings;
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.selected !== undefined) this.select(this.selected); // it is read now
    });
  }

  changed(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    const go = () => {
      this.#drawing = false;
      this.draw();
    };
    if (document.hidden) setTimeout(go, 200); // frames stand still there
    else requestAnimationFrame(go);
  }

  /** Signs in by a name, in dev mode. Errors: DevError, DianError. */
  async signInByName(name: string, invitation: string): Promise<void> {
    const here = this.settings.login === "name";
    const first = await devToken(name, invitation);
    let token = first;
    let ends = expiry(first);
    await this.#signIn(here ? async () => {
      if (ends - Date.now() < renewBefore) {
        token = await devToken(name, "");
        ends = expiry(token);
        this.token = token;
      }
      return token;
    } : undefined, first);
  }

  /** Signs in by a token. Errors: DianError. */
  signInByToken(token: string): Promise<void> {
    return this.#signIn(undefined, token);
  }

  async #signIn(tokenProvider: (() => Promise<string>) | undefined, token: string): Promise<void> {
    await this.#client?.close();
    this.token = token;
    this.tokenEnds = undefined;
    this.#line({ state: "connecting", code: 0, attempt: 0, next: 0 });
    // Offers and files may come before connect has returned.
    const early: (() => void)[] = [];
    let ready = false;
    const soon = <A>(fn: (a: A) => void) => (a: A) => void (ready ? fn(a) : early.push(() => fn(a)));
    try {
      const client = await connect(relayURL, {
        ...(tokenProvider === undefined ? { token } : { tokenProvider }),
        clientName: "dian page",
        acceptFile: soon((o) => this.#offered(o)),
        acceptBuffer: soon((o) => this.#offered(o)),
        on: {
          cmdData: soon((c) => {
            this.#add(newItem({ key: `in ${c.source} ${c.sendId}`, dir: "in", kind: "command", peer: c.source, sendId: c.sendId, text: c.text(), size: c.data.length, phase: "done" }));
            this.#news(c.source, `${shownName(c.source)}: ${c.text().slice(0, 200)}`);
          }),
          bufferData: soon((b) => {
            const item = this.#incoming("buffer", b.source, b.sendId);
            Object.assign(item, { name: b.name, type: b.type, size: b.data.length, moved: b.data.length, receipt: "stored", text: readable(b.type, b.data),
              blob: new Blob([b.data as Uint8Array<ArrayBuffer>], { type: "application/octet-stream" }) });
            this.#finish(item, { end: "result", code: 0 });
            this.#news(b.source, "");
          }),
          fileData: soon((f) => {
            const item = this.#incoming("file", f.source, f.sendId);
            Object.assign(item, { name: f.name, safeName: f.safeName, type: f.type, size: f.size, moved: f.size, receipt: f.receipt, file: f.receipt === "stored" ? f : undefined });
            this.#finish(item, { end: "result", code: 0 });
            this.#news(f.source, "");
          }),
          receiveProgress: soon((p) => {
            const item = this.#byKey.get(`in ${p.source} ${p.sendId}`);
            if (item === undefined || item.phase === "done") return;
            this.#moved(item, p.received, p.total);
          }),
          receiveFailed: soon((f) => {
            const item = this.#byKey.get(`in ${f.source} ${f.sendId}`);
            if (item === undefined || item.phase === "done") return;
            const here = f.error.code === Code.cancelled && item.phase === "cancelling";
            this.#finish(item, here ? { end: "cancelledHere" } : { end: "result", code: f.error.code, detail: f.error.detail });
          }),
          cancelSend: soon((c) => {
            const item = this.#byKey.get(`in ${c.source} ${c.sendId}`);
            if (item !== undefined && item.phase !== "done") this.#finish(item, { end: item.phase === "offered" ? "withdrawn" : item.phase === "cancelling" ? "cancelledHere" : "cancelledThere" });
          }),
          reconnecting: (r) => this.#line({ state: "down", code: r.error.code, attempt: r.attempt, next: Date.now() + r.delay }),
          reconnected: () => {
            this.#line({ state: "up", code: 0, attempt: 0, next: 0 });
            this.announce(w.back);
          },
          lineOff: (e) => this.#off(e.code),
          tokenWillExpire: (t) => {
            this.tokenEnds = t.expires.getTime();
            this.changed();
          },
          userStatus: soon((list) => {
            for (const s of list) this.people.set(s.user, { name: s.user, status: s.status, doNotDisturb: s.doNotDisturb });
            this.changed();
          }),
        },
      });
      if (client.user !== this.me || client.app !== this.app) this.#forgetAll();
      this.#client = client;
      this.me = client.user;
      this.app = client.app;
      this.friends = new Friends(this.app, this.me);
      this.people.set(this.me, { name: this.me, status: 1, doNotDisturb: 0 });
      this.#line({ state: "up", code: 0, attempt: 0, next: 0 });
      await this.#keptFiles(client);
      ready = true;
      for (const fn of early) fn();
      if (this.busy) client.setStatus(true);
      await this.#watchPeople(client);
    } catch (e) {
      this.#line({ state: "out", code: e instanceof DianError || e instanceof DevError ? e.code : 1, attempt: 0, next: 0 });
      throw e;
    }
  }

  /** Another person's things are not for this one. */
  #forgetAll(): void {
    this.items.length = 0;
    this.#byKey.clear();
    this.people.clear();
    this.unread.clear();
    this.drafts.clear();
    this.selected = undefined;
  }

  async #watchPeople(client: Client): Promise<void> {
    try {
      this.mayNotSee = seesNobody(this.token); // the server then answers with an empty list
      await client.startUserStatusNotify();
    } catch (e) {
      this.mayNotSee = e instanceof DianError && e.code === Code.noPermission;
    }
    this.changed();
  }

  /** What earlier lives of this user have received here. */
  async #keptFiles(client: Client): Promise<void> {
    for (const f of await client.files()) {
      const key = `in ${f.source} ${f.sendId}`;
      const had = this.#byKey.get(key);
      if (had !== undefined) {
        had.file = f;
        continue;
      }
      this.#add(newItem({ key, dir: "in", kind: "file", peer: f.source, sendId: f.sendId, name: f.name, safeName: f.safeName, type: f.type, size: f.size,
        moved: f.size, at: f.at, phase: "done", end: "earlier", receipt: f.receipt, file: f }));
    }
    this.items.sort((a, b) => a.at - b.at);
  }

  #line(l: Line): void {
    this.line = l;
    clearInterval(this.#countdown);
    if (l.state === "down") this.#countdown = setInterval(() => this.changed(), 500);
    if (l.state === "down") for (const i of this.items) if (i.phase !== "done") i.rate.reset();
    this.changed();
  }

  #off(code: number): void {
    this.#line({ state: "off", code, attempt: 0, next: 0 });
    this.announce(w.offBecause(w.codes(code, "")));
    for (const p of this.people.values()) p.status = undefined;
    this.offers.clear();
    for (const i of this.items) if (i.dir === "in" && i.phase !== "done") this.#finish(i, { end: "lost" });
  }

  async signOut(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    await client?.close();
    this.token = "";
    this.#off(Code.notLoggedIn);
  }

  tryNow(): void {
    this.#client?.reconnectNow();
  }

  async updateToken(token: string): Promise<void> {
    await this.#client?.updateToken(token);
    this.token = token;
    this.tokenEnds = undefined;
    this.changed();
  }

  setBusy(busy: boolean): void {
    this.busy = busy;
    try {
      this.#client?.setStatus(busy);
    } catch {
      // The line went off just now.
    }
    this.changed();
  }

  // People

  addPerson(name: string): void {
    if (!this.people.has(name)) {
      this.people.set(name, { name, status: undefined, doNotDisturb: 0 });
      this.#client?.startUserStatusNotify(name).catch(() => {}); // the token may not tell
    }
    this.select(name);
  }

  select(name: string | undefined): void {
    this.selected = name;
    if (name !== undefined) this.unread.delete(name);
    this.changed();
  }

  #know(name: string): void {
    if (!this.people.has(name)) this.people.set(name, { name, status: undefined, doNotDisturb: 0 });
  }

  #news(from: string, say: string): void {
    if (say !== "") this.announce(say);
    if (this.selected === undefined && !matchMedia("(max-width: 859px)").matches) this.selected = from;
    if (this.selected !== from || document.hidden) this.unread.set(from, (this.unread.get(from) ?? 0) + 1);
    this.changed();
  }

  // Items

  #add(item: Item): Item {
    this.#know(item.peer);
    this.#byKey.set(item.key, item);
    this.items.push(item);
    if (this.items.length > itemsMost) {
      const at = this.items.findIndex((i) => i.phase === "done" && i.file === undefined);
      if (at >= 0) for (const old of this.items.splice(at, 1)) this.#byKey.delete(old.key);
    }
    this.#touch(item);
    return item;
  }

  #touch(item: Item): void {
    item.rev++;
    this.#tick();
    this.changed();
  }

  /** Looks at what is under way twice a second: rates and times change by themselves. */
  #tick(): void {
    if (this.#ticker !== undefined) return;
    this.#ticker = setInterval(() => {
      const going = this.items.filter((i) => i.phase !== "done");
      for (const i of going) {
        if (i.task !== undefined) this.#phase(i);
        i.rev++;
      }
      if (going.length === 0) {
        clearInterval(this.#ticker);
        this.#ticker = undefined;
      }
      this.changed();
    }, 500);
  }

  #phase(i: Item): void {
    if (i.phase === "done" || i.phase === "cancelling") return;
    const state = i.task?.state;
    if (this.line.state !== "up") i.phase = "line";
    else if (state === "queued") i.phase = "queued";
    else if (state === "waiting" || i.kind === "command") i.phase = "asking";
    else if (state === "verifying") i.phase = "verifying";
    else if (state === "sending") i.phase = "sending";
  }

  #moved(i: Item, n: number, total: number): void {
    if (total > 0) i.size = total;
    i.moved = n;
    i.rate.add(n, Date.now());
    if (i.dir === "in" && i.phase !== "cancelling") i.phase = n === total ? "verifying" : "receiving";
    else this.#phase(i);
    this.#touch(i);
  }

  #finish(i: Item, end: Partial<Item>): void {
    Object.assign(i, { phase: "done", code: 0, detail: "", stop: undefined }, end);
    this.offers.delete(i.key);
    this.#touch(i);
    this.announce(`${title(i)}: ${words(i, Date.now())}`);
  }

  // Sending

  sendText(target: string, text: string, kind: "command" | "buffer"): void {
    const data = new TextEncoder().encode(text);
    this.#send(kind, target, { text, size: data.length, type: kind === "buffer" ? "text/plain; charset=utf-8" : "" }, () => Promise.resolve(data));
  }

  sendFiles(target: string, files: readonly File[], asBuffers: boolean): void {
    for (const f of files) {
      this.#send(asBuffers ? "buffer" : "file", target, { name: f.name, safeName: f.name, type: f.type, size: f.size, blob: f },
        async () => (asBuffers ? new Uint8Array(await f.arrayBuffer()) : f));
    }
  }

  #send(kind: Kind, target: string, what: Partial<Item>, content: () => Promise<Uint8Array | File>): void {
    const item = this.#add(newItem({ key: `out ${crypto.getRandomValues(new Uint32Array(4)).join("-")}`, dir: "out", kind, peer: target, sendId: "", ...what }));
    const go = async () => {
      Object.assign(item, { phase: "queued", end: "result", code: 0, moved: 0, again: undefined, task: undefined });
      this.#touch(item);
      if (kind === "buffer" && item.size > Limit.bufferBytes) return this.#finish(item, { code: Code.bufferTooLarge });
      let data: Uint8Array | File;
      try {
        data = await content();
      } catch {
        return this.#finish(item, { code: Code.fileRead });
      }
      if (item.phase === "done") return;
      const client = this.#client;
      if (client === undefined) return this.#finish(item, { code: Code.notLoggedIn });
      // The same id goes on with what the receiver has; one that was cancelled is used up.
      const options = { name: item.name, type: item.type, ...(item.sendId === "" ? {} : { sendId: item.sendId }) };
      const task = data instanceof Uint8Array
        ? kind === "command" ? client.sendCmd(target, data, item.sendId === "" ? {} : { sendId: item.sendId }) : client.sendBuffer(target, data, options)
        : client.sendFile(target, data, options);
      item.task = task;
      item.sendId = task.id;
      if (kind !== "command") item.stop = () => {
        item.phase = "cancelling";
        this.#touch(item);
        void task.cancel();
      };
      task.onProgress((p) => {
        if (item.phase !== "done" && (p.sent > 0 || p.total > 0)) this.#moved(item, p.sent, p.total);
      });
      void task.result.then((r) => this.#result(item, r, go));
    };
    item.stop = () => this.#finish(item, { end: "cancelledHere" });
    void go();
  }

  #result(item: Item, r: Result, go: () => Promise<void>): void {
    item.task = undefined;
    if (r.code === 0) item.moved = r.size;
    const final = [Code.cancelled, Code.badSendId, Code.fileError, Code.digestMismatch] as number[];
    if (r.code !== 0) {
      if (final.includes(r.code) || item.kind === "command") item.sendId = "";
      item.again = () => void go();
    }
    this.#finish(item, { code: r.code, detail: r.error?.detail ?? "", byPeer: r.error?.origin === "peer", receipt: r.receipt, lengthOnly: r.lengthOnly });
  }

  // Receiving

  #incoming(kind: Kind, source: string, sendId: string): Item {
    const key = `in ${source} ${sendId}`;
    return this.#byKey.get(key) ?? this.#add(newItem({ key, dir: "in", kind, peer: source, sendId, phase: "receiving" }));
  }

  #offered(o: Offer): void {
    const item = this.#incoming(o.kind, o.source, o.sendId);
    Object.assign(item, { name: o.name, safeName: o.safeName, type: o.type, size: o.size, moved: o.received, phase: "offered", end: "result", removed: false, at: item.phase === "done" ? Date.now() : item.at });
    this.#touch(item);
    void o.done.then(() => setTimeout(() => {
      if (this.offers.get(item.key)?.offer === o) this.offers.delete(item.key);
      if (item.phase === "offered") this.#finish(item, { end: "withdrawn" });
      else if (item.phase === "cancelling") this.#finish(item, { end: "cancelledHere" });
      this.changed();
    }));
    if (this.friends.has(o.source)) {
      this.#take(o, item);
      return;
    }
    this.offers.set(item.key, { offer: o, item });
    this.announce(w.offersWhat(shownName(o.source), title(item), w.kinds[o.kind]));
    this.#news(o.source, "");
  }

  #take(o: Offer, item: Item, to?: FileSystemFileHandle): void {
    this.offers.delete(item.key);
    item.phase = "receiving";
    item.rate.reset();
    item.stop = () => {
      item.phase = "cancelling";
      this.#touch(item);
      o.cancel();
    };
    this.#touch(item);
    if (to === undefined) o.accept();
    else o.acceptTo(to);
  }

  accept(key: string, to?: FileSystemFileHandle): void {
    const x = this.offers.get(key);
    if (x !== undefined) this.#take(x.offer, x.item, to);
  }

  refuse(key: string): void {
    const x = this.offers.get(key);
    if (x === undefined) return;
    this.offers.delete(key);
    x.offer.refuse();
    this.#finish(x.item, { end: "refusedHere" });
  }

  /** Takes what somebody offers now and later without asking, or asks again. */
  always(name: string, yes: boolean): void {
    this.friends.set(name, yes);
    if (yes) for (const [key, x] of [...this.offers]) if (x.offer.source === name) this.accept(key);
    this.changed();
  }

  async save(item: Item): Promise<void> {
    try {
      if (item.file !== undefined) await item.file.save();
      else if (item.blob !== undefined) saveBlob(item.blob, item.safeName || "buffer");
      this.announce(w.saved(title(item)));
    } catch (e) {
      this.announce(w.codes(e instanceof DianError ? e.code : Code.fileWrite, ""));
      item.file = undefined;
      item.removed = true;
      this.#touch(item);
    }
  }

  async remove(item: Item): Promise<void> {
    await item.file?.remove().catch(() => {});
    Object.assign(item, { file: undefined, blob: undefined, text: item.kind === "buffer" ? undefined : item.text, removed: true });
    this.#touch(item);
  }

  /** Takes off the list what has ended and of which nothing is kept here. */
  clear(): void {
    for (let n = this.items.length - 1; n >= 0; n--) {
      const i = this.items[n] as Item;
      if (i.phase !== "done" || i.file !== undefined) continue;
      this.items.splice(n, 1);
      this.#byKey.delete(i.key);
    }
    this.changed();
  }
}
