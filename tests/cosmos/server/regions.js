"use strict";
/* An account in several regions: a port for each. They share everything, at once. One of them takes writes. */

const { CosmosError } = require("./errors");

const READING = new Set(["read", "query", "read_feed", "change_feed"]);

class Regions {
  /** `account` is the document whose locations name them; the SDK goes to the addresses it finds there. */
  constructor(account, global) {
    this.account = account;
    this.global = global;
    this.urls = {};
    this.change({});
  }

  add(name, url) {
    this.urls[name] = url;
    this.change({});
  }

  /** { write, gone, several, consistency }: the region that takes writes, the first if none is named, and those that do
      not answer; what the document says of writes everywhere, and of consistency. */
  change({ write = Object.keys(this.urls)[0], gone = [], several = false, consistency = "Session" }) {
    Object.assign(this, { write, gone });
    this.account.userConsistencyPolicy = { defaultConsistencyLevel: consistency };
    const { writableLocations, readableLocations } = this.account;
    const [{ name }] = [...readableLocations, { name: "here" }];
    const there = Object.keys(this.urls).length ? this.urls : { [name]: this.global };
    const inOrder = Object.keys(there).sort((a, b) => (b === this.write) - (a === this.write));
    const location = (region) => ({ name: region, databaseAccountEndpoint: there[region] });
    writableLocations.splice(0, Infinity, ...inOrder.slice(0, several ? inOrder.length : 1).map(location));
    readableLocations.splice(0, Infinity, ...inOrder.map(location));
  }

  isGone(region) {
    return this.gone.includes(region);
  }

  /** What a write to a region that takes none is turned down with. */
  refusal(region, { operation, method }) {
    if (!region || region === this.write || READING.has(operation) || method === "GET") return undefined;
    return new CosmosError(403, "The requested operation cannot be performed at this region.", 3);
  }
}

module.exports = { Regions };
