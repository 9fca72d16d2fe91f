// Received content as text to look at, and as a download.

const readableMost = 64 << 10;

/** A buffer's beginning as text, if it is one. */
export function readable(type: string, data: Uint8Array): string | undefined {
  if (data.length === 0 || (type !== "" && !/^text\/|json|xml|javascript/.test(type))) return undefined;
  try {
    const s = new TextDecoder("utf-8", { fatal: data.length <= readableMost }).decode(data.subarray(0, readableMost));
    return s.includes("\0") ? undefined : data.length > readableMost ? `${s}…` : s;
  } catch {
    return undefined;
  }
}

/** Gives bytes to the browser's downloads, without a type: nothing opens them (case 120). */
export function saveBlob(blob: Blob, name: string): void {
  const url = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
  const a = document.createElement("a");
  a.href = url;
  a.download = name;
  a.rel = "noopener";
  a.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
