"use strict";
/* The documents of one container. Every write, one or a whole batch, is one transaction: it is undone if it fails,
   has one place in the order of changes (`lsn`) and is one line of the journal. */

const { randomUUID } = require("crypto");
const { badRequest, conflict, itemNotFound, preconditionFailed, tooLarge } = require("./errors");
const { sizeOf } = require("./charges");
const { keyOfDocument, valueAt } = require("./partition_keys");

const LARGEST_DOCUMENT = 2 * 1024 * 1024;

class Documents {
  /** `properties()` are the container's as they are now; `written(changes)` is told of each transaction. */
  constructor(properties, written) {
    this.properties = properties;
    this.written = written;
    this.partitions = new Map(); // key -> id -> record
    this.lsn = 0;
    this.created = 0;
    this.transaction = null;
  }

  get definition() {
    return this.properties().partitionKey;
  }

  // ---------- reading

  find(key, id) {
    const record = this.partitions.get(key)?.get(id);
    return record && !this._expired(record) ? record : undefined;
  }

  read(key, id) {
    const record = this.find(key, id);
    if (!record) throw itemNotFound();
    return record.document;
  }

  /** Records of the wanted keys (all, if undefined) in order of creation, which is that of their `_rid`. */
  list(wanted) {
    const keys =
      wanted?.only !== undefined ? [wanted.only] : [...this.partitions.keys()].filter(wanted || (() => true));
    const records = keys.flatMap((key) => this._alive(this.partitions.get(key)));
    return records.sort((a, b) => a.number - b.number);
  }

  _alive(partition) {
    return [...(partition?.values() || [])].filter((record) => !this._expired(record));
  }

  /** `_ts` is in whole seconds, so an item lives its ttl and up to a second more, never less. */
  _expired({ document }) {
    const ofContainer = this.properties().defaultTtl;
    if (ofContainer === undefined || ofContainer === null) return false;
    const ttl = document.ttl === undefined ? ofContainer : document.ttl;
    return ttl > 0 && Math.floor(Date.now() / 1000) - document._ts > ttl;
  }

  // ---------- writing, inside a transaction

  transact(work) {
    this.transaction = { lsn: this.lsn + 1, changes: [], undo: [] };
    const { lsn, changes, undo } = this.transaction;
    try {
      const result = work();
      if (changes.length) {
        this.lsn = lsn;
        this.written({ lsn, changes });
      }
      return result;
    } catch (error) {
      undo.reverse().forEach((step) => step());
      throw error;
    } finally {
      this.transaction = null;
    }
  }

  create(key, body) {
    this._check(key, body);
    if (this.find(key, body.id)) throw conflict("Resource with specified id or name already exists.");
    return this._put(key, body);
  }

  replace(key, id, body, conditions) {
    this._check(key, body);
    const present = this.read(key, id);
    if (body.id !== id) throw badRequest("The id of an item cannot be replaced.");
    checkConditions(present, conditions);
    return this._put(key, body);
  }

  /** Whether the item was created, and the item. */
  upsert(key, body, conditions) {
    this._check(key, body);
    const present = this.find(key, body.id)?.document;
    if (present && conditions?.ifNoneMatch === "*")
      throw conflict("Resource with specified id or name already exists.");
    if (present) checkConditions(present, conditions);
    return { created: !present, document: this._put(key, body) };
  }

  delete(key, id, conditions) {
    const present = this.read(key, id);
    checkConditions(present, conditions);
    this._take(key, id);
    return present;
  }

  _check(key, body) {
    if (!body || typeof body.id !== "string" || !body.id) {
      throw badRequest("The input content is invalid because the required properties - 'id; ' - are missing");
    }
    if (Buffer.byteLength(body.id) > 1023 || /[/\\?#]/.test(body.id)) throw badRequest("The id is not valid.");
    if (body.ttl !== undefined && !(Number.isInteger(body.ttl) && (body.ttl > 0 || body.ttl === -1))) {
      throw badRequest("The input ttl is invalid: a positive whole number, or -1.");
    }
    if (sizeOf(body) > LARGEST_DOCUMENT) throw tooLarge();
    if (keyOfDocument(this.definition, body) !== key) {
      const message = "PartitionKey extracted from document doesn't match the one specified in the header.";
      throw badRequest(message, 1001);
    }
    this._checkUnique(key, body);
  }

  _checkUnique(key, body) {
    for (const { paths } of this.properties().uniqueKeyPolicy?.uniqueKeys || []) {
      const valuesOf = (document) => JSON.stringify(paths.map((path) => valueAt(document, path) ?? null));
      const values = valuesOf(body);
      const taken = this._alive(this.partitions.get(key)).some(
        ({ document }) => document.id !== body.id && valuesOf(document) === values
      );
      if (taken) throw conflict("Unique index constraint violation.");
    }
  }

  _put(key, body) {
    const { _rid: container, _self } = this.properties();
    const before = this.find(key, body.id);
    const number = before ? before.number : ++this.created;
    // Sorts as it counts: the query engine finds its place in a paged result by it.
    const _rid = `${container}${number.toString(16).padStart(12, "0")}`;
    const document = {
      ...body,
      _rid,
      _self: `${_self}/docs/${_rid}/`,
      _etag: `"${randomUUID()}"`, // the quotes are part of it, as in the service
      _attachments: "attachments/",
      _ts: Math.floor(Date.now() / 1000),
    };
    if (!before) this._take(key, body.id); // an expired one would keep its place in the order
    this._change({ key, id: body.id, document, number });
    return document;
  }

  _take(key, id) {
    if (this.partitions.get(key)?.has(id)) this._change({ key, id });
  }

  _change(change) {
    const { key, id } = change;
    const before = this.partitions.get(key)?.get(id);
    const { lsn, changes, undo } = this.transaction;
    undo.push(() => this._apply({ key, id, ...before }, before?.lsn));
    changes.push(change);
    this._apply(change, lsn);
  }

  /** A change without a document is a deletion. */
  _apply({ key, id, document, number }, lsn) {
    if (!this.partitions.has(key)) this.partitions.set(key, new Map());
    const partition = this.partitions.get(key);
    if (document) partition.set(id, { key, document, number, lsn });
    else partition.delete(id);
    if (!partition.size) this.partitions.delete(key);
  }

  /** Do again what the journal says was done. */
  replay({ lsn, changes }) {
    this.lsn = lsn;
    for (const change of changes) {
      this.created = Math.max(this.created, change.number || 0);
      this._apply(change, lsn);
    }
  }
}

function checkConditions(present, { ifMatch } = {}) {
  if (ifMatch !== undefined && ifMatch !== "*" && ifMatch !== present._etag) throw preconditionFailed();
}

module.exports = { Documents, checkConditions };
