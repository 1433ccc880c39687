"use strict";
/* Request units as a formula. The documented prices (1 KB read 1, written 5; 100 KB read 10, written 50) lie on the
   square root of the size. What a query costs is a guess that grows with its rows and bytes. */

const sizeOf = (value) => Buffer.byteLength(JSON.stringify(value) || "");
const rounded = (units) => Number(units.toFixed(2));
const perRoot = (value) => Math.max(1, Math.sqrt(sizeOf(value) / 1024));

const ofRead = (document) => rounded(perRoot(document));
const ofWrite = (document) => rounded(5 * perRoot(document));
const ofQuery = (rows, acrossPartitions) =>
  rounded(2.3 + 0.05 * rows.length + (sizeOf(rows) / 1024) * 0.3 + (acrossPartitions ? 2.5 : 0));
const ofFeed = (documents) => rounded(1 + 0.3 * documents.length);

module.exports = { sizeOf, ofRead, ofWrite, ofQuery, ofFeed };
