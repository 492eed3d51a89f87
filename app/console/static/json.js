/** Reads the JSON that a person has typed. Pure functions. */

/** The JSON object in a text; an `Error` where it contains something else, or one key twice: only one would count. */
export function parseJsonObject(text) {
  try {
    const value = JSON.parse(text);
    if (typeof value !== "object" || value === null || Array.isArray(value)) return new TypeError(`${text.trim().slice(0, 20)} …`);
    const key = duplicateKey(text);
    return key === null ? value : new SyntaxError(`${JSON.stringify(key)} × 2`);
  } catch (error) {
    return error;
  }
}

/** The first key that an object in a valid JSON text has more than once, or null. */
function duplicateKey(text) {
  const scopes = [];
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"(?:\s*:)?|[{}[\]]/g)) {
    if (token === "{" || token === "[") scopes.push(new Set());
    else if (token === "}" || token === "]") scopes.pop();
    else if (token.endsWith(":")) {
      const key = JSON.parse(token.slice(0, token.lastIndexOf('"') + 1));
      if (scopes.at(-1).has(key)) return key;
      scopes.at(-1).add(key);
    }
  }
  return null;
}
