#!/usr/bin/env node
"use strict";
/* node main.js [--port 8081] [--host 127.0.0.1] [--data FILE] [--with-parent]

   Speaks the protocol of Azure Cosmos DB (NoSQL) over plain HTTP, for tests; says "ready URL" once it listens.
   With --data it keeps a journal there and begins with what the journal holds; with --with-parent it ends when its
   standard input does. README.md says what it can and what it cannot. */

const http = require("http");
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

function listener(metadata, control) {
  return async (incoming, outgoing) => {
    const body = await bodyOf(incoming);
    if (incoming.url.startsWith("/_test/")) {
      send(outgoing, control.answer(incoming.method, incoming.url.slice("/_test/".length), body, metadata));
      return;
    }
    const request = new Request(incoming, body);
    const fault = control.hit(request);
    if (fault.delay_ms) await pause(fault.delay_ms);
    if (fault.drop === "before" || fault.status) {
      const reply = faultReply(fault);
      control.note(request, reply, { fault: true });
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

function start() {
  const host = option("host", "127.0.0.1");
  const server = http.createServer({ keepAliveTimeout: IDLE_CONNECTION_MS });
  server.listen(Number(option("port", "8081")), host, () => {
    const { port } = server.address();
    const journal = new Journal(option("data"));
    const metadata = new Metadata(host, port, journal);
    journal.open((entry) => metadata.replay(entry));
    server.on("request", guarded(listener(metadata, new Control())));
    process.stdout.write(`ready http://${host}:${port}/\n`);
  });
}

if (process.argv.includes("--with-parent")) process.stdin.resume().on("end", () => process.exit(0));
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
start();
