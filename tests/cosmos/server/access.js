"use strict";
/* Who is let in. Everybody, until a test says whose keys or tokens are good from then on. */

const { createHmac } = require("crypto");

class Access {
  constructor() {
    this.allow(null);
  }

  /** { keys, tokens, status, substatus }: what is good, and what everything else is answered with; null: all is. */
  allow(rule) {
    this.rule = rule;
  }

  /** What a request is turned down with; undefined if it is let in. */
  refusal(request) {
    if (!this.rule) return undefined;
    const { keys = [], tokens = [], status = 401, substatus } = this.rule;
    const given = new URLSearchParams(decodeURIComponent(request.headers.authorization || "").replace(/\+/g, "%2B"));
    const good =
      given.get("type") === "aad"
        ? given.get("ver") === "1.0" && tokens.includes(given.get("sig"))
        : keys.some((key) => given.get("sig") === signature(key, request));
    return good ? undefined : { status, substatus, message: "The input authorization token can't serve the request." };
  }
}

/** As documented: the verb, what kind of thing it is about, its link and the date, signed with the account's key. */
function signature(key, { method, path, headers }) {
  const steps = path.split("/").filter(Boolean).map(decodeURIComponent);
  const isFeed = steps.length % 2 === 1;
  const kind = (isFeed ? steps.at(-1) : steps.at(-2)) || "";
  const link = (isFeed ? steps.slice(0, -1) : steps).join("/");
  const text = `${method.toLowerCase()}\n${kind}\n${link}\n${(headers["x-ms-date"] || "").toLowerCase()}\n\n`;
  return createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
}

module.exports = { Access };
