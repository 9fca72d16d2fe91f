import type { FileTarget, Offer } from "../api.js";
import { Code } from "../codes.js";
import { Limit } from "../limits.js";
import { cutText } from "./bytes.js";
import { safeName } from "./names.js";
import type { ReceiverEvent } from "./steps.js";

/** Where the application wants the content. */
export type Choice = { how: "keep" } | { how: "download" } | { how: "to"; to: FileTarget };

export class InOffer implements Offer {
  readonly source: string;
  readonly sendId: string;
  readonly kind: "buffer" | "file";
  readonly name: string;
  readonly safeName: string;
  readonly type: string;
  readonly size: number;
  readonly meta: Uint8Array;
  readonly received: number;
  readonly done: Promise<void>;
  choice: Choice | undefined;

  #post: (e: ReceiverEvent) => void = () => {};
  readonly #canKeep: boolean;
  readonly #canDownload: boolean;
  #answered = false;
  #over = false;
  #finish!: () => void;

  constructor(from: { source: string; sendId: string; kind: "buffer" | "file"; name: string; type: string; size: number; meta: Uint8Array; received: number },
    can: { keep: boolean; download: boolean }) {
    this.source = from.source;
    this.sendId = from.sendId;
    this.kind = from.kind;
    this.name = from.name;
    this.safeName = safeName(from.name);
    this.type = from.type;
    this.size = from.size;
    this.meta = from.meta;
    this.received = from.received;
    this.#canKeep = can.keep || from.kind === "buffer";
    this.#canDownload = can.download;
    this.done = new Promise((resolve) => (this.#finish = resolve));
  }

  #answer(e: ReceiverEvent, choice?: Choice): void {
    if (this.#answered || this.#over) return;
    this.#answered = true;
    this.choice = choice;
    this.#post(e);
  }

  accept(): void {
    if (this.#canKeep) this.#answer({ on: "accept", receipt: "stored" }, { how: "keep" });
    else this.acceptDownload();
  }

  acceptTo(to: FileTarget): void {
    if (this.kind === "buffer") this.accept();
    else this.#answer({ on: "accept", receipt: "stored" }, { how: "to", to });
  }

  acceptDownload(): void {
    if (this.kind === "buffer" || !this.#canDownload) {
      if (this.#canKeep) this.accept();
      else this.refuse(Code.fileWrite, "no place for files");
    } else this.#answer({ on: "accept", receipt: "handed" }, { how: "download" });
  }

  refuse(code: number = Code.peerRefused, detail = ""): void {
    const no = Number.isInteger(code) && code > 0 && code <= 0xffff_ffff ? code : Code.peerRefused;
    this.#answer({ on: "refuse", code: no, detail: cutText(String(detail), Limit.detailBytes) });
  }

  cancel(): void {
    if (this.#over) return;
    this.#answered = true;
    this.#post({ on: "stop" });
  }

  /** Makes something what the answers go to: a transfer that is gone on with has another one. */
  attach(post: (e: ReceiverEvent) => void): void {
    this.#post = post;
  }

  /** What an earlier answer was, if it was a yes. */
  again(): ReceiverEvent {
    return { on: "accept", receipt: this.choice?.how === "download" ? "handed" : "stored" };
  }

  finish(): void {
    this.#over = true;
    this.#finish();
  }
}
