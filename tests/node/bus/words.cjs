// What the cases say in short.
"use strict";

const { assert } = require("./suite.cjs");

const ids = (messages) => messages.map((message) => message.messageId);
const same = (seen, wanted, what) => assert.deepEqual(seen, wanted, what);
const inMs = (ms) => new Date(Date.now() + ms);
const count = (from, to) => Array.from({ length: to - from }, (_, at) => String(from + at));

module.exports = { count, ids, inMs, same };
