// Joins the two machines of commands to a client.
import type { CmdData, ConnectOptions } from "../api.js";
import { Code, DianError } from "../codes.js";
import { Limit } from "../limits.js";
import { cutText, empty, toBytes, toText } from "./bytes.js";
import { Alarm, awake } from "./clock.js";
import type { Emitter } from "./emitter.js";
import { final, InOrder, type Ack, type Incoming } from "./inorder.js";
import { Outbox } from "./outbox.js";
import { create, CommandAckSchema, CommandSchema, type Body, type Command, type CommandResult, type Moment } from "./wire.js";
import type { SendTask } from "./task.js";

export class Commands {
  readonly #options: ConnectOptions;
  readonly #emitter: Emitter;
  readonly #box: Outbox;
  readonly #in: InOrder;
  readonly #alarm = new Alarm(() => {
    this.#box.tick(awake());
    this.#do();
  });
  #send: ((f: Body) => boolean) | undefined; // to the session, once unresolved commands were sent on it
  #off: DianError | undefined;
  #waiting: Incoming[] = []; // for the handler, in order
  #handling = false;

  constructor(options: ConnectOptions, emitter: Emitter) {
    this.#options = options;
    this.#emitter = emitter;
    this.#box = new Outbox(options.commandTimeout ?? 60_000, random64);
    this.#in = new InOrder(options.ackHandled === true || options.handleCmd !== undefined);
  }

  send(t: SendTask, data: Uint8Array): void {
    if (this.#off !== undefined) {
      t.finish({ error: this.#off.for(t.op, t.target) });
      return;
    }
    const taken = this.#box.add(awake(), {
      id: t.id, target: t.target, data, meta: t.options.meta === undefined ? empty : toBytes(t.options.meta).slice(), wait: t.options.waitForPeer ?? 0,
      done: (o) => {
        if (o.code === Code.ok) t.finish({ reply: o.reply });
        else t.finish({ error: new DianError(t.op, o.code, { peer: t.target, origin: o.origin, detail: o.detail }) });
      },
    });
    if (!taken) t.finish({ error: new DianError(t.op, Code.overLimit, { peer: t.target, detail: "too many commands under way" }) });
    this.#do();
  }

  /** Does what the outbox says. */
  #do(): void {
    const { frames, outcomes } = this.#box.take();
    for (const f of frames) {
      const { since, ...rest } = f;
      this.#send?.({ case: "command", value: create(CommandSchema, since === undefined ? rest : { ...rest, since }) });
    }
    for (const [o, outcome] of outcomes) o.done(outcome);
    this.#alarm.set(this.#box.wake());
  }

  lineUp(send: (f: Body) => boolean, moment: Moment | undefined): void {
    this.#in.lineUp(moment);
    this.#send = send;
    this.#box.lineUp(awake(), moment);
    this.#do();
  }

  lineDown(): void {
    this.#send = undefined;
    this.#box.lineDown();
    this.#do();
  }

  result(r: CommandResult): void {
    this.#box.result(awake(), r);
    this.#do();
  }

  /** Ends all commands because the line was down for too long. */
  lose(): void {
    if (this.#send !== undefined) return;
    this.#box.end(Code.connectionLost, "local", "");
    this.#do();
  }

  close(why: DianError): void {
    this.#off = why;
    this.#send = undefined;
    this.#box.end(why.code, why.origin, why.detail);
    this.#do();
    this.#alarm.stop();
  }

  /** Takes a command from a peer. */
  arrive(c: Command): void {
    if (this.#options.handleCmd === undefined && !this.#emitter.has("cmdData")) {
      this.#ack(final(c, Code.peerRefused, "commands are not handled"));
      return;
    }
    const [d, ack] = this.#in.arrive(awake(), c);
    if (d !== undefined) {
      this.#waiting.push(d);
      void this.#handleAll();
    }
    if (ack !== undefined) this.#ack(ack); // after the command is queued: 0 says that it is
  }

  #ack(a: Ack): void {
    this.#send?.({ case: "commandAck", value: create(CommandAckSchema, a) });
  }

  /** Gives commands to the application, one after the other. */
  async #handleAll(): Promise<void> {
    if (this.#handling) return;
    this.#handling = true;
    for (let d = this.#waiting.shift(); d !== undefined; d = this.#waiting.shift()) {
      let reply: Uint8Array = empty;
      let code: number = Code.ok;
      let detail = "";
      try {
        reply = await this.#handle(d);
        if (reply.length > Limit.replyBytes) {
          [reply, code, detail] = [empty, Code.commandTooLarge, "the reply is too large"];
        }
      } catch (e) {
        // Only a DianError's detail travels: other texts may hold names.
        code = e instanceof DianError && e.code !== Code.ok ? e.code : Code.peerRefused;
        detail = e instanceof DianError ? cutText(e.detail, Limit.detailBytes) : "";
      }
      const ack = this.#in.handled(d, code, reply, detail);
      if (ack !== undefined) this.#ack(ack);
    }
    this.#handling = false;
  }

  async #handle(d: Incoming): Promise<Uint8Array> {
    const { data, meta } = d;
    const cmd: CmdData = { source: d.source, sendId: d.id, data, meta, text: () => toText(data) };
    const handle = this.#options.handleCmd;
    return new Promise((resolve, reject) => {
      if (handle === undefined) {
        this.#emitter.emit("cmdData", cmd, () => resolve(empty));
        return;
      }
      this.#emitter.run(() => {
        Promise.resolve().then(() => handle(cmd)).then((r) => resolve(r === undefined ? empty : toBytes(r).slice()), reject);
      });
    });
  }
}

/** A random number of 64 bits that is not 0. */
function random64(): bigint {
  for (;;) {
    const n = crypto.getRandomValues(new BigUint64Array(1))[0] as bigint;
    if (n !== 0n) return n;
  }
}
