/**
 * Code is the outcome of a task, a login or a request: the number on the wire and
 * the value to compare with, `e.code === Code.peerOffline`. A peer may refuse with a
 * number of its own, which is passed on as it is.
 */
export const Code = {
  ok: 0,
  unknown: 1, // no better code is known
  internal: 3, // a fault inside the program that answers
  versionNotSupported: 4, // the other side speaks another version
  badParameter: 5, // a field is missing, too long or out of range
  badData: 6, // the bytes are not what the protocol says
  wrongCredentials: 7, // the login was refused, or the token provider failed
  serviceFault: 8, // the server cannot work at the moment, or is stopping
  wrongLoginState: 9, // not possible in this state of the session
  kicked: 10, // a newer login of the same user took the place
  notLoggedIn: 12, // the client is closed
  tokenExpired: 18, // the token's time is over
  tokenMalformed: 19, // the token cannot be read
  noSuchApp: 20, // the token names an app that the server does not have
  tokenRefused: 21, // signature, key or audience do not fit
  noPermission: 23, // the token does not allow this

  noAnswerFromServer: 202, // the server did not answer in time
  connectFailed: 203, // no connection could be made
  timedOut: 205, // the caller's time was over
  connectionClosed: 206, // the connection was closed
  connectionLost: 207, // it broke and did not come back within the resume window
  tlsFault: 209, // TLS failed; a browser does not tell this from 203

  peerBusy: 602, // the peer's queue is full
  peerOffline: 603, // the peer has no session; trying again later may help
  peerNoAnswer: 604, // no answer in time, or it was lost: the peer may have the command
  noSuchUser: 605, // never made by Dian: it has no register of users
  peerRefused: 606, // the peer said no

  sendFailed: 1000, // sending failed on this side
  commandTooLarge: 1100, // over 65,536 bytes
  bufferTooLarge: 1101, // over 104,857,600 bytes
  badTarget: 1102, // the target is empty or no valid user id
  fileError: 1103, // no regular file, or changed while it was sent
  badSendId: 1104, // no such task, nothing left to cancel, or the id is in use
  cancelled: 1105, // cancelled before it was whole
  digestMismatch: 1110, // the content does not match its digest or length
  overLimit: 1111, // over a rate, a quota or the bound of a queue
  noSpace: 1112, // no space at the receiver
  notDecrypted: 1113, // reserved
  fileNotFound: 1400, // there is no such file
  fileRead: 1401, // the file cannot be read
  fileWrite: 1402, // the file cannot be written
  fileTooLarge: 1405, // larger than the server, or 2^53 - 1, allows
} as const;

/** A number of {@link Code}, or one of a peer's own. */
export type Code = number;

const texts: ReadonlyMap<number, string> = new Map([
  [0, "ok"], [1, "unknown error"], [3, "internal error"], [4, "version not supported"],
  [5, "bad parameter"], [6, "bad data"], [7, "wrong credentials"], [8, "service fault"],
  [9, "wrong login state"], [10, "kicked by a newer login"], [12, "not logged in"],
  [18, "token expired"], [19, "token malformed"], [20, "no such app"], [21, "token refused"],
  [23, "no permission"], [202, "no answer from server"], [203, "could not connect"],
  [205, "timed out"], [206, "connection closed"], [207, "connection lost"], [209, "TLS fault"],
  [602, "peer busy"], [603, "peer offline"], [604, "peer did not answer"], [605, "no such user"],
  [606, "peer refused"], [1000, "send failed"], [1100, "command too large"],
  [1101, "buffer too large"], [1102, "bad target"], [1103, "file error"], [1104, "bad send id"],
  [1105, "cancelled"], [1110, "content does not match its digest or length"],
  [1111, "over a rate or quota limit"], [1112, "no space at the receiver"],
  [1113, "could not be decrypted"], [1400, "file not found"], [1401, "file read error"],
  [1402, "file write error"], [1405, "file size not supported"],
]);

/** Returns a short English text for people: "peer offline"; "code 4711" for an unknown one. */
export function codeText(code: Code): string {
  return texts.get(code) ?? `code ${code}`;
}

/** Whose word an error is: this client's, the server's, or the other user's client's. */
export type Origin = "local" | "server" | "peer";

/** What {@link DianError} is made of. */
export interface ErrorParts {
  origin?: Origin;
  peer?: string;
  detail?: string;
  cause?: unknown;
}

/** Every failure of this package is one of these. */
export class DianError extends Error {
  /** What programs compare: a number of {@link Code}, or a peer's own. */
  readonly code: Code;
  /** What was tried: "connect", "send file", "send command". */
  readonly op: string;
  /** With whom; empty if it was the server alone. */
  readonly peer: string;
  /** Whose word the code is. */
  readonly origin: Origin;
  /** For people, may be empty. From the wire it is at most 512 bytes and not to be trusted: show it as text. */
  readonly detail: string;

  constructor(op: string, code: Code, parts: ErrorParts = {}) {
    const { origin = "local", peer = "", detail = "", cause } = parts;
    const to = peer === "" ? "" : ` to ${JSON.stringify(peer)}`;
    const more = detail === "" ? "" : `: ${JSON.stringify(detail)}`;
    super(`${op}${to}: ${code}: ${codeText(code)}${more}`, cause === undefined ? undefined : { cause });
    this.name = "DianError";
    this.code = code;
    this.op = op;
    this.peer = peer;
    this.origin = origin;
    this.detail = detail;
  }

  /** Returns the same error for another operation; the line's end is told to every task. */
  for(op: string, peer = ""): DianError {
    return new DianError(op, this.code, { origin: this.origin, peer, detail: this.detail, cause: this.cause });
  }
}

/** Returns the code of an error: ok for null and undefined, that of a DianError, otherwise unknown. */
export function codeOf(e: unknown): Code {
  if (e === null || e === undefined) return Code.ok;
  return e instanceof DianError ? e.code : Code.unknown;
}
