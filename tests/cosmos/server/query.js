"use strict";
/* A query over documents. The engine runs what it can parse; DISTINCT, GROUP BY, OFFSET and ORDER BY with a
   function are taken apart here and put together from queries that it can. */

const { badRequest } = require("./errors");
const { evaluate, execute } = require("./engine");
const { bm25, fused } = require("./search");
const { callsOf, clausesOf, partsOf, withoutLike } = require("./sql");

const FULL_TEXT = "FullTextContains|FullTextContainsAll|FullTextContainsAny|FullTextScore";

/** One page, `{ result, continuation }`, of the documents; `corpus` gives all of the container, to count words in. */
function runQuery({ query, parameters = [] }, { documents, corpus, container, maxItemCount, continuation }) {
  checkSearch(query, container);
  const sql = withDistanceFunction(withoutLike(query), container);
  const clauses = clausesOf(sql);
  const ranked = /^RANK\b|\(/i.test(clauses["ORDER BY"] || "");
  const distinct = /^DISTINCT\b/i.test(clauses.SELECT || "");
  if (!ranked && !distinct && clauses["GROUP BY"] === undefined && clauses.OFFSET === undefined) {
    return execute(sql, documents, { parameters, container, maxItemCount, continuation });
  }
  const parts = new Parts(clauses, parameters, container);
  let rows;
  if (ranked) rows = rankedRows(parts, documents, corpus);
  else if (clauses["GROUP BY"] !== undefined) rows = groupedRows(parts, documents);
  else rows = parts.all(`SELECT ${parts.select} FROM ${parts.from}${parts.where}${parts.orderBy}`, documents);
  if (distinct) rows = [...new Map(rows.map((row) => [JSON.stringify(row), row])).values()];
  return pageOf(parts.cut(rows), maxItemCount, continuation);
}

/** The clauses of a query as the ways to rebuild it need them. */
class Parts {
  constructor(clauses, parameters, container) {
    this.clauses = clauses;
    this.parameters = parameters;
    this.container = container;
    this.from = clauses.FROM || "c";
    this.where = clauses.WHERE ? ` WHERE ${clauses.WHERE}` : "";
    this.orderBy = clauses["ORDER BY"] ? ` ORDER BY ${clauses["ORDER BY"]}` : "";
    this.limit = { from: 0, count: Infinity };
    this.select = clauses.SELECT.replace(/^DISTINCT\s+/i, "").replace(/^TOP\s+(@\w+|\d+)\s+/i, (_, number) => {
      this.limit.count = this.numberOf(number);
      return "";
    });
    this._readOffset();
  }

  _readOffset() {
    if (this.clauses.OFFSET === undefined) return;
    const match = /^(@\w+|\d+)\s+LIMIT\s+(@\w+|\d+)$/i.exec(this.clauses.OFFSET);
    if (!match) throw badRequest("Syntax error, incorrect syntax near 'OFFSET'.");
    this.limit = { from: this.numberOf(match[1]), count: this.numberOf(match[2]) };
  }

  /** The name by which the items go; only a plain FROM has one. */
  get alias() {
    const match = /^(\w+)(?:\s+(?:AS\s+)?(\w+))?$/i.exec(this.from);
    if (!match) throw badRequest("This server takes ORDER BY a function and GROUP BY only with a plain FROM.");
    return match[2] || match[1];
  }

  get limited() {
    return this.limit.count !== Infinity;
  }

  all(sql, documents) {
    return execute(sql, documents, { parameters: this.parameters, container: this.container }).result;
  }

  /** The values of an expression, one for each document; undefined where it has none. */
  values(expression, documents) {
    return documents.map((document) => this.all(`SELECT VALUE [${expression}] FROM ${this.alias}`, [document])[0][0]);
  }

  matching(documents) {
    return this.all(`SELECT VALUE ${this.alias} FROM ${this.from}${this.where}`, documents);
  }

  /** The value of an expression that does not depend on a document. */
  constant(expression) {
    return evaluate(`SELECT VALUE [${expression}] FROM ${this.alias}`, [{ _rid: "" }], this.parameters)[0][0];
  }

  numberOf(text) {
    return text[0] === "@" ? this.parameters.find(({ name }) => name === text)?.value : Number(text);
  }

  cut(rows) {
    return rows.slice(this.limit.from, this.limit.from + this.limit.count);
  }
}

// ---------- ORDER BY VectorDistance(...), ORDER BY RANK ...

function rankedRows(parts, documents, corpus) {
  const order = parts.clauses["ORDER BY"];
  const isRank = /^RANK\b/i.test(order);
  const expression = order.replace(/^RANK\s+/i, "");
  const name = /^\w+/.exec(expression)?.[0].toUpperCase();
  if (!(isRank ? ["RRF", "FULLTEXTSCORE"] : ["VECTORDISTANCE_"]).includes(name)) {
    throw badRequest(`Unsupported ORDER BY clause: ${order}`);
  }
  if (/\)\s*(ASC|DESC)$/i.test(expression)) throw badRequest("The order of a score cannot be chosen.");
  if (!parts.limited) throw badRequest("A search needs TOP or OFFSET LIMIT.");
  const found = parts.matching(documents);
  const scores = scoresOf(parts, expression, found, corpus);
  const best = found
    .map((document, at) => ({ document, score: scores[at], at }))
    .filter(({ score }) => score !== null)
    .sort((a, b) => b.score - a.score || a.at - b.at);
  return best.map(({ document }) => parts.all(`SELECT ${parts.select} FROM ${parts.alias}`, [document])[0]);
}

/** One score for each document, higher is better, null for none. */
function scoresOf(parts, expression, documents, corpus) {
  const [{ name, args } = {}] = callsOf(expression, "VECTORDISTANCE_|FullTextScore|RRF");
  if (name === "VECTORDISTANCE_") return nearness(parts, expression, args, documents);
  if (name === "FULLTEXTSCORE") {
    const terms = args
      .slice(1)
      .map((term) => parts.constant(term))
      .flat();
    return bm25(parts.values(args[0], documents), terms, parts.values(args[0], corpus()));
  }
  const weighted = /^[[@]/.test(args[args.length - 1]);
  const weights = weighted ? parts.constant(args.pop()) : undefined;
  if (args.length < 2) throw badRequest("RRF needs at least two scores.");
  return fused(
    args.map((component) => scoresOf(parts, component, documents, corpus)),
    weights
  );
}

function nearness(parts, expression, args, documents) {
  const measure = args[4] ? parts.constant(args[4])?.distanceFunction : parts.constant(args[0]);
  const sign = /euclidean/i.test(measure) ? -1 : 1;
  return parts.values(expression, documents).map((value) => (value === undefined ? null : sign * value));
}

// ---------- GROUP BY

function groupedRows(parts, documents) {
  if (parts.orderBy) throw badRequest("'ORDER BY' is not supported in presence of GROUP BY.");
  const keys = partsOf(parts.clauses["GROUP BY"]);
  const groups = new Map();
  for (const document of parts.matching(documents)) {
    const values = keys.map((key) => parts.values(key, [document])[0]);
    const name = JSON.stringify(values);
    if (!groups.has(name)) groups.set(name, { values, members: [] });
    groups.get(name).members.push(document);
  }
  const only = /^VALUE\s+([\s\S]*)$/i.exec(parts.select);
  const columns = partsOf(only ? only[1] : parts.select).map((text, at) => columnOf(text, keys, at));
  const valueOf = ({ expression, key }, { values, members }) =>
    key >= 0 ? values[key] : parts.all(`SELECT VALUE ${expression} FROM ${parts.alias}`, members)[0];
  return [...groups.values()].map((group) =>
    only
      ? valueOf(columns[0], group)
      : JSON.parse(JSON.stringify(Object.fromEntries(columns.map((column) => [column.name, valueOf(column, group)]))))
  );
}

function columnOf(text, keys, at) {
  const [, expression, name] = /^([\s\S]*?)(?:\s+AS\s+(\w+))?$/i.exec(text);
  const key = keys.indexOf(expression);
  return { expression, key, name: name || (key >= 0 ? expression.split(".").pop() : `$${at + 1}`) };
}

// ---------- search functions need the container's policies

function checkSearch(sql, container) {
  const pathOf = ({ args }) => `/${args[0].split(".").slice(1).join("/")}`;
  const paths = (container.fullTextPolicy?.fullTextPaths || []).map(({ path }) => path);
  for (const call of callsOf(sql, FULL_TEXT)) {
    if (!paths.includes(pathOf(call))) throw badRequest(`${call.name} needs a full text policy for ${pathOf(call)}.`);
  }
  const { "ORDER BY": order, ...others } = clausesOf(sql);
  const misplaced = callsOf(Object.values(others).join(" "), "FullTextScore|RRF");
  if (misplaced.length) throw badRequest(`${misplaced[0].name} can stand only in ORDER BY RANK.`);
}

/** VectorDistance(c.e, ...) as VECTORDISTANCE_('cosine', c.e, ...): with the distance function of its path. */
function withDistanceFunction(sql, container) {
  const embeddings = container.vectorEmbeddingPolicy?.vectorEmbeddings || [];
  return callsOf(sql, "VectorDistance").reduceRight((text, { start, end, args }) => {
    const paths = args.slice(0, 2).map((arg) => `/${arg.split(".").slice(1).join("/")}`);
    const embedding = embeddings.find(({ path }) => paths.includes(path));
    if (!embedding) throw badRequest(`VectorDistance needs a vector embedding policy for ${paths[0]}.`);
    const measure = embedding.distanceFunction || "cosine";
    return `${text.slice(0, start)}VECTORDISTANCE_('${measure}', ${args.join(", ")})${text.slice(end)}`;
  }, sql);
}

// ---------- pages of what was put together here go by position

function pageOf(rows, maxItemCount, continuation) {
  const from = Number(/^\+OFF:(\d+)$/.exec(continuation?.token || "")?.[1] || 0);
  const to = from + maxItemCount;
  return {
    result: rows.slice(from, to),
    continuation: to < rows.length ? { token: `+OFF:${to}`, range: { min: "", max: "FF" } } : null,
  };
}

module.exports = { runQuery };
