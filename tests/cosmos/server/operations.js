"use strict";
/* What a request asks for, and the answer `{ status, body, headers, charge, rows }` of each operation on
   documents. */

const { CosmosError, badRequest } = require("./errors");
const charges = require("./charges");
const { changeFeed, pageSize, readFeed } = require("./feeds");
const { HEADER, keyOfRequest, keysOfRequest } = require("./partition_keys");
const { patch } = require("./patch");
const { runBatch } = require("./batch");
const { runQuery } = require("./query");

const DOCUMENTS = /^\/dbs\/([^/]+)\/colls\/([^/]+)\/(?:docs(?:\/([^/]+))?|operations\/(partitionkeydelete))$/;
const CONTAINERS = /^\/dbs\/[^/]+\/colls(\/[^/]+)?$/;

/** A request, read whole: what operation it is, on which container and item. */
class Request {
  constructor({ method, url, headers }, body) {
    const path = url
      .split("?")[0]
      .replace(/\/+/g, "/")
      .replace(/(.)\/$/, "$1");
    Object.assign(this, { method, url, headers, body, path });
    const match = DOCUMENTS.exec(path);
    this.isContainer = CONTAINERS.test(path) && (method === "POST" || method === "PUT") && !this._isQuery;
    if (match) {
      [this.database, this.container, this.id] = match.slice(1, 4).map((part) => part && decodeURIComponent(part));
      this.operation = match[4] ? "delete_partition" : this._operation();
    } else {
      const kinds = path.split("/").filter((_, at) => at % 2);
      this.operation = `${method} ${kinds.join("/") || "account"}`;
    }
  }

  _flag(name) {
    return /true/i.test(this.headers[name] || "");
  }

  get _isQuery() {
    return this._flag("x-ms-documentdb-isquery") || this.headers["content-type"] === "application/query+json";
  }

  _operation() {
    if (this.method === "GET") return this.id ? "read" : this.headers["a-im"] ? "change_feed" : "read_feed";
    if (this.method !== "POST") return { PUT: "replace", PATCH: "patch", DELETE: "delete" }[this.method];
    if (this._isQuery) return "query";
    if (this._flag("x-ms-cosmos-is-batch-request")) return "batch";
    return this._flag("x-ms-documentdb-is-upsert") ? "upsert" : "create";
  }

  get conditions() {
    return { ifMatch: this.headers["if-match"], ifNoneMatch: this.headers["if-none-match"] };
  }

  json() {
    try {
      return JSON.parse(this.body);
    } catch {
      throw badRequest("The request body is not JSON.");
    }
  }

  key(documents) {
    return keyOfRequest(documents.definition, this.headers);
  }

  keys(documents) {
    return keysOfRequest(documents.definition, this.headers);
  }
}

const written = (status, document) => ({
  status,
  body: document,
  headers: { etag: document._etag },
  charge: charges.ofWrite(document),
});

const OPERATIONS = {
  create(documents, request) {
    const key = request.key(documents);
    return written(
      201,
      documents.transact(() => documents.create(key, request.json()))
    );
  },

  upsert(documents, request) {
    const key = request.key(documents);
    const done = documents.transact(() => documents.upsert(key, request.json(), request.conditions));
    return written(done.created ? 201 : 200, done.document);
  },

  replace(documents, request) {
    const key = request.key(documents);
    return written(
      200,
      documents.transact(() => documents.replace(key, request.id, request.json(), request.conditions))
    );
  },

  patch(documents, request) {
    const key = request.key(documents);
    const asked = request.json();
    const body = Array.isArray(asked) ? { operations: asked } : asked;
    return written(
      200,
      documents.transact(() => patch(documents, key, request.id, body, request.conditions))
    );
  },

  delete(documents, request) {
    const key = request.key(documents);
    const gone = documents.transact(() => documents.delete(key, request.id, request.conditions));
    return { status: 204, charge: charges.ofWrite(gone) };
  },

  read(documents, request) {
    const document = documents.read(request.key(documents), request.id);
    const headers = { etag: document._etag };
    if (request.conditions.ifNoneMatch === document._etag) return { status: 304, headers, charge: 1 };
    return { status: 200, body: document, headers, charge: charges.ofRead(document), rows: 1 };
  },

  batch: (documents, request) => runBatch(documents, request.key(documents), request.json(), request.headers),

  query(documents, request) {
    if (request._flag("x-ms-cosmos-is-query-plan-request")) throw badRequest("This server makes no query plans.");
    const wanted = request.keys(documents);
    const given = request.headers["x-ms-continuation"];
    const { result, continuation } = runQuery(request.json(), {
      documents: documents.list(wanted).map(({ document }) => document),
      corpus: () => documents.list().map(({ document }) => document),
      container: documents.properties(),
      maxItemCount: pageSize(request.headers),
      continuation: given ? JSON.parse(given) : null,
    });
    const headers = { "x-ms-item-count": String(result.length) };
    if (continuation) headers["x-ms-continuation"] = JSON.stringify(continuation);
    const body = { _rid: documents.properties()._rid, Documents: result, _count: result.length };
    return { status: 200, body, headers, charge: charges.ofQuery(result, !wanted), rows: result.length };
  },

  read_feed: (documents, request) => readFeed(documents, request.keys(documents), request.headers),

  change_feed(documents, request) {
    if (/full-fidelity/i.test(request.headers["a-im"]))
      throw badRequest("This server keeps only the latest versions.");
    return changeFeed(documents, request.keys(documents), request.headers);
  },

  delete_partition(documents, request) {
    const key = request.key(documents);
    const records = documents.list(request.keys(documents));
    documents.transact(() => records.forEach(({ document }) => documents.delete(key, document.id)));
    return { status: 200 };
  },
};

/** Answer any request; what goes wrong in the protocol is an answer too. */
async function answer(metadata, request) {
  try {
    if (/^\/offers\b/.test(request.path)) return offers(request);
    if (request.container === undefined) return await metadata.answer(request);
    const documents = metadata.documents(request.database, request.container);
    const reply = OPERATIONS[request.operation](documents, request);
    return { ...minimal(request, reply), lsn: documents.lsn };
  } catch (error) {
    if (!(error instanceof CosmosError)) throw error;
    const headers = error.substatus ? { "x-ms-substatus": String(error.substatus) } : {};
    return { status: error.status, body: error.body, headers, charge: 1 };
  }
}

/** A client may ask for no body after a write. */
function minimal(request, reply) {
  const unwanted =
    /minimal/i.test(request.headers.prefer || "") && /create|upsert|replace|patch/.test(request.operation);
  return unwanted && reply.status < 300 ? { ...reply, body: undefined } : reply;
}

/** Throughput, which nothing here is limited by. */
function offers({ method }) {
  const offer = { id: "o", _rid: "o", _self: "offers/o/", resource: "", offerVersion: "V2", offerType: "Invalid" };
  const content = { offerThroughput: 400 };
  const one = { ...offer, content };
  return { status: 200, body: method === "PUT" ? one : { _rid: "", Offers: [one], _count: 1 } };
}

module.exports = { HEADER, Request, answer };
