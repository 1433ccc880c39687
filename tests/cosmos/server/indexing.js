"use strict";
/* The indexing policy: what a container may be created with, and what ORDER BY may be asked of it. */

const { badRequest } = require("./errors");

const DEFAULT_POLICY = {
  indexingMode: "consistent",
  automatic: true,
  includedPaths: [{ path: "/*" }],
  excludedPaths: [{ path: '/"_etag"/?' }],
};
const MOST_FLAT_DIMENSIONS = 505;
const MOST_DIMENSIONS = 4096;

/** A container's properties as the service gives them back; refuses what contradicts itself. */
function withDefaults(properties) {
  const policy = { ...DEFAULT_POLICY, ...properties.indexingPolicy };
  const embeddings = properties.vectorEmbeddingPolicy?.vectorEmbeddings || [];
  for (const { dimensions, path } of embeddings) {
    if (!(dimensions >= 1 && dimensions <= MOST_DIMENSIONS))
      throw badRequest(`The dimensions of ${path} are out of range.`);
  }
  for (const { path, type } of policy.vectorIndexes || []) {
    const embedding = embeddings.find((candidate) => candidate.path === path);
    if (!embedding) throw badRequest(`The vector index ${path} is not in the vector embedding policy.`);
    if (type === "flat" && embedding.dimensions > MOST_FLAT_DIMENSIONS) {
      throw badRequest(`A flat vector index has at most ${MOST_FLAT_DIMENSIONS} dimensions.`);
    }
  }
  const texts = (properties.fullTextPolicy?.fullTextPaths || []).map(({ path }) => path);
  for (const { path } of policy.fullTextIndexes || []) {
    if (!texts.includes(path)) throw badRequest(`The full text index ${path} is not in the full text policy.`);
  }
  const paths = properties.partitionKey?.paths || ["/id"];
  return {
    ...properties,
    partitionKey: { kind: "Hash", version: 2, ...properties.partitionKey, paths },
    indexingPolicy: policy,
  };
}

/** Refuse an ORDER BY for which there is no index. */
function checkOrderBy({ indexingPolicy }, orders) {
  if (orders.length === 1) {
    if (isIndexed(indexingPolicy, orders[0].path)) return;
    throw badRequest("The index path corresponding to the specified order-by item is excluded.");
  }
  const composites = indexingPolicy.compositeIndexes || [];
  if (composites.some((index) => serves(index, orders))) return;
  throw badRequest("The order by query does not have a corresponding composite index that it can be served from.");
}

/** A composite index serves its own order and the exact opposite. */
function serves(index, orders) {
  const descends = ({ order }) => (order || "ascending").toLowerCase() === "descending";
  const flips = index.map((part, at) => descends(part) !== orders[at]?.descending);
  return (
    index.length === orders.length &&
    index.every((part, at) => plain(part.path) === orders[at].path) &&
    new Set(flips).size === 1
  );
}

/** Of the included and excluded paths that cover a path, the longest decides. */
function isIndexed(policy, path) {
  if (path === "/id" || path === "/_ts") return policy.indexingMode !== "none"; // always, says the documentation
  const longest = (paths) => Math.max(-1, ...(paths || []).map((entry) => covers(entry.path, path)));
  return longest(policy.includedPaths) > longest(policy.excludedPaths);
}

/** How specifically a policy's path covers a property's path: -1 not at all, "/*" 0, deeper ones more. */
function covers(pattern, path) {
  const base = plain(pattern).replace(/\/[*?]$/, "");
  if (pattern.endsWith("/*")) return path === base || path.startsWith(`${base}/`) ? 2 * depth(base) : -1;
  return path === base ? 2 * depth(base) + 1 : -1;
}

const plain = (path) => path.replace(/"/g, "");
const depth = (path) => path.split("/").length - 1;

/** Items that lack the property are in the order only where the policy names the path itself. */
const keepsUndefined = ({ indexingPolicy }, path) =>
  (indexingPolicy.includedPaths || []).some((entry) => plain(entry.path) === `${path}/?`);

module.exports = { withDefaults, checkOrderBy, keepsUndefined };
