// The browser's own downloads.

const keepUrl = 60_000; // ms; a download that has begun does not need its URL any more

/** Lets the browser fetch a URL into its downloads. The server says attachment, so the page stays. */
export function download(url: string, safeName: string): void {
  const a = document.createElement("a");
  a.href = url;
  a.download = safeName;
  a.rel = "noopener noreferrer";
  a.style.display = "none";
  document.body.append(a);
  a.click();
  a.remove();
}

/** Gives a Blob to the browser's downloads, as bytes of no type (case 120). */
export function saveByBrowser(blob: Blob, safeName: string): void {
  const url = URL.createObjectURL(blob);
  download(url, safeName);
  setTimeout(() => URL.revokeObjectURL(url), keepUrl);
}
