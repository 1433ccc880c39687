"use strict";
/* What tests tell the server and ask of it: faults to come, calls that were, a clean slate.

   A fault: { op, path, body, skip, times, delay_ms, drop, status, substatus, retry_after_ms, message }. `op`, `path` and
   `body` (regular expressions) choose requests, all if none is given; of those the first `skip` pass, then `times`
   are hit (for ever if absent or negative). `drop: "before"` hangs up without doing it, `drop: "after"` does it
   and hangs up, `status` answers with it without doing it, `delay_ms` comes first. */

const { Access } = require("./access");

const MOST_CALLS = 20000;

class Control {
  constructor() {
    this.faults = [];
    this.calls = [];
    this.access = new Access();
  }

  /** The answer to a request of /_test/. */
  answer(method, what, body, metadata) {
    if (what === "faults" && method === "POST") this.faults = JSON.parse(body || "[]");
    else if (what === "access" && method === "POST") this.access.allow(JSON.parse(body));
    else if (what === "regions" && method === "POST") metadata.regions.change(JSON.parse(body));
    else if (what === "reset" && method === "POST") {
      this.faults = [];
      this.calls = [];
      this.access.allow(null);
      metadata.regions.change({});
      metadata.reset();
    } else if (what === "log" && method === "GET") return { status: 200, body: this.calls.splice(0) };
    else if (what !== "faults") return { status: 404, body: {} };
    return { status: 200, body: this.faults };
  }

  /** The fault that hits this request; it counts as used. */
  hit({ operation, url, body: sent }) {
    const meant = this.faults.filter(
      ({ op, path, body, times }) =>
        times !== 0 &&
        (!op || op === operation) &&
        (!path || new RegExp(path).test(url)) &&
        (!body || new RegExp(body).test(sent))
    );
    const [fault] = meant;
    if (!fault) return {};
    if (fault.skip > 0) {
      fault.skip -= 1;
      return {};
    }
    if (fault.times > 0) fault.times -= 1;
    return fault;
  }

  note(request, { status, charge, rows }, injected = {}) {
    const { operation: op, path, headers } = request;
    const key = headers["x-ms-documentdb-partitionkey"];
    this.calls.push({ op, path, key, status, ru: charge, rows, ...injected });
    if (this.calls.length > MOST_CALLS) this.calls.splice(0, MOST_CALLS / 2);
  }
}

function faultReply({ status, substatus, retry_after_ms: retryAfter, message = "injected" }) {
  const headers = {};
  if (substatus !== undefined) headers["x-ms-substatus"] = String(substatus);
  if (retryAfter !== undefined) headers["x-ms-retry-after-ms"] = String(retryAfter);
  return { status, body: { code: String(status), message }, headers, charge: 0 };
}

module.exports = { Control, faultReply };
