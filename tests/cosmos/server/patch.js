"use strict";
/* Partial updates: up to ten operations on one document, all or none. */

const { badRequest, preconditionFailed } = require("./errors");
const { checkConditions } = require("./documents");
const { evaluate } = require("./engine");

const MOST_OPERATIONS = 10;

/** The document after the patch, stored. */
function patch(documents, key, id, { operations, condition }, conditions) {
  const present = documents.read(key, id);
  checkConditions(present, conditions);
  if (!Array.isArray(operations) || !operations.length) throw badRequest("A patch needs at least one operation.");
  if (operations.length > MOST_OPERATIONS) throw badRequest("The number of patch operations can't exceed 10.");
  if (condition && !evaluate(`SELECT * ${condition}`, [present]).length) throw preconditionFailed();
  const document = JSON.parse(JSON.stringify(present));
  operations.forEach((operation, index) => apply(documents.definition, document, operation, index));
  return documents.replace(key, id, document);
}

function apply(definition, document, { op, path, value, from }, index) {
  const refuse = (why) => badRequest(`For Operation(${index + 1}): ${why}`);
  const check = (name) => {
    if (typeof name !== "string" || !name.startsWith("/") || name === "/") throw refuse("Invalid path.");
    if (/^\/(_rid|_self|_etag|_ts|_attachments|id)(\/|$)/.test(name)) throw refuse(`${name} can't be patched.`);
    if (definition.paths.includes(name)) throw refuse("The partition key can't be patched.");
  };
  check(path);
  if (op === "move") {
    check(from);
    if (path === from || path.startsWith(`${from}/`)) throw refuse("Can't move a value into itself.");
    const source = place(document, from, refuse);
    if (!source.there) throw refuse("There is nothing to move.");
    const moved = source.value;
    source.remove();
    place(document, path, refuse).add(moved);
    return;
  }
  const target = place(document, path, refuse);
  if ((op === "remove" || op === "replace") && !target.there) throw refuse(`Nothing to ${op} at ${path}.`);
  if (op === "remove") target.remove();
  else if (op === "add") target.add(value);
  else if (op === "set" || op === "replace") target.set(value);
  else if (op === "incr") target.set(sum(target.value, value, refuse));
  else throw refuse(`Unknown operation ${op}.`);
}

function sum(present, value, refuse) {
  if (typeof value !== "number") throw refuse("The increment must be a number.");
  if (present !== undefined && typeof present !== "number") throw refuse("What is incremented must be a number.");
  return (present || 0) + value;
}

/** Where a path leads: in an object, or in an array, where adding inserts. The parent must be there. */
function place(document, path, refuse) {
  const steps = path
    .slice(1)
    .split("/")
    .map((step) => step.replace(/~1/g, "/").replace(/~0/g, "~"));
  const last = steps.pop();
  const parent = steps.reduce(
    (value, step) => (value && typeof value === "object" ? value[step] : undefined),
    document
  );
  if (Array.isArray(parent)) return inArray(parent, last, refuse);
  if (!parent || typeof parent !== "object") throw refuse("A path can't be created recursively.");
  const set = (value) => {
    parent[last] = value;
  };
  return { there: last in parent, value: parent[last], set, add: set, remove: () => delete parent[last] };
}

function inArray(array, step, refuse) {
  const index = step === "-" ? array.length : Number(step);
  if (!Number.isInteger(index) || index < 0 || index > array.length) throw refuse("The index is out of bounds.");
  return {
    there: index < array.length,
    value: array[index],
    set(value) {
      if (index >= array.length) throw refuse("The index is out of bounds.");
      array[index] = value;
    },
    add: (value) => array.splice(index, 0, value),
    remove: () => array.splice(index, 1),
  };
}

module.exports = { patch };
