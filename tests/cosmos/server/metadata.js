"use strict";
/* Databases and containers: @vercel/cosmosdb-server keeps them and answers for them. Documents are ours. */

const { Readable } = require("stream");
const { default: Account } = require("@vercel/cosmosdb-server/lib/account");
const { default: route } = require("@vercel/cosmosdb-server/lib/routes");
const { badRequest, ownerNotFound } = require("./errors");
const { withDefaults } = require("./indexing");
const { Documents } = require("./documents");
const { Regions } = require("./regions");

class Metadata {
  constructor(host, port, journal, scheme = "http") {
    this.journal = journal;
    this.account = new Account(host, port);
    this.containers = new Map(); // _rid -> Documents
    // The SDK goes to the address it finds there, and this server speaks plain HTTP.
    this.regions = new Regions(this.account.read(), `${scheme}://${host}:${port}/`);
  }

  /** The documents of a container. */
  documents(database, container) {
    const properties = () => this.account.database(database).collection(container).read();
    const found = properties();
    if (!found) throw ownerNotFound();
    if (!this.containers.has(found._rid)) {
      const at = { database, container };
      const written = (transaction) => this.journal.append({ kind: "documents", ...at, ...transaction });
      this.containers.set(found._rid, new Documents(properties, written));
    }
    return this.containers.get(found._rid);
  }

  /** Answer a request that is not about documents. */
  async answer(request) {
    const matched = route(request);
    if (!matched) throw badRequest(`no route for ${request.method} ${request.url}`);
    const [params, handler] = matched;
    const response = new CollectedResponse();
    const body = await handler(this.account, streamed(request), response, params);
    const status = response.statusCode;
    if (status < 400 && request.method !== "GET") this._note(request, params, body);
    // How the SDK reads the ranges of a container: from an etag on, until there are no newer ones.
    const ranges = request.headers["a-im"] ? { etag: '"1"' } : {};
    if (ranges.etag && request.headers["if-none-match"]) return { status: 304, headers: ranges };
    return {
      status,
      body: status >= 400 ? { message: "", ...body } : body,
      headers: { ...response.headers, ...ranges },
    };
  }

  _note({ method }, { dbId, collId }, body) {
    if (method === "DELETE") {
      this.journal.append({ kind: "drop", database: dbId, container: collId });
      this._forgetDropped();
    } else if (body?._self) {
      this.journal.append({
        kind: body._self.includes("/colls/") ? "container" : "database",
        database: dbId,
        properties: body,
      });
    }
  }

  _forgetDropped() {
    const kept = new Set();
    for (const database of this.account.databases._data.values()) {
      for (const rid of database.collections._data.keys()) kept.add(rid);
    }
    for (const rid of this.containers.keys()) if (!kept.has(rid)) this.containers.delete(rid);
  }

  /** No database any more. */
  reset() {
    for (const database of [...this.account.databases._data.values()]) {
      const { id } = database.read();
      this.account.databases.delete(id, id);
      this.journal.append({ kind: "drop", database: id });
    }
    this._forgetDropped();
  }

  /** Do again what a line of the journal says was done. */
  replay(entry) {
    const { databases } = this.account;
    const put = (items, properties) => {
      if (!items._data.has(properties._rid)) items._ridCount += 1;
      items._set(properties);
    };
    if (entry.kind === "database") put(databases, entry.properties);
    else if (entry.kind === "container") put(this.account.database(entry.database).collections, entry.properties);
    else if (entry.kind === "documents") this.documents(entry.database, entry.container).replay(entry);
    else if (entry.container)
      this.account.database(entry.database).collections.delete(entry.container, entry.container);
    else databases.delete(entry.database, entry.database);
    if (entry.kind === "drop") this._forgetDropped();
  }
}

/** The request as its handlers read it: with a body that streams, and a container's properties made whole. */
function streamed(request) {
  let { body } = request;
  if (body && request.isContainer) body = JSON.stringify(withDefaults(JSON.parse(body)));
  const { url, method, headers } = request;
  return Object.assign(Readable.from([Buffer.from(body)]), { url, method, headers });
}

/** What a handler sets on its response. */
class CollectedResponse {
  constructor() {
    this.statusCode = 200;
    this.headers = {};
  }

  setHeader(name, value) {
    this.headers[name] = value;
  }
}

module.exports = { Metadata };
