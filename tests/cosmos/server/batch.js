"use strict";
/* The transactional batch: operations on one partition key, all or nothing. */

const { CosmosError, badRequest, tooLarge } = require("./errors");
const { patch } = require("./patch");
const charges = require("./charges");

const MOST_OPERATIONS = 100;
const LARGEST_BATCH = 2 * 1024 * 1024;

/** The answer to a batch: 200 and what each did, or 207, where all but the one to blame have 424. */
function runBatch(documents, key, operations, headers) {
  if (!Array.isArray(operations) || !operations.length) throw badRequest("Invalid request body");
  if (!/true/i.test(headers["x-ms-cosmos-batch-atomic"] || ""))
    throw badRequest("Only atomic batches are supported.");
  if (operations.length > MOST_OPERATIONS) {
    throw badRequest("Batch request has more operations than what is supported.");
  }
  if (charges.sizeOf(operations) > LARGEST_BATCH) throw tooLarge();
  let running = 0;
  try {
    const results = documents.transact(() =>
      operations.map((operation, index) => {
        running = index;
        return runOne(documents, key, operation);
      })
    );
    return { status: 200, body: results, charge: total(results), rows: results.length };
  } catch (error) {
    if (!(error instanceof CosmosError)) throw error;
    const body = operations.map((_, index) =>
      index === running
        ? { statusCode: error.status, subStatusCode: error.substatus, requestCharge: 0, message: error.message }
        : { statusCode: 424, requestCharge: 0 }
    );
    return { status: 207, body, charge: 5, rows: 0 };
  }
}

function runOne(documents, key, { operationType, id, resourceBody, ifMatch, ifNoneMatch }) {
  const conditions = { ifMatch, ifNoneMatch };
  switch (operationType) {
    case "Create":
      return written(201, documents.create(key, resourceBody));
    case "Upsert": {
      const { created, document } = documents.upsert(key, resourceBody, conditions);
      return written(created ? 201 : 200, document);
    }
    case "Replace":
      return written(200, documents.replace(key, id, resourceBody, conditions));
    case "Patch":
      return written(200, patch(documents, key, id, resourceBody, conditions));
    case "Delete":
      return { statusCode: 204, requestCharge: charges.ofWrite(documents.delete(key, id, conditions)) };
    case "Read":
      return readOne(documents.read(key, id), ifNoneMatch);
    default:
      throw badRequest(`Operation type '${operationType}' is not supported in Batch.`);
  }
}

function readOne(document, ifNoneMatch) {
  if (ifNoneMatch === document._etag) return { statusCode: 304, requestCharge: 1, eTag: document._etag };
  return answered(200, document, charges.ofRead(document));
}

const written = (statusCode, document) => answered(statusCode, document, charges.ofWrite(document));
const answered = (statusCode, resourceBody, requestCharge) => ({
  statusCode,
  requestCharge,
  eTag: resourceBody._etag,
  resourceBody,
});
const total = (results) => Number(results.reduce((sum, { requestCharge }) => sum + requestCharge, 0).toFixed(2));

module.exports = { runBatch };
