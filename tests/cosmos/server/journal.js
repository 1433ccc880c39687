"use strict";
/* What was written, one JSON line per transaction. A line is written before its answer is sent, so all that was
   answered is there after kill -9 of this process (not after a power cut: nothing is synced). */

const fs = require("fs");

class Journal {
  constructor(file) {
    this.file = file;
    this.handle = null;
  }

  /** Give every whole line to `apply`, cut off a torn last one, and append from then on. */
  open(apply) {
    if (!this.file) return;
    const text = fs.existsSync(this.file) ? fs.readFileSync(this.file, "utf8") : "";
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    if (whole !== text) fs.truncateSync(this.file, Buffer.byteLength(whole));
    for (const line of whole.split("\n")) if (line) apply(JSON.parse(line));
    this.handle = fs.openSync(this.file, "a");
  }

  append(entry) {
    if (this.handle !== null) fs.writeSync(this.handle, `${JSON.stringify(entry)}\n`);
  }
}

module.exports = { Journal };
