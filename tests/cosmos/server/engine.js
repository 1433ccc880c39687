"use strict";
/* The query engine, @zeit/cosmosdb-query, with what it lacks: functions, the rule that ORDER BY needs an index,
   and values of any length in linear time. It takes plain SQL and documents; what it cannot parse is dealt with in
   query.js. */

const { CosmosError, badRequest } = require("./errors");
const { checkOrderBy, keepsUndefined } = require("./indexing");
const makeQuery = require("@zeit/cosmosdb-query").default;
const functions = require("@zeit/cosmosdb-query/lib/builtin-functions");
const helpers = require("@zeit/cosmosdb-query/lib/helpers");
const { VECTOR_FUNCTIONS, TEXT_FUNCTIONS } = require("./search");

const MOST_COMPILED = 500;
const compiled = new Map();

/** One page: `{ result, continuation }`. Whatever a query does wrong is a bad request. */
function execute(sql, documents, { parameters = [], container, maxItemCount, continuation } = {}) {
  try {
    // The engine hands its composite indexes on to `sort`, which we replace: so the whole policy goes that way.
    return compile(sql).exec(documents, {
      parameters,
      udf: {},
      maxItemCount,
      continuation,
      compositeIndexes: container,
    });
  } catch (error) {
    if (error instanceof CosmosError) throw error;
    throw badRequest(`${error.message} in: ${sql}`);
  }
}

/** All rows. */
const evaluate = (sql, documents, parameters) => execute(sql, documents, { parameters }).result;

function compile(sql) {
  if (!compiled.has(sql)) {
    if (compiled.size >= MOST_COMPILED) compiled.clear();
    compiled.set(sql, makeQuery(sql));
  }
  return compiled.get(sql);
}

// ---------- ORDER BY

const TYPES = ["undefined", "null", "boolean", "number", "string", "array", "object"];
const typeOf = (value) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);

function compare(a, b) {
  const byType = TYPES.indexOf(typeOf(a)) - TYPES.indexOf(typeOf(b));
  if (byType || a === b || typeof a === "object" || a === undefined) return byType;
  return a < b ? -1 : 1;
}

// Without ORDER BY the order is that of creation, which a continuation relies on.
helpers.sort = (rows, ridOf, container, ...orders) => {
  const paths = orders.map(([[, ...steps], descending]) => ({
    path: `/${steps.join("/")}`,
    descending: Boolean(descending),
  }));
  if (container && orders.length) checkOrderBy(container, paths);
  const valueOf = (row, keys) =>
    keys.reduce((value, key) => (value && typeof value === "object" ? value[key] : undefined), row);
  const sorted = rows.slice().sort((a, b) => {
    for (const [keys, descending] of orders) {
      const order = compare(valueOf(a, keys), valueOf(b, keys));
      if (order) return descending ? -order : order;
    }
    return compare(ridOf(a), ridOf(b));
  });
  if (orders.length !== 1 || (container && keepsUndefined(container, paths[0].path))) return sorted;
  return sorted.filter((row) => valueOf(row, orders[0][0]) !== undefined);
};

// ---------- values: the engine's own copies an array once per element, a second for a vector

helpers.stripUndefined = (value) => {
  if (Array.isArray(value)) return value.filter((v) => v !== undefined).map(helpers.stripUndefined);
  if (!value || typeof value !== "object") return value;
  const defined = Object.entries(value).filter(([, v]) => v !== undefined);
  return Object.fromEntries(defined.map(([name, v]) => [name, helpers.stripUndefined(v)]));
};

// ---------- functions

const isText = (...values) => values.every((value) => typeof value === "string");
const lower = (text, ignoreCase) => (ignoreCase === true ? text.toLowerCase() : text);
const onTexts = (test) => (a, b, ignoreCase) =>
  isText(a, b) ? test(lower(a, ignoreCase), lower(b, ignoreCase)) : undefined;

function like(text, pattern) {
  if (!isText(text, pattern)) return undefined;
  const escaped = pattern.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${escaped.replace(/%/g, "[\\s\\S]*").replace(/_/g, "[\\s\\S]")}$`).test(text);
}

const contains = functions.ARRAY_CONTAINS;
Object.assign(functions, VECTOR_FUNCTIONS, TEXT_FUNCTIONS, {
  CONTAINS: onTexts((a, b) => a.includes(b)),
  STARTSWITH: onTexts((a, b) => a.startsWith(b)),
  ENDSWITH: onTexts((a, b) => a.endsWith(b)),
  STRINGEQUALS: onTexts((a, b) => a === b),
  REPLACE: (text, from, to) => (isText(text, from, to) ? text.split(from).join(to) : undefined),
  LIKE_: like,
  IIF: (condition, a, b) => (condition === true ? a : b),
  ARRAY_CONTAINS_ANY: (array, ...wanted) =>
    Array.isArray(array) ? wanted.flat().some((value) => contains(array, value)) : undefined,
  ARRAY_CONTAINS_ALL: (array, ...wanted) =>
    Array.isArray(array) ? wanted.flat().every((value) => contains(array, value)) : undefined,
  GETCURRENTTIMESTAMP: () => Date.now(),
  GETCURRENTDATETIME: () => new Date().toISOString(),
});

module.exports = { evaluate, execute };
