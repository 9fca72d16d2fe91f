// Screenshots for the documentation and for looking: node test/shots.mjs FOLDER
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { deflateSync } from "node:zlib";
import { join } from "node:path";
import { browser, choose, folder, open, relay, signIn } from "./lib.mjs";

const to = process.argv[2] ?? "shots";
mkdirSync(to, { recursive: true });

/** A picture of hills, so that there is something to look at. */
function picture(width, height) {
  const raw = Buffer.alloc((width * 3 + 1) * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const sky = y / height;
      let c = [250 - 70 * (1 - sky), 214 - 20 * (1 - sky), 170 + 60 * (1 - sky)];
      for (const [n, base] of [[0, 0.45], [1, 0.58], [2, 0.74]]) {
        const hill = base + 0.07 * Math.sin(x / (70 + 40 * n) + 2 * n) + 0.03 * Math.sin(x / (23 + 9 * n) + n);
        if (y / height > hill) c = [96 - 36 * n, 148 - 36 * n, 150 - 40 * n];
      }
      if ((x - width * 0.72) ** 2 + (y - height * 0.24) ** 2 < (height * 0.09) ** 2 && sky < 0.5) c = [255, 244, 214];
      raw.set(c.map(Math.round), y * (width * 3 + 1) + 1 + x * 3);
    }
  }
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const out = Buffer.alloc(8 + body.length);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    let crc = -1;
    for (const b of body) {
      crc ^= b;
      for (let k = 0; k < 8; k++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    }
    out.writeUInt32BE((crc ^ -1) >>> 0, 4 + body.length);
    return out;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", head), chunk("IDAT", deflateSync(raw)), chunk("IEND", Buffer.alloc(0))]);
}

const dir = await folder();
const video = join(dir, "scan-2026-11.tar");
writeFileSync(video, "");
truncateSync(video, 3 * 2 ** 29);
const r = await relay("--lan", "--listen", "0.0.0.0:0");
r.url = r.url.replace("0.0.0.0", "127.0.0.1");

const looks = [
  ["desktop-light-en", { viewport: { width: 1280, height: 800 }, colorScheme: "light", locale: "en-GB" }],
  ["desktop-dark-zh", { viewport: { width: 1280, height: 800 }, colorScheme: "dark", locale: "zh-CN" }],
  ["phone-light-zh", { viewport: { width: 390, height: 844 }, colorScheme: "light", locale: "zh-CN", deviceScaleFactor: 2 }],
  ["phone-dark-en", { viewport: { width: 390, height: 844 }, colorScheme: "dark", locale: "en-GB", deviceScaleFactor: 2 }],
].filter(([name]) => process.argv[3] === undefined || name.includes(process.argv[3]));
const faults = [];
for (const [name, options] of looks) {
  const zh = options.locale.startsWith("zh");
  const phone = options.viewport.width < 860;
  const b = await browser(options);
  try {
    const shot = async (page, what) => {
      await page.waitForTimeout(300);
      await page.screenshot({ path: join(to, `${name}-${what}.png`) });
    };
    const a = await open(b.context, r.url, faults);
    await shot(a, "signin");
    await signIn(a, "alice");
    await shot(a, "empty");
    const c = await open(b.context, r.url, faults);
    await signIn(c, "bob");
    const d = await open(b.context, r.url, faults);
    await signIn(d, zh ? "陈医生" : "dr.chen");
    if (phone) await a.locator(".tabs button").first().click();
    await choose(a, "bob");
    await choose(c, "alice");
    const say = async (page, text) => {
      await page.locator("#message").fill(text);
      await page.locator("#message").press("Enter");
      await page.locator(".bubble.out", { hasText: text }).locator(".status", { hasText: /delivered|已送达/ }).waitFor();
    };
    await say(a, zh ? "片子和录像都准备好了，现在发给你？" : "The photo and the scan are ready. Shall I send them?");
    await say(c, zh ? "好的，发吧" : "Yes please");
    const send = (page, files) => page.locator("#picker").setInputFiles(files);
    await send(a, { name: zh ? "现场照片.png" : "view from the ward.png", mimeType: "image/png", buffer: picture(640, 360) });
    await c.locator(".offer .main").click();
    await a.locator(".talk .card.done").first().waitFor();
    await send(a, video);
    await c.locator(".offer").waitFor();
    await shot(c, "offer");
    await c.locator(".offer .main").click();
    await a.waitForFunction(() => [...document.querySelectorAll(".talk progress")].some((p) => p.value > 0.03));
    await a.waitForTimeout(2000);
    await d.locator(".person", { hasText: "alice" }).click();
    await say(d, zh ? "我这边也需要一份" : "I need a copy of that as well");
    await shot(a, "talk");
    if (phone) {
      await a.locator(".tabs button").nth(2).click();
      await shot(a, "activity");
      await a.locator(".tabs button").nth(0).click();
      await shot(a, "people");
      await a.locator(".tabs button").nth(2).click();
    }
    await a.locator(".toys button").first().click();
    await shot(a, "cut");
    await a.waitForTimeout(1500);
    await a.locator(".toys button").nth(1).click();
    await a.locator(".banner:not(.bad):visible").first().waitFor({ timeout: 5000 }).catch(() => {});
    await shot(a, "down");
    await a.locator(".pill[data-line=up]").waitFor();
    await a.waitForTimeout(1500);
    await shot(a, "again");
    await a.locator(".toys button").nth(2).click();
    await a.locator("dialog .qr").waitFor();
    await shot(a, "invite");
    await a.keyboard.press("Escape");
    await a.locator(".activity .icon-only:visible").first().click({ timeout: 2000 }).catch(() => {}); // unless it is whole by now
    await c.close();
    if (phone) await a.locator(".tabs button").nth(1).click();
    await a.locator("#message").fill(zh ? "在吗？" : "are you there?");
    await a.locator("#message").press("Enter");
    await a.locator(".bubble.failed").waitFor();
    await shot(a, "failed");
  } catch (e) {
    console.log(name, e);
    for (const [n, p] of b.context.pages().entries()) await p.screenshot({ path: join(to, `${name}-fault-${n}.png`) }).catch(() => {});
  }
  await b.stop();
}
console.log(faults);
await r.stop();
