// Cases of sending, properties and receiving.
"use strict";

const { assert, refused, sleep, test, until } = require("./suite.cjs");
const { count, ids, inMs, same } = require("./words.cjs");

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
  const due = inMs(8_000);
  const [number] = await c.sender().scheduleMessages({ body: "later", messageId: "later" }, due);
  assert(number.greaterThan(0), `sequence number ${number}`);
  await c.nothing(receiver);
  same(ids(await c.take(receiver, 1)), ["later"]);
  assert(Date.now() >= due.getTime() - 50, "came before it was due");
});

test("schedule-many", async (c) => {
  const messages = ["a", "b", "c"].map((messageId) => ({ body: messageId, messageId }));
  const numbers = await c.sender().scheduleMessages(messages, inMs(8_000));
  same(new Set(numbers.map(String)).size, 3, "different sequence numbers");
  same(ids(await c.take(c.deleting(), 3)), ["a", "b", "c"]);
});

test("schedule-cancel", async (c) => {
  const [sender, receiver] = [c.sender(), c.deleting()];
  const messages = ["keep", "drop"].map((messageId) => ({ body: messageId, messageId }));
  const [, drop] = await sender.scheduleMessages(messages, inMs(8_000));
  await sender.cancelScheduledMessages(drop);
  same(ids(await receiver.peekMessages(10)), ["keep"], "what is still scheduled");
  same(ids(await c.take(receiver, 1)), ["keep"]);
  await c.nothing(receiver);
});

test("schedule-by-property", async (c) => {
  const receiver = c.deleting();
  const due = inMs(8_000);
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
