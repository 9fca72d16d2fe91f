// What the page reads in a token, to say it to its owner.

/** What a token says of itself; nothing here depends on its being true. */
function claimsOf(token: string): { exp?: unknown; see?: unknown } {
  try {
    return (JSON.parse(atob((token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/"))) as object | null) ?? {};
  } catch {
    return {};
  }
}

/** When a token ends, Unix ms; 0 if it does not say. */
export function expiry(token: string): number {
  const { exp } = claimsOf(token);
  return typeof exp === "number" ? exp * 1000 : 0;
}

/** Whether a token lets its user see nobody's presence. */
export function seesNobody(token: string): boolean {
  const { see } = claimsOf(token);
  return !Array.isArray(see) || see.length === 0;
}
