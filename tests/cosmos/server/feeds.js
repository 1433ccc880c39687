"use strict";
/* All documents of a container, page by page, and the change feed: the newest version of each changed document, in
   order of the change. What was deleted or expired is not in it. */

const charges = require("./charges");

const PAGE = 100;

const pageSize = (headers) => {
  const asked = Number.parseInt(headers["x-ms-max-item-count"] || "", 10);
  return asked > 0 ? asked : PAGE;
};

function readFeed(documents, wanted, headers) {
  const records = documents.list(wanted);
  const from = Number.parseInt(headers["x-ms-continuation"] || "0", 10);
  const to = from + pageSize(headers);
  const more = to < records.length ? { "x-ms-continuation": String(to) } : {};
  return feed(
    documents,
    records.slice(from, to).map(({ document }) => document),
    more
  );
}

function changeFeed(documents, wanted, headers) {
  const after = startOf(documents, headers["if-none-match"]);
  const since = headers["if-modified-since"] ? Date.parse(headers["if-modified-since"]) / 1000 : 0;
  const changed = documents
    .list(wanted)
    .filter(({ lsn, document }) => lsn > after && document._ts >= Math.floor(since))
    .sort((a, b) => a.lsn - b.lsn || a.number - b.number);
  const page = wholeTransactions(changed, pageSize(headers));
  // Where nothing changed the reader goes on from where he was: the next change is after that, and cheap to find.
  const etag = { etag: `"${page.length ? page[page.length - 1].lsn : Math.max(after, 0)}"` };
  if (!page.length) return { status: 304, headers: etag, charge: 1, rows: 0 };
  return feed(
    documents,
    page.map(({ document, lsn }) => ({ ...document, _lsn: lsn })),
    etag
  );
}

/** The lsn after which to read: that of the last page, the present one for "*", or that of the beginning. */
function startOf(documents, etag) {
  if (etag === undefined) return -1;
  return etag === "*" ? documents.lsn : Number.parseInt(etag.replace(/"/g, ""), 10);
}

/** A page does not end in the middle of a batch: the reader's place is an lsn, and a batch has one. */
function wholeTransactions(records, size) {
  let end = Math.min(size, records.length);
  while (end > 0 && end < records.length && records[end].lsn === records[end - 1].lsn) end += 1;
  return records.slice(0, end);
}

function feed(documents, page, headers) {
  const body = { _rid: documents.properties()._rid, Documents: page, _count: page.length };
  const counted = { ...headers, "x-ms-item-count": String(page.length) };
  return { status: 200, body, headers: counted, charge: charges.ofFeed(page), rows: page.length };
}

module.exports = { changeFeed, readFeed, pageSize };
