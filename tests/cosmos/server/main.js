#!/usr/bin/env node
"use strict";
/* node main.js [--port 8081] [--host 127.0.0.1] [--data FILE] [--regions NAME,NAME] [--tls] [--with-parent]

   Speaks the protocol of Azure Cosmos DB (NoSQL) for tests, over plain HTTP unless --tls is given; says "ready URL" once
   it listens.
   With --data it keeps a journal there and begins with what the journal holds; with --regions the account is in
   several, each with a port of its own; with --with-parent it ends when its standard input does. README.md says what it
   can and what it cannot. */

const fs = require("fs");
const http = require("http");
const https = require("https");
const path = require("path");
const { randomUUID } = require("crypto");
const { setTimeout: pause } = require("timers/promises");
const { Control, faultReply } = require("./control");
const { Journal } = require("./journal");
const { Metadata } = require("./metadata");
const { Request, answer } = require("./operations");

const IDLE_CONNECTION_MS = 65000;
const IDENTITY = "x-ms-activity-id";

function option(name, otherwise) {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? process.argv[at + 1] : otherwise;
}

async function bodyOf(incoming) {
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}

function send(outgoing, { status, body, headers = {}, charge = 1, lsn = 0 }) {
  const text = body === undefined || status === 204 || status === 304 ? "" : JSON.stringify(body);
  const all = {
    "content-type": "application/json",
    [IDENTITY]: randomUUID(),
    "x-ms-request-charge": String(charge),
    "x-ms-session-token": `0:-1#${lsn}`,
    lsn: String(lsn),
    ...headers,
  };
  if (status !== 204 && status !== 304) all["content-length"] = Buffer.byteLength(text);
  outgoing.writeHead(status, all);
  outgoing.end(text);
}

/** Answers what comes to a port: that of a region, or of the whole account. */
function listener(metadata, control, region) {
  return async (incoming, outgoing) => {
    const body = await bodyOf(incoming);
    if (metadata.regions.isGone(region)) {
      incoming.socket.destroy();
      return;
    }
    if (incoming.url.startsWith("/_test/")) {
      send(outgoing, control.answer(incoming.method, incoming.url.slice("/_test/".length), body, metadata));
      return;
    }
    const request = new Request(incoming, body);
    const refused = control.access.refusal(request) || metadata.regions.refusal(region, request);
    const fault = refused || control.hit(request);
    if (fault.delay_ms) await pause(fault.delay_ms);
    if (fault.drop === "before" || fault.status) {
      const reply = faultReply(fault);
      control.note(request, reply, refused ? {} : { fault: true });
      if (fault.drop) incoming.socket.destroy();
      else send(outgoing, reply);
      return;
    }
    const reply = await answer(metadata, request);
    control.note(request, reply, fault.drop ? { fault: true } : {});
    if (fault.drop === "after") incoming.socket.destroy();
    else send(outgoing, reply);
  };
}

/** A mistake of this server is a 500 with its stack on standard error, not the end of it. */
const guarded = (listen) => (incoming, outgoing) =>
  listen(incoming, outgoing).catch((error) => {
    if (incoming.destroyed && !incoming.complete) return; // the client hung up in the middle of its request
    process.stderr.write(`${incoming.method} ${incoming.url}: ${error.stack}\n`);
    if (!outgoing.headersSent)
      send(outgoing, { status: 500, body: { code: "InternalServerError", message: error.message } });
  });

const SECURE = process.argv.includes("--tls");
const SCHEME = SECURE ? "https" : "http";

/** The certificate is that of @vercel/cosmosdb-server and long expired: the SDK asks for none of 127.0.0.1. */
function certificate() {
  const folder = path.dirname(require.resolve("@vercel/cosmosdb-server/package.json"));
  const read = (name) => fs.readFileSync(path.join(folder, name));
  return { cert: read("cert.pem"), key: read("key.pem") };
}

async function listening(host, port) {
  const options = { keepAliveTimeout: IDLE_CONNECTION_MS };
  const server = SECURE ? https.createServer({ ...options, ...certificate() }) : http.createServer(options);
  await new Promise((done) => server.listen(port, host, done));
  return server;
}

async function start() {
  const host = option("host", "127.0.0.1");
  const server = await listening(host, Number(option("port", "8081")));
  const { port } = server.address();
  const journal = new Journal(option("data"));
  const metadata = new Metadata(host, port, journal, SCHEME);
  const control = new Control();
  journal.open((entry) => metadata.replay(entry));
  server.on("request", guarded(listener(metadata, control)));
  for (const region of (option("regions", "") || "").split(",").filter(Boolean)) {
    const there = await listening(host, 0);
    metadata.regions.add(region, `${SCHEME}://${host}:${there.address().port}/`);
    there.on("request", guarded(listener(metadata, control, region)));
  }
  process.stdout.write(`ready ${SCHEME}://${host}:${port}/\n`);
}

if (process.argv.includes("--with-parent")) process.stdin.resume().on("end", () => process.exit(0));
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
start();
