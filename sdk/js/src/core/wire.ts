// Frames in and out of WebSocket messages (docs/protocol.md §4). No I/O, no clock.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FrameSchema, type Frame } from "../gen/dian/v1/session_pb.js";
import { Limit } from "../limits.js";

export * from "../gen/dian/v1/session_pb.js";
export { create };

/** The WebSocket subprotocol of binary messages. */
export const subprotocol = "dian.v1.proto";

/** One body of a frame: `{ case: "ping", value: … }`. */
export type Body = Exclude<Frame["body"], { case: undefined }>;

/** A message that is not what the protocol says. */
export class WireError extends Error {}

/** Encodes one frame without its length. */
export function encode(body: Body): Uint8Array {
  const bytes = toBinary(FrameSchema, create(FrameSchema, { body }));
  if (bytes.length > Limit.frameBytes) throw new WireError(`a frame of ${bytes.length} bytes`);
  return bytes;
}

/** Joins encoded frames into one message, each behind its length as a varint. */
export function join(frames: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  let size = 0;
  for (const f of frames) size += f.length + varintBytes(f.length);
  const out = new Uint8Array(size);
  let at = 0;
  for (const f of frames) {
    for (let n = f.length; ; n >>>= 7) {
      if (n < 0x80) {
        out[at++] = n;
        break;
      }
      out[at++] = (n & 0x7f) | 0x80;
    }
    out.set(f, at);
    at += f.length;
  }
  return out;
}

/** How many bytes the length of n bytes takes. */
export function varintBytes(n: number): number {
  return n < 0x80 ? 1 : n < 0x4000 ? 2 : n < 0x200000 ? 3 : 4;
}

/** Cuts a message into frames. A frame of an unknown kind has no body. Error: WireError. */
export function split(message: Uint8Array): Frame[] {
  const frames: Frame[] = [];
  let at = 0;
  do {
    let size = 0;
    let n = 0;
    for (; ; n++) {
      const b = message[at + n];
      if (b === undefined || n > 3) throw new WireError("a length is cut short or too large");
      size += (b & 0x7f) * 2 ** (7 * n);
      if (b < 0x80) break;
    }
    n++;
    if (size === 0 || size > Limit.frameBytes || n !== varintBytes(size)) throw new WireError("a bad length");
    if (at + n + size > message.length) throw new WireError("a frame reaches behind its message");
    frames.push(decode(message.subarray(at + n, at + n + size)));
    at += n + size;
  } while (at < message.length);
  return frames;
}

function decode(bytes: Uint8Array): Frame {
  try {
    return fromBinary(FrameSchema, bytes, { readUnknownFields: false });
  } catch (e) {
    throw new WireError("bad frame content", { cause: e });
  }
}
