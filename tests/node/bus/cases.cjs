// One case per operation.
"use strict";

const Long = require("long");
const { assert, refused, sleep, test, until } = require("./suite.cjs");

const ids = (messages) => messages.map((message) => message.messageId);
const same = (seen, wanted, what) => assert.deepEqual(seen, wanted, what);
const inMs = (ms) => new Date(Date.now() + ms);
const count = (from, to) => Array.from({ length: to - from }, (_, at) => String(from + at));

// Send ---------------------------------------------------------------------------------------------------------------

test("send-one", async (c) => {
  await c.sender().sendMessages({ body: "hello", messageId: "1" });
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  same([message.body, message.messageId], ["hello", "1"]);
  await receiver.completeMessage(message);
  await c.drained();
});

test("send-list", async (c) => {
  await c.sender().sendMessages(count(0, 50).map((messageId) => ({ body: messageId, messageId })));
  same(ids(await c.take(c.deleting(), 50)), count(0, 50));
});

test("send-batch", async (c) => {
  const sender = c.sender();
  const batch = await sender.createMessageBatch();
  for (let n = 0; n < 100; n++) {
    assert(batch.tryAddMessage({ body: `body ${n}`, messageId: String(n), applicationProperties: { n } }));
  }
  await sender.sendMessages(batch);
  const messages = await c.take(c.deleting(), 100);
  same(messages.map((message) => [message.messageId, message.body, message.applicationProperties.n]),
    count(0, 100).map((n) => [n, `body ${n}`, Number(n)]));
});

test("batch-overflow", async (c) => {
  const sender = c.sender();
  const batch = await sender.createMessageBatch();
  while (batch.tryAddMessage({ body: "x".repeat(100_000) }));
  assert(batch.count >= 2 && batch.count <= 10, `${batch.count} messages of 100 kB fitted`);
  await sender.sendMessages(batch);
  same((await c.take(c.deleting(), batch.count)).length, batch.count);
});

test("send-empty-body", async (c) => {
  await c.sender().sendMessages({ body: Buffer.alloc(0), messageId: "empty" });
  const [message] = await c.take(c.deleting(), 1);
  same([Buffer.from(message.body).length, message.messageId], [0, "empty"]);
});

test("send-large", async (c) => {
  const body = Buffer.from(Uint8Array.from({ length: 900_000 }, (_, n) => (n * n) % 251));
  await c.sender().sendMessages({ body });
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  assert(body.equals(message.body), "900 kB came back changed");
  await receiver.completeMessage(message);
});

test("message-too-large", async (c) => {
  const sender = c.sender();
  await refused("MessageSizeExceeded", () => sender.sendMessages({ body: Buffer.alloc(1_100_000) }));
  await sender.sendMessages({ body: "small", messageId: "small" });
  same(ids(await c.take(c.deleting(), 1)), ["small"], "the sender goes on");
});

test("message-too-large-for-entity", async (c) => {
  const sender = c.sender();
  await refused("MessageSizeExceeded", () => sender.sendMessages({ body: Buffer.alloc(100_000) }));
  await sender.sendMessages({ body: "small", messageId: "small" });
  same(ids(await c.take(c.deleting(), 1)), ["small"], "the sender goes on");
});

test("schedule", async (c) => {
  const receiver = c.deleting();
  await c.nothing(receiver);
  const due = inMs(3_000);
  const [number] = await c.sender().scheduleMessages({ body: "later", messageId: "later" }, due);
  assert(number.greaterThan(0), `sequence number ${number}`);
  await c.nothing(receiver);
  same(ids(await c.take(receiver, 1)), ["later"]);
  assert(Date.now() >= due.getTime() - 50, "came before it was due");
});

test("schedule-many", async (c) => {
  const messages = ["a", "b", "c"].map((messageId) => ({ body: messageId, messageId }));
  const numbers = await c.sender().scheduleMessages(messages, inMs(3_000));
  same(new Set(numbers.map(String)).size, 3, "different sequence numbers");
  same(ids(await c.take(c.deleting(), 3)), ["a", "b", "c"]);
});

test("schedule-cancel", async (c) => {
  const [sender, receiver] = [c.sender(), c.deleting()];
  const messages = ["keep", "drop"].map((messageId) => ({ body: messageId, messageId }));
  const [, drop] = await sender.scheduleMessages(messages, inMs(4_000));
  await sender.cancelScheduledMessages(drop);
  same(ids(await receiver.peekMessages(10)), ["keep"], "what is still scheduled");
  same(ids(await c.take(receiver, 1)), ["keep"]);
  await c.nothing(receiver);
});

test("schedule-by-property", async (c) => {
  const receiver = c.deleting();
  const due = inMs(4_000);
  const later = { body: "later", messageId: "later", scheduledEnqueueTimeUtc: due };
  await c.sender().sendMessages([later, { body: "now", messageId: "now" }]);
  same(ids(await c.take(receiver, 1)), ["now"]);
  same(ids(await c.take(receiver, 1)), ["later"]);
  assert(Date.now() >= due.getTime() - 50, "came before it was due");
});

test("peek-scheduled", async (c) => {
  const due = inMs(600_000);
  await c.sender().scheduleMessages({ body: "later", messageId: "later" }, due);
  const [message] = await c.receiver().peekMessages(10);
  same([message.messageId, message.state, message.scheduledEnqueueTimeUtc], ["later", "scheduled", due]);
});

test("duplicate-detection", async (c) => {
  const receiver = c.deleting();
  await c.send("a", "a", "b", "a");
  same(ids(await c.take(receiver, 2)), ["a", "b"]);
  await c.nothing(receiver);
  await c.send("a", "c");
  same(ids(await c.take(receiver, 1)), ["c"], "an id is remembered when its message is gone");
});

// Properties ---------------------------------------------------------------------------------------------------------

test("message-properties", async (c) => {
  const sent = {
    body: "body", messageId: "id-1", correlationId: "correlation", subject: "subject", contentType: "text/plain", to: "to",
    replyTo: "reply", replyToSessionId: "reply-session", sessionId: "key", partitionKey: "key", timeToLive: 180_000,
  };
  await c.sender().sendMessages(sent);
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  // This SDK counts its life from when it was made, not from when the broker took it.
  const { timeToLive, ...others } = Object.fromEntries(Object.keys(sent).map((name) => [name, message[name]]));
  same(others, (({ timeToLive, ...rest }) => rest)(sent));
  assert(timeToLive >= sent.timeToLive && timeToLive < sent.timeToLive + 30_000, `a life of ${timeToLive} ms`);
  await receiver.completeMessage(message);
});

test("application-properties", async (c) => {
  const sent = {
    text: "ä text", empty: "", yes: true, no: false, int: 7, negative: -7, long: 2 ** 40, float: 1.5,
    when: new Date(1_700_000_000_123), null: null,
  };
  await c.sender().sendMessages({ body: "body", applicationProperties: sent });
  const [message] = await c.take(c.deleting(), 1);
  // This SDK reads a timestamp as a number.
  same({ ...message.applicationProperties }, { ...sent, when: sent.when.getTime() });
});

test("body-data", async (c) => {
  await c.sender().sendMessages({ bodyType: "data", body: Buffer.from("one") });
  const [message] = await c.take(c.deleting(), 1);
  same([message._rawAmqpMessage.bodyType, String(message.body)], ["data", "one"]);
});

test("body-sequence", async (c) => {
  await c.sender().sendMessages({ bodyType: "sequence", body: [["a", 1], ["b", 2]] });
  const [message] = await c.take(c.deleting(), 1);
  same([message._rawAmqpMessage.bodyType, message._rawAmqpMessage.body.content], ["sequence", [["a", 1], ["b", 2]]]);
});

test("body-value", async (c) => {
  await c.sender().sendMessages({ bodyType: "value", body: { name: "shoe", sizes: [41, 42] } });
  const [message] = await c.take(c.deleting(), 1);
  same([message._rawAmqpMessage.bodyType, message._rawAmqpMessage.body], ["value", { name: "shoe", sizes: [41, 42] }]);
});

test("annotated-message", async (c) => {
  const created = new Date(1_700_000_000_000);
  await c.sender().sendMessages({
    bodyType: "data",
    body: Buffer.from("body"),
    header: { durable: true, priority: 7 },
    properties: {
      messageId: "id", subject: "subject", groupId: "group", groupSequence: 5, contentEncoding: "gzip",
      creationTime: created,
    },
    applicationProperties: { a: 1 },
    messageAnnotations: { "x-mine": "kept" },
    footer: { f: "foot" },
  });
  const [{ _rawAmqpMessage: raw }] = await c.take(c.deleting(), 1);
  same([raw.header.durable, raw.header.priority], [true, 7], "header");
  const { messageId, subject, groupId, groupSequence, contentEncoding, creationTime } = raw.properties;
  same([messageId, subject, groupId, groupSequence, contentEncoding, Number(creationTime)],
    ["id", "subject", "group", 5, "gzip", created.getTime()], "properties");
  same(raw.messageAnnotations["x-mine"], "kept", "the sender's own annotation");
  same({ ...raw.footer }, { f: "foot" }, "footer");
});

test("broker-properties", async (c) => {
  const before = Date.now() - 2_000;
  await c.send("a", "b");
  const [first, second] = await c.take(c.receiver(), 2);
  same(second.sequenceNumber.toNumber(), first.sequenceNumber.toNumber() + 1, "sequence numbers follow each other");
  same(first.deliveryCount, 0, "delivery count");
  const enqueued = first.enqueuedTimeUtc.getTime();
  assert(before <= enqueued && enqueued <= Date.now() + 1_000, "enqueued time");
  assert(first.lockedUntilUtc.getTime() > Date.now(), "locked until");
  assert(/^[0-9a-f-]{36}$/.test(first.lockToken) && first.lockToken !== second.lockToken, "lock tokens");
  same([first.state, first.deadLetterSource, first.deadLetterReason], ["active", undefined, undefined]);
});

// Receive ------------------------------------------------------------------------------------------------------------

test("receive-peek-lock", async (c) => {
  await c.send("a");
  const [first, second] = [c.receiver(), c.receiver()];
  const [message] = await c.take(first, 1);
  await c.nothing(second);
  same((await c.plan.counts(c.entity)).locked, 1, "locked messages");
  await first.completeMessage(message);
  await c.drained();
});

test("receive-and-delete", async (c) => {
  await c.send("a", "b");
  same(ids(await c.take(c.deleting(), 2)), ["a", "b"]);
  await c.drained();
});

test("receive-wait", async (c) => {
  const started = performance.now();
  same(await c.receiver().receiveMessages(1, { maxWaitTimeInMs: 1_000 }), []);
  const waited = performance.now() - started;
  assert(waited >= 900, `came back after ${waited} ms`);
});

test("receive-what-is-there", async (c) => {
  await c.send("a", "b", "c");
  const receiver = c.deleting();
  const seen = [];
  while (seen.length < 3) {
    const batch = await receiver.receiveMessages(100, { maxWaitTimeInMs: 5_000 });
    assert(batch.length > 0, "no more messages came");
    seen.push(...ids(batch));
  }
  same(seen, ["a", "b", "c"]);
});

test("receive-late", async (c) => {
  const waiting = c.deleting().receiveMessages(1, { maxWaitTimeInMs: 20_000 });
  await sleep(500);
  await c.send("a");
  same(ids(await waiting), ["a"]);
});

test("iterate", async (c) => {
  await c.send("a", "b", "c");
  const receiver = c.receiver();
  const seen = [];
  for await (const message of receiver.getMessageIterator()) {
    seen.push(message.messageId);
    await receiver.completeMessage(message);
    if (seen.length === 3) break;
  }
  same(seen, ["a", "b", "c"]);
  await c.drained();
});

test("subscribe", async (c) => {
  const receiver = c.receiver({ maxAutoLockRenewalDurationInMs: 60_000 });
  const [seen, errors] = [[], []];
  const subscription = receiver.subscribe({
    processMessage: async (message) => void seen.push(message.messageId),
    processError: async (args) => void errors.push(args.error),
  }, { maxConcurrentCalls: 3 });
  await c.send(...count(0, 10));
  await until("ten messages", async () => seen.length === 10);
  await c.drained();
  same([seen, errors], [count(0, 10), []]);
  // A handler that throws abandons the message.
  await subscription.close();
  const tries = [];
  c.receiver().subscribe({
    processMessage: async (message) => {
      tries.push(message.deliveryCount);
      if (tries.length < 3) throw new Error("on purpose");
    },
    processError: async () => {},
  });
  await c.send("again");
  await until("three tries", async () => tries.length === 3);
  same(tries, [0, 1, 2]);
  await c.drained();
});

test("in-order", async (c) => {
  await c.sender().sendMessages(count(0, 500).map((messageId) => ({ body: messageId, messageId })));
  same(ids(await c.take(c.deleting(), 500)), count(0, 500));
});

test("competing-receivers", async (c) => {
  await c.sender().sendMessages(count(0, 60).map((messageId) => ({ body: messageId, messageId })));
  const seen = [];
  const work = async () => {
    const receiver = c.receiver();
    while (seen.length < 60) {
      for (const message of await receiver.receiveMessages(5, { maxWaitTimeInMs: 1_000 })) {
        seen.push(message.messageId);
        await receiver.completeMessage(message);
      }
    }
  };
  await Promise.all([work(), work()]);
  same(seen.sort(), count(0, 60).sort(), "each message once");
  await c.drained();
});

test("many-receivers", async (c) => {
  const receivers = count(0, 20).map(() => c.receiver());
  const waiting = receivers.map((receiver) => c.take(receiver, 1));
  await c.send(...count(0, 20));
  const taken = await Promise.all(waiting);
  same(taken.map(([message]) => message.messageId).sort(), count(0, 20).sort());
  await Promise.all(taken.map(([message], at) => receivers[at].completeMessage(message)));
  await c.drained();
});

test("close-while-receiving", async (c) => {
  const receiver = c.receiver();
  const waiting = receiver.receiveMessages(1, { maxWaitTimeInMs: 3_000 });
  await sleep(500);
  await receiver.close();
  // What the call says then is the SDK's own affair; that it ends, and that no message is lost, is ours.
  await waiting.catch(() => {});
  await c.send("a");
  same(ids(await c.take(c.deleting(), 1)), ["a"]);
});

// Settle -------------------------------------------------------------------------------------------------------------

test("complete", async (c) => {
  await c.send("a", "b");
  const receiver = c.receiver();
  for (const message of await c.take(receiver, 2)) await receiver.completeMessage(message);
  await c.drained();
  same((await c.plan.counts(c.entity)).totals.completed, 2);
});

test("abandon", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  for (const tries of [0, 1, 2]) {
    const [message] = await c.take(receiver, 1);
    same([message.messageId, message.deliveryCount], ["a", tries]);
    await receiver.abandonMessage(message);
  }
});

test("abandon-with-properties", async (c) => {
  await c.sender().sendMessages({ body: "a", applicationProperties: { kept: 1, changed: 1 } });
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await receiver.abandonMessage(message, { changed: 2, added: "new" });
  const [again] = await c.take(receiver, 1);
  same({ ...again.applicationProperties }, { kept: 1, changed: 2, added: "new" });
});

test("defer", async (c) => {
  await c.send("a", "b");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await receiver.deferMessage(message);
  same(ids(await c.take(receiver, 1)), ["b"], "a deferred message is not delivered");
  const [peeked] = await receiver.peekMessages(1);
  same([peeked.messageId, peeked.state], ["a", "deferred"]);
});

test("defer-with-properties", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await receiver.deferMessage(message, { why: "too early" });
  const [deferred] = await receiver.receiveDeferredMessages(message.sequenceNumber);
  same({ ...deferred.applicationProperties }, { why: "too early" });
});

test("receive-deferred", async (c) => {
  await c.send("a", "b");
  const receiver = c.receiver();
  const numbers = [];
  for (const message of await c.take(receiver, 2)) {
    numbers.push(message.sequenceNumber);
    await receiver.deferMessage(message);
  }
  const messages = await receiver.receiveDeferredMessages(numbers);
  same(ids(messages).sort(), ["a", "b"]);
  for (const message of messages) {
    assert(message.lockToken, "a lock");
    await receiver.completeMessage(message);
  }
  await c.drained();
});

test("settle-deferred", async (c) => {
  await c.send("complete", "abandon", "defer", "dead-letter");
  const receiver = c.receiver();
  const numbers = {};
  for (const message of await c.take(receiver, 4)) {
    numbers[message.messageId] = message.sequenceNumber;
    await receiver.deferMessage(message);
  }
  const how = {
    complete: (message) => receiver.completeMessage(message),
    abandon: (message) => receiver.abandonMessage(message, { abandoned: true }),
    defer: (message) => receiver.deferMessage(message, { deferred: true }),
    "dead-letter": (message) =>
      receiver.deadLetterMessage(message, { deadLetterReason: "why", deadLetterErrorDescription: "because" }),
  };
  for (const message of await receiver.receiveDeferredMessages(Object.values(numbers))) {
    await how[message.messageId](message);
  }
  const messages = await receiver.receiveDeferredMessages([numbers.abandon, numbers.defer]);
  same(Object.fromEntries(messages.map((message) => [message.messageId, { ...message.applicationProperties }])),
    { abandon: { abandoned: true }, defer: { deferred: true } }, "both are still deferred, and changed");
  const [dead] = await c.take(c.dead(), 1);
  same([dead.messageId, dead.deadLetterReason, dead.deadLetterErrorDescription], ["dead-letter", "why", "because"]);
});

test("receive-deferred-and-delete", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await receiver.deferMessage(message);
  same(ids(await c.deleting().receiveDeferredMessages(message.sequenceNumber)), ["a"]);
  await c.drained();
});

test("deferred-not-found", async (c) => {
  await refused("MessageNotFound", () => c.receiver().receiveDeferredMessages(Long.fromNumber(4711)));
});

test("dead-letter", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await receiver.deadLetterMessage(message, { deadLetterReason: "bad", deadLetterErrorDescription: "a long story" });
  await c.nothing(receiver);
  const [dead] = await c.take(c.dead(), 1);
  same([dead.messageId, dead.deadLetterReason, dead.deadLetterErrorDescription], ["a", "bad", "a long story"]);
  same(dead.applicationProperties.DeadLetterReason, "bad");
});

test("dead-letter-with-properties", async (c) => {
  await c.sender().sendMessages({ body: "a", applicationProperties: { kept: 1 } });
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await receiver.deadLetterMessage(message, { deadLetterReason: "bad", more: "detail" });
  const [dead] = await c.take(c.dead(), 1);
  same([dead.applicationProperties.kept, dead.applicationProperties.more, dead.deadLetterReason], [1, "detail", "bad"]);
});

// Dead-letter queue --------------------------------------------------------------------------------------------------

test("dead-letter-queue", async (c) => {
  await c.send("a", "b");
  const receiver = c.receiver();
  for (const message of await c.take(receiver, 2)) await receiver.deadLetterMessage(message, { deadLetterReason: "bad" });
  const dead = c.dead();
  same((await dead.peekMessages(10)).map((message) => [message.messageId, message.deadLetterSource]),
    [["a", c.entity], ["b", c.entity]], "peeked");
  for (const message of await c.take(dead, 2)) {
    same(message.deadLetterSource, c.entity);
    await dead.completeMessage(message);
  }
  await c.nothing(dead);
});

test("dead-letter-queue-abandon", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await receiver.deadLetterMessage(message);
  const dead = c.dead();
  const counts = [];
  for (let time = 0; time < 4; time++) {
    const [message] = await c.take(dead, 1);
    counts.push(message.deliveryCount);
    await dead.abandonMessage(message);
  }
  same(counts.map((count) => count - counts[0]), [0, 1, 2, 3], "there is no maximum on a dead-letter queue");
});

test("dead-letter-resubmit", async (c) => {
  const sender = await c.send("a");
  const receiver = c.receiver();
  const [bad] = await c.take(receiver, 1);
  await receiver.deadLetterMessage(bad, { deadLetterReason: "try again" });
  const dead = c.dead();
  const [message] = await c.take(dead, 1);
  await sender.sendMessages({ body: message.body, messageId: "a-again" });
  await dead.completeMessage(message);
  const [again] = await c.take(receiver, 1);
  same([again.messageId, again.body, again.deliveryCount], ["a-again", "a", 0]);
});

test("max-delivery-count", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  for (const tries of [0, 1, 2]) {
    const [message] = await c.take(receiver, 1);
    same(message.deliveryCount, tries);
    await receiver.abandonMessage(message);
  }
  const [dead] = await c.take(c.dead(), 1);
  same([dead.messageId, dead.deadLetterReason], ["a", "MaxDeliveryCountExceeded"]);
  assert(dead.deadLetterErrorDescription, "a description");
});

test("time-to-live", async (c) => {
  await c.sender().sendMessages([
    { body: "short", messageId: "short", timeToLive: 1_000 }, { body: "long", messageId: "long" },
  ]);
  await until("the end of a message", async () => (await c.plan.counts(c.entity)).active === 1);
  same(ids(await c.take(c.deleting(), 1)), ["long"]);
  await c.nothing(c.dead());
});

test("time-to-live-dead-letter", async (c) => {
  await c.sender().sendMessages({ body: "short", messageId: "short", timeToLive: 1_000 });
  const [dead] = await c.take(c.dead(), 1);
  same([dead.messageId, dead.deadLetterReason], ["short", "TTLExpiredException"]);
  assert(dead.deadLetterErrorDescription, "a description");
});

test("time-to-live-of-entity", async (c) => {
  // The entity's default is 2 s: it holds for a message without a life, and for one that asks for more.
  await c.sender().sendMessages([
    { body: "none", messageId: "none" }, { body: "more", messageId: "more", timeToLive: 3_600_000 },
  ]);
  const [, peeked] = await c.receiver().peekMessages(10);
  assert(peeked.timeToLive >= 2_000 && peeked.timeToLive < 30_000, `a life of ${peeked.timeToLive} ms`);
  const dead = await c.take(c.dead(), 2);
  same(dead.map((message) => [message.messageId, message.deadLetterReason]),
    [["none", "TTLExpiredException"], ["more", "TTLExpiredException"]]);
});

// Locks and peeking --------------------------------------------------------------------------------------------------

test("lock-renew", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  const first = message.lockedUntilUtc;
  while (Date.now() < first.getTime() + 1_000) {
    await sleep(500);
    const untilWhen = await receiver.renewMessageLock(message);
    assert(untilWhen > first, "a lock that lasts longer");
  }
  await receiver.completeMessage(message);
  await c.drained();
});

test("lock-renew-automatically", async (c) => {
  await c.send("a");
  const receiver = c.receiver({ maxAutoLockRenewalDurationInMs: 30_000 });
  const [message] = await c.take(receiver, 1);
  await sleep(5_000); // the lock lasts 3 s
  await receiver.completeMessage(message);
  await c.drained();
  same((await c.plan.counts(c.entity)).totals.deliveries, 1, "deliveries");
});

test("lock-expires", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  const [first] = await c.take(receiver, 1);
  const [second] = await c.take(receiver, 1);
  same([first, second].map((message) => [message.messageId, message.deliveryCount]), [["a", 0], ["a", 1]]);
  assert.notEqual(first.lockToken, second.lockToken, "a lock of its own");
});

test("lock-lost-settling", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await c.plan.fault({ on: "now", do: "lose_lock", entity: c.entity });
  await refused("MessageLockLost", () => receiver.completeMessage(message));
});

test("lock-lost-renewing", async (c) => {
  await c.send("a");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await c.plan.fault({ on: "now", do: "lose_lock", entity: c.entity });
  await refused("MessageLockLost", () => receiver.renewMessageLock(message));
});

test("peek", async (c) => {
  await c.send("a", "b", "c");
  const receiver = c.receiver();
  same(ids(await receiver.peekMessages(2)), ["a", "b"]);
  same(ids(await receiver.peekMessages(2, { fromSequenceNumber: Long.ONE })), ["a", "b"], "peeking takes nothing");
  same((await c.take(receiver, 3)).map((message) => message.deliveryCount), [0, 0, 0]);
});

test("peek-from", async (c) => {
  await c.send("a", "b", "c");
  const receiver = c.receiver();
  const second = (await receiver.peekMessages(3))[1].sequenceNumber;
  same(ids(await receiver.peekMessages(5, { fromSequenceNumber: second })), ["b", "c"]);
  same(ids(await receiver.peekMessages(5, { fromSequenceNumber: second.add(2) })), []);
});

test("peek-nothing", async (c) => {
  same(await c.receiver().peekMessages(10), []);
});

test("peek-locked", async (c) => {
  await c.send("a", "b");
  const receiver = c.receiver();
  await c.take(receiver, 1);
  same(ids(await receiver.peekMessages(10)), ["a", "b"], "a locked message is seen too");
});

// Topics -------------------------------------------------------------------------------------------------------------

test("fan-out", async (c) => {
  const sender = c.sender();
  await sender.sendMessages({ body: "one", messageId: "one", applicationProperties: { a: 1 } });
  await sender.sendMessages(["two", "three"].map((messageId) => ({ body: messageId, messageId })));
  for (const name of ["s1", "s2"]) {
    const receiver = c.subscriber(name);
    const messages = await c.take(receiver, 3);
    same([ids(messages), { ...messages[0].applicationProperties }], [["one", "two", "three"], { a: 1 }], name);
    for (const message of messages) await receiver.completeMessage(message);
    await c.drained(`${c.entity}/subscriptions/${name}`);
  }
});

test("subscription-dead-letter-queue", async (c) => {
  await c.sender().sendMessages({ body: "one", messageId: "one" });
  const first = c.subscriber("s1");
  const [message] = await c.take(first, 1);
  await first.deadLetterMessage(message, { deadLetterReason: "bad", deadLetterErrorDescription: "very" });
  const [dead] = await c.take(c.subscriber("s1", { subQueueType: "deadLetter" }), 1);
  same([dead.messageId, dead.deadLetterReason, dead.deadLetterErrorDescription], ["one", "bad", "very"]);
  same(ids(await c.take(c.subscriber("s2"), 1)), ["one"], "the other subscription has its own");
});

test("topic-schedule", async (c) => {
  const sender = c.sender();
  const messages = ["keep", "drop"].map((messageId) => ({ body: messageId, messageId }));
  const [, drop] = await sender.scheduleMessages(messages, inMs(3_000));
  await sender.cancelScheduledMessages([drop]);
  for (const name of ["s1", "s2"]) {
    const receiver = c.subscriber(name, { receiveMode: "receiveAndDelete" });
    same(ids(await c.take(receiver, 1)), ["keep"], name);
    await c.nothing(receiver);
  }
});

// Security -----------------------------------------------------------------------------------------------------------

async function roundTrip(c, client, name = "a") {
  await c.sender(client).sendMessages({ body: name, messageId: name });
  same(ids(await c.take(c.deleting(client), 1)), [name]);
}

const NO_RETRIES = { maxRetries: 0 };

test("sas-of-namespace", (c) => roundTrip(c, c.client({ connection: c.plan.withSas(c.plan.sas()) })));

test("sas-of-entity", (c) => roundTrip(c, c.client({ connection: c.plan.withSas(c.plan.sas(c.entity)) })));

test("wrong-key", async (c) => {
  const client = c.client({ connection: c.plan.connectionString({ SharedAccessKey: "wrong" }), retries: NO_RETRIES });
  await refused("UnauthorizedAccess", () => roundTrip(c, client));
});

test("wrong-key-name", async (c) => {
  const client = c.client({ connection: c.plan.connectionString({ SharedAccessKeyName: "Nobody" }), retries: NO_RETRIES });
  await refused("UnauthorizedAccess", () => roundTrip(c, client));
});

test("wrong-audience", async (c) => {
  const client = c.client({ connection: c.plan.withSas(c.plan.sas("another-queue")), retries: NO_RETRIES });
  await refused("UnauthorizedAccess", () => roundTrip(c, client));
});

test("expired-token", async (c) => {
  const client = c.client({ connection: c.plan.withSas(c.plan.sas(c.entity, { lifeS: -60 })), retries: NO_RETRIES });
  await refused("UnauthorizedAccess", () => roundTrip(c, client));
});

test("token-expires", async (c) => {
  const client = c.client({ connection: c.plan.withSas(c.plan.sas(c.entity, { lifeS: 2 })), retries: NO_RETRIES });
  const receiver = c.receiver({}, client);
  await refused("UnauthorizedAccess", async () => {
    for (let time = 0; time < 10; time++) await receiver.receiveMessages(1, { maxWaitTimeInMs: 1_000 });
  });
});

// Errors -------------------------------------------------------------------------------------------------------------

test("entity-not-found", async (c) => {
  const client = c.client({ retries: NO_RETRIES });
  await refused("MessagingEntityNotFound", () => c.sender(client, "nowhere").sendMessages({ body: "a" }));
  const receiver = c.receiver({}, client, "nowhere");
  await refused("MessagingEntityNotFound", () => receiver.receiveMessages(1, { maxWaitTimeInMs: 2_000 }));
});

test("session-refused", async (c) => {
  const client = c.client({ retries: NO_RETRIES });
  // This SDK makes a text of its own of whatever the broker says.
  await refused("SessionCannotBeLocked", () => client.acceptSession(c.entity, "one"), "session");
});

// Recovery -----------------------------------------------------------------------------------------------------------

/** A receiver that is waiting when the fault comes gets the next message, and a sender goes on. */
async function recovers(c, fault) {
  const sender = await c.send("before");
  const receiver = c.receiver();
  const [message] = await c.take(receiver, 1);
  await receiver.completeMessage(message);
  const seen = [];
  const other = c.receiver({}, c.client());
  other.subscribe({
    processMessage: async (message) => void seen.push(message.messageId),
    processError: async () => {},
  });
  await sleep(500);
  await c.plan.fault({ on: "now", ...fault });
  await sleep(200);
  await sender.sendMessages({ body: "after", messageId: "after" });
  await until("the message after the fault", async () => seen.length === 1, 30_000);
  same(seen, ["after"]);
  await c.drained();
}

test("link-detached", (c) => recovers(c, { do: "detach", entity: c.entity }));

test("connection-closed", (c) => recovers(c, { do: "close", entity: c.entity }));

test("connection-reset", (c) => recovers(c, { do: "reset", entity: c.entity }));
