// The cases of one client: run one after another, each reported to the test as a JSON line.
//
// A case is an asynchronous function that throws when something is not as it should be; its name is the operation's in the
// test's list. `absent` names an operation that this SDK does not have, and why.
"use strict";
const assert = require("node:assert");

// Longer than any case takes on a slow machine. A case that hangs is reported, and the others still run.
const SECONDS_MAX = 60;

const cases = new Map();

function add(name, body) {
  assert(!cases.has(name), `two cases are called ${name}`);
  cases.set(name, body);
}

// `cases({ async name(...arguments) { … } })`
exports.cases = (bodies) => Object.entries(bodies).forEach(([name, body]) => add(name, body));
exports.absent = (name, reason) => add(name, reason);

// Awaits a promise that has to be rejected with this code, and with this status if one is given; gives the error.
exports.rejects = async (promise, code, status) => {
  let value;
  try {
    value = await promise;
  } catch (error) {
    const [code_, status_] = [error.code ?? error.details?.errorCode, error.statusCode];
    const wrong = code_ !== code || (status !== undefined && status_ !== status);
    if (wrong) throw new Error(`${code} (${status}) was due and ${code_} (${status_}) came`, { cause: error });
    return error;
  }
  throw new Error(`nothing was thrown where ${code} was due; got ${value}`);
};

exports.run = async (...args) => {
  for (const [name, body] of cases) {
    const report = { case: name, outcome: "passed" };
    if (typeof body === "string") {
      Object.assign(report, { outcome: "absent", detail: body });
    } else {
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`still running after ${SECONDS_MAX} seconds`)), SECONDS_MAX * 1000);
      });
      try {
        await Promise.race([body(...args), late]);
      } catch (error) {
        const cause = error.cause ? `\ncaused by: ${error.cause.stack ?? error.cause}` : "";
        Object.assign(report, { outcome: "failed", detail: `${error.stack ?? error}${cause}` });
      } finally {
        clearTimeout(timer);
      }
    }
    await new Promise((done) => process.stdout.write(`${JSON.stringify(report)}\n`, done));
  }
  // What a case that failed left open keeps nobody waiting.
  process.exit(0);
};
