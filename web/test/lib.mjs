// A real relay in dev mode and pages of it in Chromium.
import { execFileSync, spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

export const dian = process.env.DIAN ?? "/nonexistent/set-DIAN";

export async function folder() {
  return mkdtemp(join(tmpdir(), "dian-page-"));
}

/** Starts `dian serve --dev`; `stop` ends it. */
export const relay = (...flags) => serve(["--dev", ...flags], {});

const secret = "a secret of the tests that is long enough";

/** Starts a relay as people run it: with an app of its own, whose tokens `token` makes. */
export async function ownRelay(...flags) {
  const env = { DIAN_APP: "ward", DIAN_SECRET: secret };
  const r = await serve(flags, env);
  r.token = async (user, ...more) => {
    const file = join(await folder(), "secret");
    await writeFile(file, secret);
    return execFileSync(dian, ["token", "--app", "ward", "--secret-file", file, "--user", user, ...more], { encoding: "utf8" }).trim();
  };
  return r;
}

async function serve(flags, env) {
  const dir = await folder();
  const at = join(dir, "address");
  const child = spawn(dian, ["serve", "--listen", "127.0.0.1:0", "--listen-file", at, "--log-level", "warn", ...flags], { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
  let out = "";
  let errors = "";
  child.stdout.on("data", (d) => (out += d));
  child.stderr.on("data", (d) => (errors += d));
  const ended = new Promise((resolve) => child.on("close", resolve));
  let address = "";
  while (address === "") {
    address = (await readFile(at, "utf8").catch(() => "")).trim();
    if (address === "" && child.exitCode !== null) throw new Error(`dian serve ended: ${errors}`);
    if (address === "") await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    url: `http://${address.replace("[::]", "127.0.0.1")}/`, out: () => out,
    /** May be called again. */
    async stop() {
      child.kill("SIGKILL");
      await ended;
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** Starts Chromium with a folder of its own. */
export async function browser(options = {}) {
  const dir = await folder();
  const context = await chromium.launchPersistentContext(dir, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, acceptDownloads: true, viewport: { width: 1280, height: 800 }, locale: "en-GB", ...options,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  context.setDefaultTimeout(60_000);
  return { context, async stop() {
    await context.close();
    await rm(dir, { recursive: true, force: true });
  } };
}

/** Opens a page; what it prints as an error, or is refused by its policy, is gathered in `faults`. */
export async function open(context, url, faults = []) {
  const page = await context.newPage();
  page.on("pageerror", (e) => faults.push(`page: ${e}`));
  page.on("console", (m) => {
    // A line that is cut on purpose is an error to the browser, and none to us.
    if (m.type() === "error" && !/ERR_|WebSocket connection|status of 4(?:04|09|10|23)|status of 50|Cross-Origin-Opener-Policy header has been ignored/.test(m.text())) faults.push(`console: ${m.text()}`);
  });
  await page.goto(url);
  return page;
}

/** Lets a page send at most so many bytes a second, until the returned function is called. */
export async function slowly(page, bytesPerSecond) {
  const cdp = await page.context().newCDPSession(page);
  const atMost = (uploadThroughput) => cdp.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput });
  await cdp.send("Network.enable");
  await atMost(bytesPerSecond);
  return async () => {
    await atMost(-1);
    await cdp.detach();
  };
}

/** Signs in by name. */
export async function signIn(page, name) {
  await page.locator("#who").fill(name);
  await page.locator("#who").press("Enter");
  await page.locator(".pill[data-line=up]").waitFor();
}

/** Chooses whom to send to, by name. */
export async function choose(page, name) {
  await page.locator(".person", { has: page.getByText(name, { exact: true }) }).click();
  await page.locator("#message").waitFor();
}
