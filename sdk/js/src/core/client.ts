import type { Bytes, Client, ConnectOptions, FileData, FileSource, Kind, SendOptions, Task, UserStatus, WebSocketLike } from "../api.js";
import { Code, DianError } from "../codes.js";
import type { Events } from "../events.js";
import { Limit } from "../limits.js";
import { SourceFault, type Platform } from "../platform.js";
import { cutText, empty, toBytes } from "./bytes.js";
import { Commands } from "./commands.js";
import type { Context } from "./context.js";
import { Emitter } from "./emitter.js";
import { Incoming } from "./incoming.js";
import { lineOffError, Link } from "./link.js";
import { Outgoing } from "./outgoing.js";
import { placeName, serverUrl, type Server } from "./place.js";
import { Presence } from "./presence.js";
import { SendTask } from "./task.js";
import { Tokens } from "./tokens.js";
import { frameFault } from "./check.js";
import { create, HelloSchema, Role, type Body, type Limits, type Welcome } from "./wire.js";

const reconnectFirst = 250; // ms; doubles with each try
const reconnectMost = 15_000;
const loginTime = 30_000; // for one try, the token provider included
const goAwayMost = 300_000;
const dayMs = 86_400_000;

/** Codes that end the line: the same Hello would fail again. */
const finalCodes: readonly number[] = [Code.kicked, Code.tokenExpired, Code.tokenMalformed, Code.noSuchApp, Code.tokenRefused,
  Code.noPermission, Code.versionNotSupported, Code.badParameter, Code.wrongCredentials];

export class DianClient implements Client {
  readonly done: Promise<DianError>;
  user = "";
  app = "";

  readonly #platform: Platform;
  readonly #options: ConnectOptions;
  readonly #server: Server;
  readonly #ctor: WebSocketLike;
  readonly #emitter = new Emitter();
  readonly #tokens: Tokens;
  readonly #commands: Commands;
  readonly #presence: Presence;
  readonly #out: Outgoing;
  #in: Incoming | undefined;
  readonly #tasks = new Map<string, SendTask>(); // without a result
  readonly #end = new AbortController(); // with the line
  #link: Link | undefined;
  #welcome: Welcome | undefined;
  #goAway = 0;
  #lastWord: DianError | undefined; // LineOff of the present session
  #off: DianError | undefined;
  #setDone!: (why: DianError) => void;
  #cutShort: (() => void) | undefined; // ends the wait before a reconnect
  #noWake: () => void = () => {};

  /** Logs in. Errors: DianError, see connect. */
  static async connect(platform: Platform, server: string | URL, options: ConnectOptions): Promise<DianClient> {
    if (options.token === undefined && options.tokenProvider === undefined) {
      throw new DianError("connect", Code.badParameter, { detail: "neither token nor tokenProvider" });
    }
    const url = serverUrl(server);
    const c = new DianClient(platform, url, options, await platform.webSocket(options.WebSocket));
    const stop = new AbortController();
    const abort = () => stop.abort(new DianError("connect", Code.cancelled, { cause: options.signal?.reason }));
    if (options.signal?.aborted === true) abort();
    options.signal?.addEventListener("abort", abort, { once: true });
    try {
      await c.#first(stop.signal);
      return c;
    } catch (e) {
      await c.#in?.close();
      throw e instanceof DianError ? e.for("connect") : new DianError("connect", Code.internal, { cause: e });
    } finally {
      options.signal?.removeEventListener("abort", abort);
    }
  }

  private constructor(platform: Platform, server: Server, options: ConnectOptions, ctor: WebSocketLike) {
    this.#platform = platform;
    this.#server = server;
    this.#options = options;
    this.#ctor = ctor;
    this.done = new Promise((resolve) => (this.#setDone = resolve));
    for (const [event, fn] of Object.entries(options.on ?? {})) {
      if (typeof fn === "function") this.#emitter.on(event as keyof Events, fn as (e: Events[keyof Events]) => void);
    }
    this.#tokens = new Tokens(options, this.#emitter);
    this.#commands = new Commands(options, this.#emitter);
    this.#presence = new Presence(this.#emitter);
    this.#out = new Outgoing(this.#context());
  }

  #context(): Context {
    const limits = () => this.#welcome?.limits;
    const ms = (own: number | undefined, theirs: bigint | undefined, otherwise: number) =>
      own !== undefined && own > 0 ? own : theirs !== undefined && theirs > 0n ? Math.min(Number(theirs), dayMs) : otherwise;
    return {
      platform: this.#platform, options: this.#options, emitter: this.#emitter, origin: this.#server.origin,
      send: (f) => this.#link?.send(f) ?? false,
      laneUrl: (path) => this.#server.lane(this.#welcome?.laneBase ?? "", path),
      bearer: (signal) => this.#tokens.bearer(signal),
      resumeWindow: () => ms(this.#options.resumeWindow, limits()?.resumeWindowMs, 120_000),
      offerWait: () => ms(undefined, limits()?.offerWaitMs, 120_000),
      log: (line) => this.#log(line),
    };
  }

  #log(line: string): void {
    this.#options.log?.(line);
  }

  /** Makes what the first login needs, and logs in. */
  async #first(signal: AbortSignal): Promise<void> {
    await this.#tokens.fetch(signal); // the receiving place depends on the user
    if (this.#options.sendOnly !== true) {
      const vault = await this.#platform.openVault(await placeName(this.#server.base, this.#tokens.current), this.#options.receiveDir);
      this.#in = new Incoming(this.#context(), vault);
      this.#instance = vault?.instance ?? crypto.getRandomValues(new Uint8Array(16));
      await this.#in.load();
    }
    const [link, welcome] = await Link.login(this.#ctor, this.#server.session, this.#hello(), signal);
    this.user = welcome.user;
    this.app = welcome.app;
    this.#noWake = this.#platform.onWake(() => this.reconnectNow());
    this.#serve(link, welcome);
  }

  #instance: Uint8Array = empty;

  get instance(): Uint8Array {
    return this.#instance;
  }

  get online(): boolean {
    return this.#link !== undefined;
  }

  #hello() {
    return create(HelloSchema, {
      token: this.#tokens.current, client: cutText(this.#options.clientName ?? this.#platform.name, Limit.clientBytes),
      role: this.#options.sendOnly === true ? Role.SEND : Role.LISTEN, instance: this.#instance, lastEpoch: this.#welcome?.epoch ?? 0n,
    });
  }

  /** Puts a link whose login is done into service. */
  #serve(link: Link, welcome: Welcome): void {
    this.#welcome = welcome;
    this.#tokens.expires(welcome.tokenExpiresMs);
    this.#goAway = 0;
    this.#lastWord = undefined;
    this.#log(`line up, epoch ${welcome.epoch}`);
    this.#link = link;
    const send = (f: Body) => link.send(f);
    this.#tokens.lineUp(send);
    this.#presence.lineUp(send);
    this.#commands.lineUp(send, welcome.moment);
    this.#out.line(true);
    this.#in?.line(true);
    link.start({ frame: (f) => this.#frame(f), ended: (why) => this.#lineDown(link, why) });
  }

  /** Takes one frame from the server. One with a bad field is left out. */
  #frame(f: Body): void {
    const fault = frameFault(f);
    if (fault !== "") {
      this.#log(`bad frame from the server: ${f.case}: ${fault}`);
      return;
    }
    switch (f.case) {
      case "command": this.#commands.arrive(f.value); break;
      case "commandResult": this.#commands.result(f.value); break;
      case "presenceList": this.#presence.list(f.value); break;
      case "presenceChange": this.#presence.change(f.value.users); break;
      case "tokenUpdated": this.#tokens.updated(f.value); break;
      case "tokenWillExpire": this.#tokens.willExpire(f.value.tokenExpiresMs); break;
      case "goAway": this.#goAway = Math.min(Math.max(f.value.delayMs, 1), goAwayMost); break;
      case "lineOff":
        this.#lastWord = lineOffError("session", f.value.code, f.value.detail);
        this.#link?.close(this.#lastWord);
        break;
      case "accepted":
      case "received":
      case "verdict":
      case "standing": this.#out.frame(f); break;
      case "offer":
      case "sync":
      case "finish":
      case "verdictAck":
      case "cancel":
      case "query": this.#in?.frame(f); break;
    }
  }

  #lineDown(link: Link, why: DianError): void {
    if (this.#link !== link) return;
    this.#link = undefined;
    this.#commands.lineDown();
    this.#presence.lineDown();
    this.#tokens.lineDown();
    this.#out.line(false);
    this.#in?.line(false);
    this.#log(`line down: ${why.code}`);
    if (this.#off !== undefined) return;
    if (this.#isFinal(why)) void this.#lineOff(why, true);
    else void this.#reconnect(why);
  }

  /** Only the server's word ends the line for good. With a provider an expired token is no reason. */
  #isFinal(why: DianError): boolean {
    return why.origin === "server" && finalCodes.includes(why.code) &&
      (why.code !== Code.tokenExpired || this.#options.tokenProvider === undefined);
  }

  /** Logs in again until it works or the line is off for good. */
  async #reconnect(first: DianError): Promise<void> {
    let why = first;
    const goAway = this.#goAway;
    // While the line is down for longer than the window, tasks end; the tries go on.
    const window = setTimeout(() => this.#loseTasks(), this.#context().resumeWindow());
    try {
      for (let attempt = 1; this.#off === undefined; attempt++) {
        const most = attempt === 1 && goAway > 0 ? goAway : Math.min(reconnectMost, reconnectFirst * 2 ** Math.min(attempt - 1, 10));
        const delay = Math.random() * most;
        this.#emitter.emit("reconnecting", { attempt, error: why, delay });
        await this.#pause(delay);
        if (this.#off !== undefined) return;
        try {
          const [link, welcome] = await this.#loginAgain();
          if (this.#off !== undefined) {
            link.close(new DianError("session", Code.notLoggedIn));
            return;
          }
          this.#serve(link, welcome);
          this.#emitter.emit("reconnected", {});
          return;
        } catch (e) {
          why = e instanceof DianError ? e : new DianError("connect", Code.internal, { cause: e });
          this.#log(`reconnect failed: try ${attempt}, ${why.code}`);
          if (this.#isFinal(why)) void this.#lineOff(why.for("session"), true);
        }
      }
    } finally {
      clearTimeout(window);
    }
  }

  /** Waits before a try; a machine that wakes up or comes online cuts it short. */
  #pause(delay: number): Promise<void> {
    return new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, delay);
      this.#cutShort = () => {
        clearTimeout(timer);
        resolve();
      };
    }).then(() => void (this.#cutShort = undefined));
  }

  async #loginAgain(): Promise<[Link, Welcome]> {
    const signal = AbortSignal.any([this.#end.signal, AbortSignal.timeout(loginTime)]);
    await this.#tokens.fetch(signal);
    const [link, welcome] = await Link.login(this.#ctor, this.#server.session, this.#hello(), signal);
    if (welcome.user === this.user && welcome.app === this.app) return [link, welcome];
    link.close(new DianError("session", Code.notLoggedIn));
    // What this client keeps belongs to the user it was made for.
    throw new DianError("session", Code.tokenRefused, { origin: "server", detail: "the token names another user" });
  }

  #loseTasks(): void {
    if (this.#link !== undefined || this.#off !== undefined) return;
    this.#commands.lose();
    for (const t of [...this.#tasks.values()]) {
      if (t.kind !== "command") t.finish({ error: new DianError(t.op, Code.connectionLost, { peer: t.target }) });
    }
  }

  /** Also called when the machine woke up, came online, or the page is shown again. */
  reconnectNow(): void {
    this.#cutShort?.();
    this.#link?.look();
  }

  /** Ends the line for good, once: every task gets its result. */
  async #lineOff(why: DianError, tell: boolean): Promise<void> {
    if (this.#off !== undefined) return;
    this.#off = why;
    this.#end.abort(why);
    this.#noWake();
    this.#cutShort?.();
    this.#commands.close(why);
    this.#out.close(why);
    this.#presence.close(why);
    this.#tokens.close(why);
    for (const t of [...this.#tasks.values()]) t.finish({ error: why.for(t.op, t.target) });
    if (tell) this.#emitter.emit("lineOff", why);
    await this.#in?.close();
    this.#setDone(why);
  }

  async close(): Promise<void> {
    const why = new DianError("session", Code.notLoggedIn, { detail: "logged out" });
    const link = this.#link;
    const ended = this.#lineOff(why, false);
    link?.close(why);
    await ended;
    await this.done;
  }

  on<E extends keyof Events>(event: E, fn: (event: Events[E]) => void): () => void {
    return this.#emitter.on(event, fn);
  }

  off<E extends keyof Events>(event: E, fn: (event: Events[E]) => void): void {
    this.#emitter.off(event, fn);
  }

  /** One of the server's limits in bytes, never more than our own. */
  #limit(name: keyof Limits & `${string}Bytes`, own: number): number {
    const v = this.#welcome?.limits?.[name] ?? 0n;
    return v > 0n && v < BigInt(own) ? Number(v) : own;
  }

  /** Makes a task and enters it, unless it has its result already. */
  #task(kind: Kind, target: string, options: SendOptions): SendTask {
    const t = new SendTask(kind, target, options, this.#emitter, (x) => this.#cancelTask(x.id, x), (x) => {
      if (this.#tasks.get(x.id) === x) this.#tasks.delete(x.id);
    });
    const fault = t.fault(this.#limit("metaBytes", Limit.metaBytes));
    if (fault !== undefined) t.finish({ error: fault });
    else if (this.#off !== undefined) t.finish({ error: this.#off.for(t.op, target) });
    else if (this.#tasks.has(t.id)) t.finish({ error: new DianError(t.op, Code.badSendId, { peer: target, detail: "a task with this id is under way" }) });
    else this.#tasks.set(t.id, t);
    return t;
  }

  sendCmd(target: string, data: Bytes, options: SendOptions = {}): Task {
    const t = this.#task("command", target, options);
    if (t.ended) return t;
    const bytes = toBytes(data);
    t.setTotal(bytes.length);
    if (bytes.length > this.#limit("commandBytes", Limit.commandBytes)) t.finish({ error: new DianError(t.op, Code.commandTooLarge, { peer: target }) });
    else this.#commands.send(t, bytes.slice());
    return t;
  }

  sendBuffer(target: string, data: Bytes, options: SendOptions = {}): Task {
    const t = this.#task("buffer", target, options);
    if (t.ended) return t;
    const bytes = toBytes(data);
    t.setTotal(bytes.length);
    if (bytes.length > this.#limit("bufferBytes", Limit.bufferBytes)) t.finish({ error: new DianError(t.op, Code.bufferTooLarge, { peer: target }) });
    else void this.#send(t, new Blob([bytes as Uint8Array<ArrayBuffer>]));
    return t;
  }

  sendFile(target: string, source: FileSource, options: SendOptions = {}): Task {
    const t = this.#task("file", target, options);
    if (!t.ended) void this.#send(t, source);
    return t;
  }

  async #send(t: SendTask, from: FileSource): Promise<void> {
    try {
      const source = await this.#platform.source(from, t.options.name);
      if (t.ended) {
        await source.close();
        return;
      }
      t.setTotal(source.size);
      if (t.kind === "file") t.fileName = source.path;
      const files = this.#welcome?.limits?.fileBytes ?? 0n;
      if (t.kind === "file" && files > 0n && BigInt(source.size) > files) throw new SourceFault(Code.fileTooLarge, "larger than the server allows");
      this.#out.start(t, source, this.#limit("inlineBytes", Limit.inlineBytes));
    } catch (e) {
      const code = e instanceof SourceFault || e instanceof DianError ? e.code : Code.internal;
      const detail = e instanceof SourceFault ? e.message : "";
      t.finish({ error: new DianError(t.op, code, { peer: t.target, detail, cause: e }) });
    }
  }

  cancelSend(sendId: string): Promise<boolean> {
    return this.#cancelTask(sendId, this.#tasks.get(sendId));
  }

  #cancelTask(sendId: string, t: SendTask | undefined): Promise<boolean> {
    if (t === undefined || t.kind === "command" || t.ended) {
      this.#emitter.emit("cancelSendResult", { sendId, cookie: t?.options.cookie, error: new DianError("cancel", Code.badSendId, { detail: "nothing to cancel" }) });
      return Promise.resolve(false);
    }
    const outcome = t.cancelAsked();
    // A task whose content is still being looked at is not known to Outgoing yet.
    if (!this.#out.cancel(sendId) && !t.ended) t.finish({ error: new DianError(t.op, Code.cancelled, { peer: t.target }) });
    return outcome;
  }

  async files(): Promise<FileData[]> {
    return (await this.#in?.files()) ?? [];
  }

  setStatus(busy: boolean, doNotDisturb = 0): void {
    if (this.#options.sendOnly === true) throw new DianError("set status", Code.wrongLoginState, { detail: "a client that only sends has no status" });
    this.#presence.setStatus(busy, doNotDisturb);
  }

  userStatus(...users: string[]): Promise<UserStatus[]> {
    return this.#presence.query(users);
  }

  startUserStatusNotify(...users: string[]): Promise<void> {
    return this.#presence.subscribe(users);
  }

  async stopUserStatusNotify(...users: string[]): Promise<void> {
    this.#presence.unsubscribe(users);
  }

  updateToken(token: string): Promise<void> {
    return this.#tokens.update(token);
  }
}
