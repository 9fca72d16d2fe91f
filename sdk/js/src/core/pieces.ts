// Bounded mode of an up-lane: a proxy that collects whole requests passes on small ones.
import { boundedFor, boundedMost } from "./senderrules.js";
import { pieceMax, pieceMin, pieceQuick } from "./steps.js";

export class Pieces {
  size = 0; // of the next piece; 0: lanes are not cut
  #confirmed = 0; // bytes confirmed in pieces
  #relapses = 0; // how often bounded mode began
  #from = 0; // when the present piece began

  /** Where a lane from offset ends. After a while whole lanes are tried again. */
  end(now: number, offset: number, total: number): number {
    this.#from = now;
    if (this.size > 0 && this.#confirmed >= boundedFor && this.#relapses < boundedMost) this.size = 0;
    return this.size > 0 ? Math.min(total, offset + this.size) : total;
  }

  confirmed(bytes: number): void {
    if (this.size > 0) this.#confirmed += bytes;
  }

  /** A piece was taken whole: the next one may be larger. */
  grow(now: number): void {
    if (this.size > 0 && now - this.#from < pieceQuick) this.size = Math.min(2 * this.size, pieceMax);
  }

  /** Begins bounded mode, or makes its pieces smaller. */
  shrink(): void {
    if (this.size > 0) {
      this.size = Math.max(this.size / 2, pieceMin);
      return;
    }
    this.size = 2 * pieceMin;
    this.#confirmed = 0;
    this.#relapses++;
  }
}
