// What the SDK needs of the place it runs in: a browser page, or Node.
import type { FileSource, FileTarget, WebSocketLike } from "./api.js";
import type { LaneEnd } from "./core/steps.js";

/** How one request of a lane ended. */
export interface UpEnd {
  end: LaneEnd;
  offset?: number;
  code?: number;
  detail?: string;
}

/** What a lane's request carries. */
export interface UpRequest {
  url: string;
  token: string;
  offset: number;
  length: number;
  signal: AbortSignal;
  /** Called with the offset up to which bytes were handed to the connection. */
  wrote: (offset: number) => void;
}

/** A fault of the content that is sent, which ends the task. */
export class SourceFault extends Error {
  readonly code: number;
  constructor(code: number, detail: string, cause?: unknown) {
    super(detail, { cause });
    this.code = code;
  }
}

/** Content to be sent: a file, a Blob, or bytes in memory. */
export interface Source {
  readonly size: number;
  readonly name: string;
  readonly type: string;
  /** The full path in Node, else the name: for the result. */
  readonly path: string;
  /** Gives the bytes from offset, at most length; fewer only at the end. Errors: SourceFault. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Gives what gives one piece after the other from the beginning, empty at the end; a piece is valid until the next. */
  pieces?(): () => Promise<Uint8Array>;
  /** Errors if the content is not what it was: SourceFault. */
  check(): Promise<void>;
  /** The content as a Blob, where the platform's lanes send one. */
  readonly blob: Blob | undefined;
  close(): Promise<void>;
}

/** Names a transfer for good. */
export interface Key {
  source: string;
  sendId: string;
}

/** What is written down of a file that is received. Kept as JSON or in IndexedDB. */
export interface Entry {
  key: string; // keyText
  source: string;
  sendId: string;
  state: "partial" | "have" | "cancelled" | "kept";
  size: number;
  offset: number; // durable, of a part
  blocks: string; // hex of the digests of complete blocks below offset
  code: number;
  name: string;
  type: string;
  meta: string; // hex
  sha256: string; // hex, "" if none is known
  file: string; // random name of the bytes, "" if there are none
  at: number; // Unix ms of the last change
  notified: boolean;
}

/** Where entries are. Every method is durable when it resolves. */
export interface Ledger {
  all(): Promise<Entry[]>;
  put(e: Entry): Promise<void>;
  delete(key: string): Promise<void>;
  close(): Promise<void>;
}

/** How a part's bytes come to an end that is not theirs. */
export interface DownRequest {
  url: string;
  ticket: string;
  etag: string; // of the lanes before, or ""
  size: number;
  length: number; // 0: all there is
}

export interface DownEnd {
  end: LaneEnd;
  etag: string;
  /** The place cannot take the bytes: a code, or 0. */
  fault: number;
}

/** The bytes of a part. One lane at a time writes into it. */
export interface Part {
  /** How many bytes are here. */
  readonly offset: number;
  /** Runs a down-lane into the part until it ends or signal aborts; took is called with each new offset. */
  receive(request: DownRequest, took: (offset: number) => void, signal: AbortSignal): Promise<DownEnd>;
  /** Writes content that came inside its offer, behind what is here. */
  receiveBytes?(p: Uint8Array): Promise<void>;
  /** Makes what is here survive the end of this process, and tells how much that is and its blocks. */
  mark(): Promise<{ offset: number; blocks: string }>;
  /** Flushes, and returns the digest of the whole by the algorithm. */
  digest(algorithm: string): Promise<Uint8Array>;
  /** Makes the flushed bytes final. */
  commit(): Promise<void>;
  /** Stops writing; what is here stays. */
  close(): Promise<void>;
  /** Removes it. */
  drop(): Promise<void>;
}

/** A place for received files. */
export interface Vault {
  readonly instance: Uint8Array;
  readonly ledger: Ledger;
  /** Opens bytes for writing, behind `offset` of which the blocks are known; more that is there is cut off. */
  open(file: string, size: number, offset: number, blocks: string): Promise<Part>;
  /** Opens a place that the user chose. */
  openTarget(to: FileTarget, size: number): Promise<Part>;
  exists(file: string, part: boolean): Promise<boolean>;
  /** Removes bytes, of a part or kept; does nothing if there are none. */
  remove(file: string): Promise<void>;
  blob(file: string): Promise<Blob>;
  /** The path of kept bytes, where there are paths. */
  path(file: string): string | undefined;
  /** Gives kept bytes to the user; moved tells that they are not here any more. */
  save(file: string, safeName: string, to: FileTarget | undefined): Promise<{ where: string; moved: boolean }>;
  close(): Promise<void>;
}

/** One of the lanes that this origin may run at a time. */
export interface Slot {
  release(): void;
  /** Whether others wait for it. */
  wanted(): Promise<boolean>;
}

export interface Platform {
  readonly name: string; // "dian-js"
  readonly parallel: number;
  webSocket(given: WebSocketLike | undefined): Promise<WebSocketLike>;
  source(from: FileSource, name: string | undefined): Promise<Source>;
  patch(source: Source, request: UpRequest): Promise<UpEnd>;
  head(url: string, token: string, signal: AbortSignal): Promise<UpEnd>;
  /** Errors: DianError 1402. Undefined where nothing can be kept. */
  openVault(place: string, dir: string | undefined): Promise<Vault | undefined>;
  /** Lets the browser fetch a lane by itself; undefined in Node. */
  download: ((url: string, safeName: string) => void) | undefined;
  /** Waits for one of the lanes of a direction to a server that may run at a time. */
  slot(direction: "up" | "down", origin: string, signal: AbortSignal): Promise<Slot>;
  /** Calls fn when the line should be looked at: online, shown again, woken up. Returns what ends that. */
  onWake(fn: () => void): () => void;
  /** Keeps the machine awake until it is released. */
  stayAwake(): () => void;
}

/** Returns the one text of a key. */
export function keyText(k: Key): string {
  return `${k.sendId}/${k.source}`;
}
