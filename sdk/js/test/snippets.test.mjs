// What the documents show of JavaScript fits the SDK's types.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import ts from "typescript";
import { here } from "./lib.mjs";

const root = join(here, "..");

/** Names that snippets take from the page around them. */
const around = `
declare const client: import("@dian-im/sdk").Client;
declare const p2p: import("@dian-im/sdk/compat").PointToPoint;
declare const token: string;
declare const data: Uint8Array<ArrayBuffer>;
declare const bar: HTMLProgressElement;
declare const stop: HTMLButtonElement;
declare const input: { files: FileList };
declare const list: { append(name: string, onclick: () => Promise<string>): void };
declare function download(file: Blob | string | undefined, name: string): void;
`;

/** The errors of snippets, each checked as a module of its own. */
function check(snippets) {
  const files = new Map(snippets.map(({ name, code }, i) => {
    const here = new Set([...code.matchAll(/(?:const|let|function) (?:\{ )?(\w+)|import \{ (.*?) \}/g)].flatMap((m) => (m[1] ?? m[2]).split(", ")));
    const given = around.split("\n").filter((line) => !here.has(/(?:const|function) (\w+)/.exec(line)?.[1])).join("\n");
    const old = [...new Set([...code.matchAll(/\bCRVideo_(\w+)/g)].map((m) => m[1]))].map((n) => `declare const CRVideo_${n}: import("@dian-im/sdk/compat").WebNames["${n}"];`).join("\n");
    return [join(root, `snippet-${i}.mts`), { name, text: `${given}\n${old}\nexport {};\n${code}` }];
  }));
  const options = { module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext, target: ts.ScriptTarget.ES2022, lib: ["lib.es2023.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"], strict: true, noImplicitAny: false, noEmit: true, skipLibCheck: true, types: [] };
  const host = ts.createCompilerHost(options);
  const { readFile: read, fileExists: exists, getSourceFile: source } = host;
  host.readFile = (f) => files.get(f)?.text ?? read(f);
  host.fileExists = (f) => files.has(f) || exists(f);
  host.getSourceFile = (f, version, ...more) => (files.has(f) ? ts.createSourceFile(f, files.get(f).text, version) : source(f, version, ...more));
  const program = ts.createProgram([...files.keys()], options, host);
  return ts.getPreEmitDiagnostics(program).map((d) => `${files.get(d.file?.fileName)?.name ?? d.file?.fileName}: ${ts.flattenDiagnosticMessageText(d.messageText, "\n")}`);
}

test("the snippets of the documents fit the SDK's types", async () => {
  const snippets = [];
  for (const name of ["docs/migrating.md", "docs/migrating.zh-CN.md", "sdk/js/README.md"]) {
    const text = await readFile(join(root, "../..", name), "utf8");
    const found = [...text.matchAll(/\n```js\n(.*?)```/gs)].map((m) => m[1]);
    assert.ok(found.length > 0, `${name} shows none`);
    found.forEach((code, i) => snippets.push({ name: `${name} ${i + 1}`, code }));
  }
  assert.deepEqual(check(snippets), []);
  assert.equal(check([{ name: "wrong", code: "client.sendCommand('bob', 'x');" }]).length, 1);
  assert.equal(check([{ name: "wrong", code: "CRVideo_SendCmdRslt.callback = (taskID, sdkErr) => taskID.code + sdkErr;" }]).length, 1);
});
