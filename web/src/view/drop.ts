// Files that are dropped or pasted.
import type { App } from "../app.js";
import { shownName } from "../format.js";
import { w } from "../words.js";

/** The files of a drop; folders are said to be none. */
function filesOf(data: DataTransfer, app: App): File[] {
  const files: File[] = [];
  for (const item of data.items) {
    if (item.kind !== "file") continue;
    const file = item.getAsFile();
    if (item.webkitGetAsEntry?.()?.isDirectory === true) app.notice(w.noFolders(shownName(file?.name ?? "")));
    else if (file !== null) files.push(file);
  }
  return files;
}

/** Lets files be dropped on an element, for whoever `to` says. */
export function dropTarget(el: HTMLElement, to: () => string | undefined, app: App, asBuffers: () => boolean = () => false): void {
  let depth = 0; // dragenter and dragleave come for every child too
  const leave = () => {
    depth = 0;
    el.classList.remove("dropping");
  };
  const isFiles = (e: DragEvent) => e.dataTransfer?.types.includes("Files") === true;
  el.addEventListener("dragenter", (e) => {
    if (!isFiles(e)) return;
    e.preventDefault();
    depth++;
    el.classList.add("dropping");
  });
  el.addEventListener("dragover", (e) => {
    if (!isFiles(e)) return;
    e.preventDefault();
    if (e.dataTransfer !== null) e.dataTransfer.dropEffect = to() === undefined ? "none" : "copy";
  });
  el.addEventListener("dragleave", () => {
    if (--depth <= 0) leave();
  });
  el.addEventListener("drop", (e) => {
    leave();
    const who = to();
    if (!isFiles(e) || e.dataTransfer === null) return;
    e.preventDefault();
    e.stopPropagation();
    if (who === undefined) return;
    app.select(who);
    app.sendFiles(who, filesOf(e.dataTransfer, app), asBuffers());
  });
}
