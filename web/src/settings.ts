// What the browser remembers of a person's choices. Tokens are never among them (case 118).

export type Language = "en" | "zh";
export type Theme = "auto" | "light" | "dark";

function read(key: string): string {
  try {
    return localStorage.getItem(`dian.${key}`) ?? "";
  } catch {
    return ""; // storage is switched off
  }
}

function write(key: string, value: string): void {
  try {
    localStorage.setItem(`dian.${key}`, value);
  } catch {
    // Then it counts for this tab alone.
  }
}

export function language(): Language {
  const chosen = read("language");
  if (chosen === "en" || chosen === "zh") return chosen;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export function setLanguage(l: Language): void {
  write("language", l);
}

export function theme(): Theme {
  const t = read("theme");
  return t === "light" || t === "dark" ? t : "auto";
}

export function setTheme(t: Theme): void {
  write("theme", t);
  document.documentElement.dataset["theme"] = t;
}

/** From whom a user of an app always accepts. */
export class Friends {
  readonly #key: string;
  readonly #names: Set<string>;

  constructor(app: string, user: string) {
    this.#key = `accept.${JSON.stringify([app, user])}`;
    let names: unknown;
    try {
      names = JSON.parse(read(this.#key) || "[]");
    } catch {
      names = [];
    }
    this.#names = new Set(Array.isArray(names) ? names.filter((n): n is string => typeof n === "string") : []);
  }

  has(name: string): boolean {
    return this.#names.has(name);
  }

  set(name: string, yes: boolean): void {
    if (yes) this.#names.add(name);
    else this.#names.delete(name);
    write(this.#key, JSON.stringify([...this.#names]));
  }
}
