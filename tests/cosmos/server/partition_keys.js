"use strict";
/* Partition keys: a key is the JSON of all its components, so that equal keys are equal strings.
   Also the hash ("effective partition key") by which the SDK names ranges: it asks by range for the prefix of a
   hierarchical key and for the change feed of one key. Written after the SDK's own hashing, and tested against it. */

const { badRequest } = require("./errors");

const HEADER = "x-ms-documentdb-partitionkey";
const MASK = (1n << 64n) - 1n;

function valueAt(document, path) {
  const steps = path.slice(1).split("/");
  return steps.reduce((value, step) => (value && typeof value === "object" ? value[step] : undefined), document);
}

/** The key a document belongs to; a component it lacks is {}, as in the protocol's header. */
function keyOfDocument(definition, document) {
  const components = definition.paths.map((path) => valueAt(document, path));
  return JSON.stringify(components.map((component) => (component === undefined ? {} : component)));
}

/** The full key a request names. */
function keyOfRequest(definition, headers) {
  if (headers[HEADER] === undefined) throw badRequest("PartitionKey value must be supplied for this operation.");
  const components = JSON.parse(headers[HEADER]);
  if (components.length !== definition.paths.length) {
    const message = "The partition key supplied has fewer components than defined in the collection.";
    throw badRequest(message, 1001);
  }
  return JSON.stringify(components);
}

/** The keys a query or a feed is about: one, those with a prefix, those of a range, or all (undefined). */
function keysOfRequest(definition, headers) {
  const from = headers["x-ms-start-epk"];
  const to = headers["x-ms-end-epk"];
  if (from !== undefined && to !== undefined) {
    return (key) => {
      const hash = effectiveKey(definition, key);
      return hash >= from && (hash < to || (from === to && hash === from));
    };
  }
  if (headers[HEADER] === undefined || headers[HEADER] === "[]") return undefined;
  const components = JSON.parse(headers[HEADER]);
  const wanted = JSON.stringify(components);
  if (components.length === definition.paths.length) return Object.assign((key) => key === wanted, { only: wanted });
  return (key) => JSON.stringify(JSON.parse(key).slice(0, components.length)) === wanted;
}

function effectiveKey(definition, key) {
  const components = JSON.parse(key).map(encoded);
  return definition.kind === "MultiHash" ? components.map(hash).join("") : hash(Buffer.concat(components));
}

function encoded(component) {
  if (component === false) return Buffer.from([2]);
  if (component === true) return Buffer.from([3]);
  if (component === null) return Buffer.from([1]);
  if (typeof component === "string")
    return Buffer.concat([Buffer.from([8]), Buffer.from(component), Buffer.from([255])]);
  if (typeof component !== "number") return Buffer.from([0]);
  const number = Buffer.alloc(9);
  number[0] = 5;
  number.writeDoubleLE(component, 1);
  return number;
}

const rotated = (x, by) => ((x << by) | (x >> (64n - by))) & MASK;

function mixed(x) {
  x = ((x ^ (x >> 33n)) * 0xff51afd7ed558ccdn) & MASK;
  x = ((x ^ (x >> 33n)) * 0xc4ceb9fe1a85ec53n) & MASK;
  return x ^ (x >> 33n);
}

function littleEndian(bytes, at, length) {
  let value = 0n;
  for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i]);
  return value;
}

/** MurmurHash3 x64 128 with seed 0, bytes reversed, the two highest bits cleared. */
function hash(bytes) {
  const c1 = 0x87c37b91114253d5n;
  const c2 = 0x4cf5ad432745937fn;
  const scrambled1 = (k) => (rotated((k * c1) & MASK, 31n) * c2) & MASK;
  const scrambled2 = (k) => (rotated((k * c2) & MASK, 33n) * c1) & MASK;
  let h1 = 0n;
  let h2 = 0n;
  let at = 0;
  for (; at + 16 <= bytes.length; at += 16) {
    h1 ^= scrambled1(littleEndian(bytes, at, 8));
    h1 = (((rotated(h1, 27n) + h2) & MASK) * 5n + 0x52dce729n) & MASK;
    h2 ^= scrambled2(littleEndian(bytes, at + 8, 8));
    h2 = (((rotated(h2, 31n) + h1) & MASK) * 5n + 0x38495ab5n) & MASK;
  }
  const rest = bytes.length - at;
  if (rest > 8) h2 ^= scrambled2(littleEndian(bytes, at + 8, rest - 8));
  if (rest > 0) h1 ^= scrambled1(littleEndian(bytes, at, Math.min(rest, 8)));
  h1 ^= BigInt(bytes.length);
  h2 ^= BigInt(bytes.length);
  h1 = (h1 + h2) & MASK;
  h2 = (h2 + h1) & MASK;
  h1 = mixed(h1);
  h2 = mixed(h2);
  h1 = (h1 + h2) & MASK;
  h2 = (h2 + h1) & MASK;
  const out = Buffer.alloc(16);
  out.writeBigUInt64LE(h1, 0);
  out.writeBigUInt64LE(h2, 8);
  out.reverse();
  out[0] &= 0x3f;
  return out.toString("hex").toUpperCase();
}

module.exports = { HEADER, valueAt, keyOfDocument, keyOfRequest, keysOfRequest };
