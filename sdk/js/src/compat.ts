/**
 * The calls, callbacks and numbers of a video-conference SDK's point-to-point messages,
 * under their old names, over this SDK: an application written for it changes its login
 * and keeps the rest. What differs is in docs/migrating.md.
 *
 * ```js
 * import { connect } from "@dian-im/sdk";
 * import { PointToPoint, webNames } from "@dian-im/sdk/compat";
 *
 * const p2p = new PointToPoint(connect);
 * p2p.sendCmdRlst = (sendId, sdkErr, cookie) => { … };
 * p2p.notifyCmdData = (sourceUserId, data) => { … };
 * await p2p.login("https://relay.example.com", { token });
 * const sendId = p2p.sendCmd("bob", "hello");
 *
 * Object.assign(globalThis, webNames(p2p, "CRVideo_")); // CRVideo_SendCmd(…), CRVideo_SendCmdRslt.callback = …
 * ```
 *
 * @packageDocumentation
 */
import type { Bytes, Client, CmdData, ConnectOptions, FileData, FileSource, SendOptions } from "./api.js";
import { Code, codeOf } from "./codes.js";
import type { CancelResult } from "./events.js";

/** The code of success, {@link Code}.ok. All numbers are those of {@link Code}. */
export const NOERR = Code.ok;

/** The `connect` of "@dian-im/sdk". */
export type Connect = (server: string | URL, options: ConnectOptions) => Promise<Client>;

/** What a login may say; listeners and hooks are the callbacks' work. */
export type LoginOptions = Omit<ConnectOptions, "on" | "acceptFile" | "acceptBuffer" | "handleCmd">;

/** What a send may say beyond the old parameters. */
export type MoreOptions = Omit<SendOptions, "cookie">;

/** Tells the one result of a command or buffer; 0 is success. */
export type Rlst = (sendId: string, sdkErr: Code, cookie: unknown) => void;
/** Tells the one result of a file. `fileName` is the file's name, in Node its full path. */
export type FileRlst = (sendId: string, fileName: string, sdkErr: Code, cookie: unknown) => void;
/** Tells how many bytes the receiver has confirmed; never of a command. */
export type Progressed = (sendId: string, sentLen: number, totalLen: number, cookie: unknown) => void;
/** Tells of a command, as text; bytes that are no UTF-8 become U+FFFD, and `cmd.data` has them all. */
export type CmdArrived = (sourceUserId: string, data: string, cmd: CmdData) => void;
/** Tells of a buffer, whole and verified. */
export type BufferArrived = (sourceUserId: string, data: Uint8Array, sendId: string) => void;
/**
 * Tells of a file, whole and verified. `tmpFile` is a Blob in a browser and a path in Node;
 * undefined if the browser's own download has it. `orgFileName` is made safe to be a file's
 * name and has no path. `file` saves and removes it: until then it is kept, over reloads too.
 */
export type FileArrived = (sourceUserId: string, tmpFile: Blob | string | undefined, orgFileName: string, file: FileData) => void;

/**
 * One user's point-to-point messages. Callbacks are properties; set those that receive
 * before login. They are called one after the other, and never before the call that
 * they belong to has returned; a file's may come after those of later commands and buffers.
 */
export class PointToPoint {
  sendCmdRlst: Rlst | undefined;
  sendBufferRlst: Rlst | undefined;
  sendFileRlst: FileRlst | undefined;
  /** `sdkErr` 0: it took, and then comes the task's own result with 1105. 1104: too late, a command, or unknown. */
  cancelSendRlst: Rlst | undefined;
  notifySendProgress: Progressed | undefined;
  /** While it is undefined buffers are refused with 606. */
  notifyBufferData: BufferArrived | undefined;
  /** While it is undefined files are refused with 606. */
  notifyFileData: FileArrived | undefined;
  /** The sender has cancelled a buffer or file that was being received; nothing of it is kept. */
  notifyCancelSend: ((sendId: string, sourceUserId: string) => void) | undefined;
  /** How a login ended. */
  loginRslt: ((sdkErr: Code, cookie: unknown) => void) | undefined;
  /** The line is off for good: a newer login (10), an expired token (18), a refused one. Not for logout, and not while the line is being got back. */
  notifyLineOff: ((sdkErr: Code) => void) | undefined;
  /** About 30 s before the token ends, if there is no tokenProvider: updateToken. */
  notifyTokenWillExpire: (() => void) | undefined;

  readonly #connect: Connect;
  #client: Client | undefined;
  #busy = false; // logging in
  #notifyCmdData: CmdArrived | undefined;
  #files = Promise.resolve(); // they are told one after the other
  readonly #cancels = new Map<string, unknown[]>(); // the cookies of cancels without answer
  readonly #cmdArrived = (c: CmdData) => this.#notifyCmdData?.(c.source, c.text(), c);

  /** Makes one that logs in with the `connect` of "@dian-im/sdk". */
  constructor(connect: Connect) {
    this.#connect = connect;
  }

  /** The client behind it, for everything that has no old name; undefined before login and after the line is off. */
  get client(): Client | undefined {
    return this.#client;
  }

  /** While it is undefined commands are refused with 606. */
  get notifyCmdData(): CmdArrived | undefined {
    return this.#notifyCmdData;
  }

  set notifyCmdData(fn: CmdArrived | undefined) {
    this.#notifyCmdData = fn;
    this.#listen();
  }

  #listen(): void {
    this.#client?.off("cmdData", this.#cmdArrived);
    if (this.#notifyCmdData !== undefined) this.#client?.on("cmdData", this.#cmdArrived);
  }

  /**
   * Logs in: `options` has the token, or a provider of tokens. Calls loginRslt and resolves
   * with the code, which is that of `connect`, or 9 while there is a login. Never rejects.
   */
  async login(server: string | URL, options: LoginOptions, cookie: unknown = ""): Promise<Code> {
    let code: Code = Code.wrongLoginState;
    if (this.#client === undefined && !this.#busy) {
      this.#busy = true;
      try {
        this.#client = await this.#connect(server, { ...options, ...this.#hooks() });
        this.#listen();
        code = Code.ok;
      } catch (e) {
        code = codeOf(e);
      } finally {
        this.#busy = false;
      }
    }
    this.loginRslt?.(code, cookie);
    return code;
  }

  #hooks(): Pick<ConnectOptions, "on" | "acceptFile" | "acceptBuffer"> {
    return {
      acceptFile: (o) => (this.notifyFileData === undefined ? o.refuse() : o.accept()),
      acceptBuffer: (o) => (this.notifyBufferData === undefined ? o.refuse() : o.accept()),
      on: {
        ...(this.#notifyCmdData === undefined ? {} : { cmdData: this.#cmdArrived }),
        bufferData: (b) => this.notifyBufferData?.(b.source, b.data, b.sendId),
        fileData: (f) => void (this.#files = this.#files.then(() => this.#fileArrived(f))),
        cancelSend: (c) => this.notifyCancelSend?.(c.sendId, c.source),
        sendProgress: (p) => this.notifySendProgress?.(p.sendId, p.sent, p.total, p.cookie),
        sendResult: (r) => {
          if (r.kind === "command") this.sendCmdRlst?.(r.sendId, r.code, r.cookie);
          else if (r.kind === "buffer") this.sendBufferRlst?.(r.sendId, r.code, r.cookie);
          else this.sendFileRlst?.(r.sendId, r.fileName, r.code, r.cookie);
        },
        cancelSendResult: (c) => this.#cancelAnswered(c),
        lineOff: (e) => {
          this.#client = undefined; // a login is possible again, inside the callback too
          this.notifyLineOff?.(e.code);
        },
        tokenWillExpire: () => this.notifyTokenWillExpire?.(),
      },
    };
  }

  async #fileArrived(f: FileData): Promise<void> {
    const tmpFile = f.path ?? (await f.blob().catch(() => undefined));
    queueMicrotask(() => this.notifyFileData?.(f.source, tmpFile, f.safeName, f)); // what it throws is uncaught, and harms no later file
  }

  #cancelAnswered(c: CancelResult): void {
    const cookies = this.#cancels.get(c.sendId);
    const cookie = cookies === undefined || cookies.length === 0 ? (c.cookie ?? "") : cookies.shift();
    if (cookies?.length === 0) this.#cancels.delete(c.sendId);
    this.cancelSendRlst?.(c.sendId, c.error?.code ?? Code.ok, cookie);
  }

  /** Logs out: unfinished tasks end with 12. */
  async logout(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    await client?.close();
  }

  /** Replaces the token by a newer one of the same user; resolves with 0 or why not. */
  async updateToken(token: string): Promise<Code> {
    if (this.#client === undefined) return Code.notLoggedIn;
    return this.#client.updateToken(token).then(() => Code.ok, codeOf);
  }

  /** Sends a command of at most 65,536 bytes; text goes as UTF-8. Returns the sendId; sendCmdRlst tells the result. */
  sendCmd(targetUserId: string, data: Bytes, cookie: unknown = "", more: MoreOptions = {}): string {
    const client = this.#client;
    return client === undefined ? this.#notSent((id) => this.sendCmdRlst?.(id, Code.notLoggedIn, cookie)) :
      client.sendCmd(targetUserId, data, { ...more, cookie }).id;
  }

  /** Sends a buffer of at most 104,857,600 bytes, which are copied. Returns the sendId; sendBufferRlst tells the result. */
  sendBuffer(targetUserId: string, data: Bytes, cookie: unknown = "", more: MoreOptions = {}): string {
    const client = this.#client;
    return client === undefined ? this.#notSent((id) => this.sendBufferRlst?.(id, Code.notLoggedIn, cookie)) :
      client.sendBuffer(targetUserId, data, { ...more, cookie }).id;
  }

  /** Sends a File or Blob, in Node also a path. Returns the sendId; sendFileRlst tells the result. */
  sendFile(targetUserId: string, file: FileSource, cookie: unknown = "", more: MoreOptions = {}): string {
    const client = this.#client;
    return client === undefined ? this.#notSent((id) => this.sendFileRlst?.(id, "", Code.notLoggedIn, cookie)) :
      client.sendFile(targetUserId, file, { ...more, cookie }).id;
  }

  /** Asks for the end of an unfinished buffer or file; cancelSendRlst tells whether that took. */
  cancelSend(cancelTaskID: string, cookie: unknown = ""): void {
    const client = this.#client;
    if (client === undefined) {
      queueMicrotask(() => this.cancelSendRlst?.(cancelTaskID, Code.badSendId, cookie));
      return;
    }
    const cookies = this.#cancels.get(cancelTaskID);
    if (cookies === undefined) this.#cancels.set(cancelTaskID, [cookie]);
    else cookies.push(cookie);
    void client.cancelSend(cancelTaskID);
  }

  /** Gives an id whose result, 12, comes after the call. */
  #notSent(tell: (sendId: string) => void): string {
    const id = crypto.randomUUID();
    queueMicrotask(() => tell(id));
    return id;
  }
}

/** A callback in the web form: `SendCmdRslt.callback = function (taskID, sdkErr, cookie) {}`. */
export interface Slot<F> {
  callback: F | undefined;
}

/** The names of the web form. `Rslt` and `Rlst`, which its pages both use, are the same slot. */
export interface WebNames {
  NOERR: typeof NOERR;
  SendCmd(targetUserId: string, data: Bytes, cookie?: unknown): string;
  SendBuffer(targetUserId: string, data: Bytes, cookie?: unknown): string;
  SendFile(targetUserId: string, file: FileSource, cookie?: unknown): string;
  CancelSend(taskID: string, cookie?: unknown): void;
  SendCmdRslt: Slot<Rlst>;
  SendCmdRlst: Slot<Rlst>;
  SendBufferRslt: Slot<Rlst>;
  SendBufferRlst: Slot<Rlst>;
  SendFileRslt: Slot<FileRlst>;
  SendFileRlst: Slot<FileRlst>;
  CancelSendRslt: Slot<Rlst>;
  CancelSendRlst: Slot<Rlst>;
  SendProgress: Slot<Progressed>;
  NotifyCmdData: Slot<CmdArrived>;
  NotifyBufferData: Slot<BufferArrived>;
  NotifyFileData: Slot<FileArrived>;
  NotifyCancelSend: Slot<(sendId: string, sourceUserId: string) => void>;
}

/** {@link WebNames} with something in front of each: `CRVideo_SendCmd`. */
export type Prefixed<P extends string> = { [K in keyof WebNames as `${P}${K}`]: WebNames[K] };

/**
 * Gives the web form of the names: an object to be called `CR`, or with a prefix what
 * `Object.assign(globalThis, webNames(p2p, "CRVideo_"))` makes global.
 */
export function webNames<P extends string = "">(p2p: PointToPoint, prefix?: P): Prefixed<P> {
  const slot = <K extends keyof PointToPoint>(name: K): Slot<NonNullable<PointToPoint[K]>> => ({
    get callback() { return p2p[name] ?? undefined; },
    set callback(fn) { (p2p as { [N in K]: unknown })[name] = fn; },
  });
  const [cmd, buffer, file, cancel] = [slot("sendCmdRlst"), slot("sendBufferRlst"), slot("sendFileRlst"), slot("cancelSendRlst")];
  const names: WebNames = {
    NOERR,
    SendCmd: (target, data, cookie) => p2p.sendCmd(target, data, cookie),
    SendBuffer: (target, data, cookie) => p2p.sendBuffer(target, data, cookie),
    SendFile: (target, source, cookie) => p2p.sendFile(target, source, cookie),
    CancelSend: (taskID, cookie) => p2p.cancelSend(taskID, cookie),
    SendCmdRslt: cmd, SendCmdRlst: cmd,
    SendBufferRslt: buffer, SendBufferRlst: buffer,
    SendFileRslt: file, SendFileRlst: file,
    CancelSendRslt: cancel, CancelSendRlst: cancel,
    SendProgress: slot("notifySendProgress"),
    NotifyCmdData: slot("notifyCmdData"),
    NotifyBufferData: slot("notifyBufferData"),
    NotifyFileData: slot("notifyFileData"),
    NotifyCancelSend: slot("notifyCancelSend"),
  };
  return Object.fromEntries(Object.entries(names).map(([name, value]) => [`${prefix ?? ""}${name}`, value])) as Prefixed<P>;
}
