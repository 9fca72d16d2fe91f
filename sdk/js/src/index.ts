/**
 * The browser and Node SDK of Dian: commands, buffers and files from one logged-in
 * user to another, through a relay. `connect` is where to begin.
 *
 * @packageDocumentation
 */
import type { Client, ConnectOptions } from "./api.js";
import { DianClient } from "./core/client.js";
import { browserPlatform } from "./browser/platform.js";

export * from "./api.js";
export * from "./codes.js";
export * from "./events.js";
export { Limit } from "./limits.js";

/**
 * Logs in at a server, "https://relay.example.com" or with a path in front of ours, and
 * gives a client whose session is live. It tries once; after that the client reconnects by
 * itself until it is closed or the line is off for good.
 *
 * Errors: 203 the server cannot be reached (or refuses the page's origin), 202 no answer,
 * 1105 the signal, 5 a bad URL or option, 7 the token provider failed, 18 to 21 the token
 * was refused, 8 the server is stopping, 1111 it takes no more logins at the moment, 1402
 * received files cannot be kept.
 */
export function connect(server: string | URL, options: ConnectOptions): Promise<Client> {
  return DianClient.connect(browserPlatform, server, options);
}
