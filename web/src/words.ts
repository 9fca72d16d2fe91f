import { language, setLanguage, type Language } from "./settings.js";
import { en, type Words } from "./words/en.js";
import { zh } from "./words/zh.js";

/** The words of the language of now. */
export let w: Words = language() === "zh" ? zh : en;

/** Changes the language; the page has to be drawn again. */
export function speak(l: Language): void {
  setLanguage(l);
  w = l === "zh" ? zh : en;
  document.documentElement.lang = w.tag;
}
