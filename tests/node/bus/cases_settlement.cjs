// Cases of settling, dead-letter queues, locks and peeking.
"use strict";

const Long = require("long");
const { assert, refused, sleep, test, until } = require("./suite.cjs");
const { count, ids, same } = require("./words.cjs");

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
  // The entity's default is 8 s: it holds for a message without a life, and for one that asks for more.
  await c.sender().sendMessages([
    { body: "none", messageId: "none" }, { body: "more", messageId: "more", timeToLive: 3_600_000 },
  ]);
  const [, peeked] = await c.receiver().peekMessages(10);
  assert(peeked.timeToLive >= 8_000 && peeked.timeToLive < 30_000, `a life of ${peeked.timeToLive} ms`);
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
