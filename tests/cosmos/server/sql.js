"use strict";
/* Reading SQL just enough to take it apart: its clauses, the arguments of a call, calls by name. Text in quotes
   and in brackets is passed over. */

const CLAUSE = /(SELECT|FROM|WHERE|GROUP\s+BY|ORDER\s+BY|OFFSET)\b/iy;

/** Call `visit(position)` wherever the SQL is outside of quotes and brackets; it may return where to go on. */
function scan(sql, visit) {
  let depth = 0;
  for (let at = 0; at < sql.length; at++) {
    const c = sql[at];
    if (c === "'" || c === '"') at = endOfText(sql, at);
    else if ("([{".includes(c)) depth += 1;
    else if (")]}".includes(c)) depth -= 1;
    else if (depth === 0) {
      const next = visit(at);
      if (next) at = next - 1;
    }
  }
}

function endOfText(sql, at) {
  const quote = sql[at];
  let end = at + 1;
  while (end < sql.length && sql[end] !== quote) end += sql[end] === "\\" ? 2 : 1;
  return end;
}

/** `{ SELECT, FROM, WHERE, ... }`: what follows each of the outermost keywords. */
function clausesOf(sql) {
  const marks = [];
  scan(sql, (at) => {
    if (at && /[\w.@$]/.test(sql[at - 1])) return undefined;
    CLAUSE.lastIndex = at;
    const match = CLAUSE.exec(sql);
    if (!match) return undefined;
    const end = at + match[0].length;
    marks.push({ name: match[1].toUpperCase().replace(/\s+/, " "), start: at, end });
    return end;
  });
  const clauses = {};
  marks.forEach(({ name, end }, i) => {
    if (!(name in clauses)) clauses[name] = sql.slice(end, marks[i + 1]?.start).trim();
  });
  return clauses;
}

/** The parts between the commas. */
function partsOf(text) {
  const parts = [];
  let start = 0;
  scan(text, (at) => {
    if (text[at] !== ",") return;
    parts.push(text.slice(start, at).trim());
    start = at + 1;
  });
  return [...parts, text.slice(start).trim()];
}

/** The SQL with all that stands in quotes blanked, to look for names in. */
function withoutTexts(sql) {
  let out = "";
  for (let at = 0; at < sql.length; at++) {
    if (sql[at] === "'" || sql[at] === '"') {
      const end = endOfText(sql, at);
      out += " ".repeat(end - at + 1);
      at = end;
    } else out += sql[at];
  }
  return out;
}

/** Calls of functions whose name matches, in order: `{ name, start, end, args }`. */
function callsOf(sql, names) {
  const calls = [];
  const bare = withoutTexts(sql);
  for (const match of bare.matchAll(new RegExp(`\\b(${names})\\s*\\(`, "gi"))) {
    const open = match.index + match[0].length;
    let depth = 1;
    let end = open;
    for (; end < bare.length && depth; end++) depth += bare[end] === "(" ? 1 : bare[end] === ")" ? -1 : 0;
    calls.push({ name: match[1].toUpperCase(), start: match.index, end, args: partsOf(sql.slice(open, end - 1)) });
  }
  return calls;
}

const LIKE = /([\w.@]+(?:\[[^\]]*\])*(?:\.\w+)*)\s+(NOT\s+)?LIKE\s+('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|@\w+)/gi;

/** LIKE as the call of a function, for the engine does not know it. */
const withoutLike = (sql) =>
  sql.replace(LIKE, (_, value, not, pattern) => `${not ? "NOT " : ""}LIKE_(${value}, ${pattern})`);

module.exports = { clausesOf, partsOf, callsOf, withoutLike };
