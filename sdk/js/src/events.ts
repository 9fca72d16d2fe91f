import type { BufferData, CmdData, FileData, Kind, Progress, Result, UserStatus } from "./api.js";
import type { DianError } from "./codes.js";

/** What a client tells of, by name. The listeners of a client are called one after the other, in order. */
export interface Events {
  /** A command: of one sender in sending order, each once for the life of this client. Without a listener and handleCmd: 606. */
  cmdData: CmdData;
  /** A whole, verified buffer. */
  bufferData: BufferData;
  /** A verified file that is kept; after a crash it may be told again, with the same sendId. */
  fileData: FileData;
  /** How much of an accepted buffer or file is here; at most ten times a second. */
  receiveProgress: ReceiveProgress;
  /** An accepted buffer or file will not be whole: refused space, failed check, or the like. */
  receiveFailed: ReceiveFailed;
  /** A sender has cancelled what was accepted, or withdrawn it; nothing of it is kept. */
  cancelSend: CancelNotice;

  /** What the receiver has confirmed: rising, at most ten times a second for one task, sent = total before a success. */
  sendProgress: Progress;
  /** The one result of every task, of whichever kind. */
  sendResult: Result;
  /** Whether a cancel took; if so it comes before the task's own result. */
  cancelSendResult: CancelResult;

  /** Before each try to get a lost line back. */
  reconnecting: Reconnecting;
  /** The line is back. */
  reconnected: Record<string, never>;
  /** Once, when the line is off for good: kicked (10), expired (18), refused. Not on close. The client does nothing more. */
  lineOff: DianError;
  /** About 30 s before the token's end, if there is no tokenProvider or it has failed. */
  tokenWillExpire: { expires: Date };
  /** What startUserStatusNotify asked for: first the state, then changes. */
  userStatus: UserStatus[];
}

export interface ReceiveProgress {
  sendId: string;
  source: string;
  kind: Kind;
  received: number;
  total: number;
}

export interface ReceiveFailed {
  sendId: string;
  source: string;
  kind: Kind;
  error: DianError;
}

export interface CancelNotice {
  sendId: string;
  source: string;
  kind: Kind;
}

export interface CancelResult {
  sendId: string;
  cookie?: unknown;
  /** Undefined if it took, else 1104. */
  error?: DianError;
}

export interface Reconnecting {
  /** 1 for the first since the line was lost. */
  attempt: number;
  error: DianError;
  /** Milliseconds from now to the try. */
  delay: number;
}
