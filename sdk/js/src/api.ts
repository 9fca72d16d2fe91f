// The public words of the SDK, in types. The implementation is elsewhere.
// All sizes and offsets are bytes in numbers up to 2^53 - 1; all times milliseconds.

import type { Code, DianError } from "./codes.js";
import type { Events } from "./events.js";

/** What a task carries: a command (up to 64 KiB, in order and once), a buffer (up to 100 MiB, in memory), a file. */
export type Kind = "command" | "buffer" | "file";

/**
 * How sure a result of 0 is. `stored`: complete, verified and, for a file, flushed.
 * `handed`: every byte was written to the receiver's connection or writer, which is all
 * one can know of a browser's own download; show it differently. `none`: of a command,
 * or there was no success.
 */
export type Receipt = "none" | "stored" | "handed";

/** Where a task stands; it ends in `done`, whatever its result. */
export type TaskState = "queued" | "waiting" | "sending" | "verifying" | "done";

/** Bytes to send. Strings go as UTF-8. What is sent is copied at the call; `meta` must not be changed before the result. */
export type Bytes = Uint8Array | ArrayBuffer | string;

/**
 * What sendFile takes. A File or Blob is read by slices and may be read again. A stream
 * is first written to a temporary place (OPFS; in Node the system's temp folder), because
 * an offer needs the size and a resume the beginning. A string is a path, in Node alone.
 */
export type FileSource = Blob | ReadableStream<Uint8Array> | string;

/**
 * Where a received file may go at once. In a browser a handle that the user chose
 * (showSaveFilePicker); in Node a path, of a folder or a new file.
 */
export type FileTarget = FileSystemFileHandle | string;

/** How connect makes a client. `token` or `tokenProvider` is needed. */
export interface ConnectOptions {
  /** The JWT to log in with. When it expires the line is off (18) unless updateToken came before. */
  token?: string;
  /**
   * Is asked for a token before each login and about 30 s before a token expires, once at a
   * time. Its error fails connect with 7; later it is asked again at the next try.
   */
  tokenProvider?: (signal: AbortSignal) => string | Promise<string>;
  /** Log in without taking the user's place: the client sends, cannot be addressed, kicks nobody. */
  sendOnly?: boolean;
  /** Listeners that are there before the first frame: `{ cmdData: c => … }`. */
  on?: { [E in keyof Events]?: (event: Events[E]) => void };
  /**
   * Is asked before a file is received; answers with a method of the offer, at once or
   * minutes later. Without it files are accepted if there is a `fileData` listener when the
   * offer comes, and refused with 606 otherwise.
   */
  acceptFile?: (offer: Offer) => void;
  /** The same for buffers and `bufferData`. */
  acceptBuffer?: (offer: Offer) => void;
  /**
   * Is called instead of `cmdData`, one command after the other. What it returns (or its
   * promise gives) is the reply, at most 65,536 bytes; what it throws is the sender's
   * result: a DianError's code and detail, otherwise 606. It implies ackHandled.
   */
  handleCmd?: (cmd: CmdData) => Bytes | void | Promise<Bytes | void>;
  /** 0 is a command's result only when the `cmdData` listeners have returned. */
  ackHandled?: boolean;
  /** In Node the folder for received files; the default lies in the cache folder. Unused in a browser. */
  receiveDir?: string;
  /** Receive files by the browser's own download, with receipt `handed`, although OPFS is there. */
  preferDownload?: boolean;
  /** How long unfinished tasks wait for a lost line, and a transfer for progress, before 207. Default: the server's, or 120,000 ms. */
  resumeWindow?: number;
  /** How long a command may take before it ends with 604; 60,000 ms by default. */
  commandTimeout?: number;
  /** Buffers and files sent at a time: 2 in a browser, where all tabs of an origin share 2 lanes; 4 in Node. */
  parallel?: number;
  /** Buffers and files received at a time: 16 by default. In a browser their lanes share 2 per origin. */
  parallelReceive?: number;
  /** What this program is, for people: at most 128 bytes, longer ones are cut. */
  clientName?: string;
  /** Keep the screen awake while files are sent, where the browser can; true by default. */
  wakeLock?: boolean;
  /** Gets one line of ids, codes and sizes for each event worth logging; never content, tokens or names. */
  log?: (line: string) => void;
  /** Ends the login alone, with 1105. After connect has returned it does nothing. */
  signal?: AbortSignal;
  /** Node 20 has no WebSocket: the constructor of npm `ws` is found by itself, or given here. */
  WebSocket?: WebSocketLike;
}

/** A WebSocket constructor like the browser's. */
export type WebSocketLike = new (url: string, protocols?: string | string[]) => WebSocket;

/** What one send was asked for. */
export interface SendOptions {
  /** Handed back with each event of the task; it never travels. */
  cookie?: unknown;
  /** At most 4,096 bytes of the application's own, for the receiver. */
  meta?: Bytes;
  /** Wait for at most so many ms while the peer is offline, instead of 603 at once. */
  waitForPeer?: number;
  /**
   * Names the task: a UUID in lower case. An id that was used before goes on with the same
   * content; after a reload, send the same file with the same id. Default: a new UUIDv7.
   */
  sendId?: string;
  /** For people, at most 1,024 bytes; default: the file's own. Commands have none. */
  name?: string;
  /** Media type, at most 255 bytes; default: the file's own. Commands have none. */
  type?: string;
  /** Only this receiving place (16 bytes) may take a buffer or file; another answers 1104. */
  instance?: Uint8Array;
}

/** How much of a task the receiver has confirmed. It never goes back. */
export interface Progress {
  sendId: string;
  target: string;
  sent: number;
  total: number;
  cookie?: unknown;
}

/** The one result of a task. `code` is 0 or that of `error`. */
export interface Result {
  sendId: string;
  target: string;
  kind: Kind;
  /** The file's name, or in Node its full path; empty otherwise. */
  fileName: string;
  cookie?: unknown;
  code: Code;
  error?: DianError;
  receipt: Receipt;
  /** Only the length was checked: there was no digest. */
  lengthOnly: boolean;
  /** A command's, at most 65,536 bytes; empty otherwise. */
  reply: Uint8Array;
  size: number;
}

/**
 * One send. `await task` gives its Result, or throws its DianError; `task.result` gives
 * the Result and never throws. It ends with exactly one result, at the latest on close.
 */
export interface Task extends PromiseLike<Result> {
  /** The sendId, a UUID. */
  readonly id: string;
  readonly target: string;
  readonly kind: Kind;
  readonly state: TaskState;
  /** Confirmed bytes, and how many there are (0 until that is known). */
  readonly progress: { readonly sent: number; readonly total: number };
  /** The receiving place that accepted, for SendOptions.instance; undefined before. */
  readonly instance: Uint8Array | undefined;
  /** Resolves with the result; never rejects. */
  readonly result: Promise<Result>;
  /** Calls fn with the progress so far and then at most ten times a second; returns what ends that. */
  onProgress(fn: (p: Progress) => void): () => void;
  /** Like client.cancelSend(id). */
  cancel(): Promise<boolean>;
  catch<T = never>(rejected?: ((reason: unknown) => T | PromiseLike<T>) | null): Promise<Result | T>;
  finally(fn?: (() => void) | null): Promise<Result>;
}

/** A command that has arrived. */
export interface CmdData {
  source: string;
  sendId: string;
  data: Uint8Array;
  meta: Uint8Array;
  /** The data as UTF-8, with U+FFFD for what is not. */
  text(): string;
}

/** A buffer that has arrived, whole and verified. `data` is empty if acceptTo took the bytes. */
export interface BufferData {
  source: string;
  sendId: string;
  /** As sent, may be empty: data, never a path or HTML. */
  name: string;
  type: string;
  meta: Uint8Array;
  data: Uint8Array;
}

/** A file that has arrived, whole and verified (receipt `stored`), or is with the browser's download (`handed`). */
export interface FileData {
  source: string;
  sendId: string;
  /** As sent, may be empty: data, never a path or HTML. */
  name: string;
  /** The name made safe to be that of a file; use it where a person finds the file. */
  safeName: string;
  type: string;
  meta: Uint8Array;
  size: number;
  receipt: Receipt;
  /** When it was kept, in Unix milliseconds. */
  at: number;
  /** In Node where it is; undefined in a browser. */
  path: string | undefined;
  /**
   * The content, not read into memory. Its type is application/octet-stream whatever the
   * sender said, so that no page runs it. Error 1400: removed, saved elsewhere, or evicted.
   */
  blob(): Promise<Blob>;
  /**
   * Gives the file to the user. In a browser: into `to` if given, else to the browser's
   * downloads under safeName; the copy here stays until remove. In Node: renames it to the
   * path, or into the folder, `to`, never replacing: "photo (1).jpg"; gives the new path.
   * Errors: 1400 not here any more, 1402 it cannot be written, 1112 no space.
   */
  save(to?: FileTarget): Promise<string>;
  /** Deletes what is kept here. Does nothing if it is not here any more. */
  remove(): Promise<void>;
}

/**
 * A buffer or file that somebody offers. The first answer counts. A server withdraws an
 * offer that is not answered in its time (2 minutes, if not set otherwise).
 */
export interface Offer {
  readonly source: string;
  readonly sendId: string;
  readonly kind: "buffer" | "file";
  /** As sent, may be empty: data, never a path or HTML. */
  readonly name: string;
  readonly safeName: string;
  readonly type: string;
  readonly size: number;
  readonly meta: Uint8Array;
  /** Bytes that are here from an earlier try. */
  readonly received: number;
  /**
   * Takes it: a buffer into memory; a file into OPFS or the receive folder, and where there
   * is no OPFS by acceptDownload.
   */
  accept(): void;
  /**
   * Takes a file into a handle the user chose, or in Node to a path (never replacing). A
   * handle is not remembered over a reload: the transfer then begins anew.
   */
  acceptTo(to: FileTarget): void;
  /**
   * Takes a file by the browser's own download; receipt `handed`. A broken download is gone
   * on with by the browser or not at all. In Node it is accept.
   */
  acceptDownload(): void;
  /** Says no: code 0 becomes 606; detail is for people, cut to 512 bytes. The sender gets both. */
  refuse(code?: Code, detail?: string): void;
  /** Ends it, also after accept, unless it is whole by then. The sender gets 1105. */
  cancel(): void;
  /** Resolves when it was withdrawn, or the transfer has ended, or the client was closed. */
  readonly done: Promise<void>;
}

/** 0 offline, 1 online, 2 busy. */
export type Status = 0 | 1 | 2;

/** The state of a user. */
export interface UserStatus {
  user: string;
  status: Status;
  /** The application's own number, 32 bits; 0 means off. */
  doNotDisturb: number;
}

/** One login: a session kept alive over lost connections, with its tasks and deliveries. */
export interface Client {
  readonly user: string;
  readonly app: string;
  /** The id of this receiving place, 16 bytes; empty with sendOnly. */
  readonly instance: Uint8Array;
  /** Whether there is a live session at this moment. */
  readonly online: boolean;
  /** Resolves when the line is off for good, with why; after close with code 12. */
  readonly done: Promise<DianError>;

  /** Calls fn for each event, in order; returns what ends that. A listener that throws harms nobody else. */
  on<E extends keyof Events>(event: E, fn: (event: Events[E]) => void): () => void;
  off<E extends keyof Events>(event: E, fn: (event: Events[E]) => void): void;

  /**
   * Sends up to 65,536 bytes in one piece; they are copied. Commands of this client to one
   * target arrive in the order of the calls and once each, over reconnects too. Results: 0
   * the peer has it, 603 offline, 604 no answer or fate unknown, 602 its queue is full, 606
   * refused, 1100 too large, 1102 bad target, 5 bad option, 207 the line was down for too
   * long, 1111 over 65,536 commands or 64 MiB under way or a rate, 12 closed, 23 not allowed.
   */
  sendCmd(target: string, data: Bytes, options?: SendOptions): Task;
  /**
   * Sends at most 104,857,600 bytes; they are copied. Results: 0 the peer has it whole and
   * verified, 1101 too large, 1102, 5, 603, 604, 606 or the peer's own, 207 no progress
   * within the resume window, 1105 cancelled, 12, 23, 1111.
   */
  sendBuffer(target: string, data: Bytes, options?: SendOptions): Task;
  /**
   * Sends a file of any size up to 2^53 - 1 and the server's limit (1405). Results beside
   * those of sendBuffer: 1400 no such file, 1401 it cannot be read, 1103 no regular file or
   * changed meanwhile; and from the receiver 1110, 1112 no space, 1402 it cannot write.
   */
  sendFile(target: string, source: FileSource, options?: SendOptions): Task;
  /**
   * Asks for the end of an unfinished buffer or file. True: it took, and the task's result is
   * 1105. False: too late, or the id names a command or nothing, and nothing else changes.
   */
  cancelSend(sendId: string): Promise<boolean>;

  /** Files that were received and are still kept here, the oldest first; also those of earlier lives. */
  files(): Promise<FileData[]>;

  /** Sets one's own status; kept over reconnects. Errors: 9 with sendOnly, 12 closed, 5 no 32-bit number. */
  setStatus(busy: boolean, doNotDisturb?: number): void;
  /** The state of the named users, or of everybody online whom the token may see. Errors: 23, 207, 1102, 1111, 12. */
  userStatus(...users: string[]): Promise<UserStatus[]>;
  /** Makes `userStatus` events: the state now, then changes; kept over reconnects. Errors: those of userStatus. */
  startUserStatusNotify(...users: string[]): Promise<void>;
  /** Ends what startUserStatusNotify began: for the named users, or the subscription to everybody. */
  stopUserStatusNotify(...users: string[]): Promise<void>;

  /**
   * Replaces the token by a newer one of the same user. While the line is down it is kept for
   * the next login. Errors: the server's refusal (the old token still counts), 19, 207, 12, 1111.
   */
  updateToken(token: string): Promise<void>;
  /** Tries a line that is down again now and not when its time comes, and looks whether one that is up still lives. */
  reconnectNow(): void;
  /** Logs out: unfinished tasks end with 12, parts are kept for a later login. Never fails. */
  close(): Promise<void>;
}
