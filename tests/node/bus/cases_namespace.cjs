// Cases of topics, security, errors and recovery.
"use strict";

const { AzureNamedKeyCredential, AzureSASCredential } = require("@azure/core-auth");
const { ClientCertificateCredential, ClientSecretCredential } = require("@azure/identity");
const WebSocket = require("ws");
const { assert, refused, sleep, test, until } = require("./suite.cjs");
const { ids, inMs, same } = require("./words.cjs");

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
  const [, drop] = await sender.scheduleMessages(messages, inMs(8_000));
  await sender.cancelScheduledMessages([drop]);
  for (const name of ["s1", "s2"]) {
    const receiver = c.subscriber(name, { receiveMode: "receiveAndDelete" });
    same(ids(await c.take(receiver, 1)), ["keep"], name);
    await c.nothing(receiver);
  }
});

test("filters", async (c) => {
  await c.sender().sendMessages([
    { body: "1", messageId: "1", subject: "price", applicationProperties: { color: "red", size: 41 } },
    { body: "2", messageId: "2", subject: "stock", applicationProperties: { color: "red", size: 9 } },
    { body: "3", messageId: "3", subject: "price" },
  ]);
  for (const [name, wanted] of [["s1", ["1"]], ["s2", ["1", "3"]]]) {
    same(ids(await c.take(c.subscriber(name, { receiveMode: "receiveAndDelete" }), wanted.length)), wanted, name);
    await c.drained(`${c.entity}/subscriptions/${name}`);
  }
});

const rulesOf = async (manager) => {
  const rules = {};
  // Of a subscription without rules this SDK lists one that is undefined.
  for await (const rule of manager.listRules()) if (rule) rules[rule.name] = rule.filter;
  return rules;
};

test("rule-list", async (c) => {
  const manager = c.ownClient().createRuleManager(c.entity, "s1");
  same(await rulesOf(manager), { $Default: { sqlExpression: "1=1" } });
});

test("rule-sql", async (c) => {
  const manager = c.ownClient().createRuleManager(c.entity, "s1");
  await manager.deleteRule("$Default");
  await manager.createRule("big", { sqlExpression: "size > 10" });
  same((await rulesOf(manager)).big.sqlExpression, "size > 10");
  await c.sender().sendMessages([
    { body: "small", messageId: "small", applicationProperties: { size: 9 } },
    { body: "big", messageId: "big", applicationProperties: { size: 41 } },
  ]);
  same(ids(await c.take(c.subscriber("s1", { receiveMode: "receiveAndDelete" }), 1)), ["big"]);
  await c.drained(`${c.entity}/subscriptions/s1`);
});

test("rule-correlation", async (c) => {
  const manager = c.ownClient().createRuleManager(c.entity, "s1");
  await manager.deleteRule("$Default");
  await manager.createRule("prices", { subject: "price", applicationProperties: { color: "red" } });
  const { prices } = await rulesOf(manager);
  same([prices.subject, { ...prices.applicationProperties }], ["price", { color: "red" }]);
  await c.sender().sendMessages(["blue", "red"].map((color) => (
    { body: color, messageId: color, subject: "price", applicationProperties: { color } })));
  same(ids(await c.take(c.subscriber("s1", { receiveMode: "receiveAndDelete" }), 1)), ["red"]);
  await c.drained(`${c.entity}/subscriptions/s1`);
});

test("rule-delete", async (c) => {
  const manager = c.ownClient().createRuleManager(c.entity, "s1");
  await manager.deleteRule("$Default");
  same(await rulesOf(manager), {});
  await c.send("a");
  same(ids(await c.take(c.subscriber("s2", { receiveMode: "receiveAndDelete" }), 1)), ["a"]);
  await c.nothing(c.subscriber("s1"));
});

test("rule-refused", async (c) => {
  const manager = c.client({ retries: NO_RETRIES }).createRuleManager(c.entity, "s1");
  await refused(["GeneralError", "InvalidOperationError"], () => manager.createRule("broken", { sqlExpression: "size >" }), "syntax");
  await refused("MessagingEntityAlreadyExists", () => manager.createRule("$Default", { sqlExpression: "size > 1" }));
  await refused("GeneralError", () => manager.createRule("acts", { sqlExpression: "1=1" }, { sqlExpression: "SET a = 1" }));
  await refused("MessagingEntityNotFound", () => manager.deleteRule("nothing"));
});

// Security -----------------------------------------------------------------------------------------------------------

async function roundTrip(c, client, name = "a") {
  await c.sender(client).sendMessages({ body: name, messageId: name });
  same(ids(await c.take(c.deleting(client), 1)), [name]);
}

const NO_RETRIES = { maxRetries: 0 };

test("sas-of-namespace", (c) => roundTrip(c, c.client({ connection: c.plan.withSas(c.plan.sas()) })));

test("sas-of-entity", (c) => roundTrip(c, c.client({ connection: c.plan.withSas(c.plan.sas(c.entity)) })));

test("sas-credential", (c) => {
  return roundTrip(c, c.client({ credential: new AzureSASCredential(c.plan.sas(c.entity)) }));
});

test("key-credential", (c) => {
  return roundTrip(c, c.client({ credential: new AzureNamedKeyCredential(c.plan.keyName, c.plan.key) }));
});

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

test("token-renewed", async (c) => {
  // This SDK renews two minutes before the end that it is told of, so it is told of a later one.
  let asked = 0;
  const getToken = async () => {
    asked += 1;
    return { token: c.plan.sas(c.entity, { lifeS: 5 }), expiresOnTimestamp: Date.now() + 122_000 };
  };
  const client = c.client({ credential: { getToken } });
  const [sender, receiver] = [c.sender(client), c.receiver({}, client)];
  const end = Date.now() + 9_000;
  for (let number = 0; Date.now() < end; number++) {
    await sender.sendMessages({ body: "a", messageId: String(number) });
    const [message] = await c.take(receiver, 1);
    same(message.messageId, String(number));
    await receiver.completeMessage(message);
    await sleep(500);
  }
  assert(asked > 2, `only ${asked} tokens in 9 s`);
  await c.drained();
});

test("missing-right", async (c) => {
  // A policy that may listen only, and one that may send only.
  const listener = c.client({ connection: c.plan.policy("listener"), retries: NO_RETRIES });
  const sender = c.client({ connection: c.plan.policy("sender"), retries: NO_RETRIES });
  await refused("UnauthorizedAccess", () => c.sender(listener).sendMessages({ body: "a" }));
  await refused("UnauthorizedAccess", () => c.receiver({}, sender).receiveMessages(1, { maxWaitTimeInMs: 2_000 }));
  await c.sender(sender).sendMessages({ body: "a", messageId: "a" });
  same(ids(await c.take(c.deleting(listener), 1)), ["a"]);
});

test("token-expires", async (c) => {
  const client = c.client({ connection: c.plan.withSas(c.plan.sas(c.entity, { lifeS: 6 })), retries: NO_RETRIES });
  const receiver = c.receiver({}, client);
  await refused("UnauthorizedAccess", async () => {
    for (let time = 0; time < 20; time++) await receiver.receiveMessages(1, { maxWaitTimeInMs: 1_000 });
  });
});

// TLS, WebSocket and access tokens -----------------------------------------------------------------------------------

test("tls", (c) => roundTrip(c, c.client({ connection: c.plan.ready.serviceBusTlsConnectionString })));

test("websocket", (c) => {
  const webSocketOptions = { webSocket: WebSocket };
  return roundTrip(c, c.client({ connection: c.plan.ready.serviceBusTlsConnectionString, webSocketOptions }));
});

const authority = (c) => ({ authorityHost: c.plan.ready.authorityUrl, disableInstanceDiscovery: true });

const certificate = (c) => {
  const { directoryId, clientId, certificateFile } = c.plan.ready.clients[0];
  return new ClientCertificateCredential(directoryId, clientId, { certificatePath: certificateFile }, authority(c));
};

test("client-certificate", (c) => roundTrip(c, c.client({ credential: certificate(c) })));

test("client-secret", (c) => {
  const { directoryId, clientId, clientSecret } = c.plan.ready.clients[0];
  return roundTrip(c, c.client({ credential: new ClientSecretCredential(directoryId, clientId, clientSecret, authority(c)) }));
});

test("wrong-client-secret", async (c) => {
  const { directoryId, clientId } = c.plan.ready.clients[0];
  const credential = new ClientSecretCredential(directoryId, clientId, "wrong", authority(c));
  await assert.rejects(roundTrip(c, c.client({ credential, retries: NO_RETRIES })), /AADSTS7000215/);
});

test("tenant-service", async (c) => {
  // An access token for TenantService; the grant that it answers opens the tenant's subscription, and no other.
  const { token } = await certificate(c).getToken(c.plan.ready.tenantScope);
  const { serviceBus } = await c.plan.grant(token);
  const [topic, , subscription] = serviceBus.entityPath.split("/");
  const client = c.client({ connection: c.plan.withSas(serviceBus.sasToken), retries: NO_RETRIES });
  await c.ownClient().createSender(topic).sendMessages({ body: "file", messageId: "file" });
  const receiver = client.createReceiver(topic, subscription, { receiveMode: "receiveAndDelete" });
  same(ids(await c.take(receiver, 1)), ["file"]);
  await refused("UnauthorizedAccess", () => c.receiver({}, client).receiveMessages(1, { maxWaitTimeInMs: 2_000 }));
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

test("entity-disabled", async (c) => {
  const client = c.client({ retries: NO_RETRIES });
  await refused("MessagingEntityDisabled", () => c.sender(client).sendMessages({ body: "a" }));
  await refused("MessagingEntityDisabled", () => c.receiver({}, client).receiveMessages(1, { maxWaitTimeInMs: 2_000 }));
});

test("quota-exceeded", async (c) => {
  // The queue takes 64 KiB.
  const sender = c.sender(c.client({ retries: NO_RETRIES }));
  await refused("QuotaExceeded", async () => {
    for (let time = 0; time < 20; time++) await sender.sendMessages({ body: Buffer.alloc(10_000) });
  });
  await c.take(c.deleting(), 6);
  await sender.sendMessages({ body: "room again" });
});

test("server-busy", async (c) => {
  const sender = c.sender(c.client({ retries: NO_RETRIES }));
  await sender.sendMessages({ body: "before", messageId: "before" });
  await c.plan.fault({ on: "transfer_in", entity: c.entity, do: "throttle" });
  await refused("ServiceBusy", () => sender.sendMessages({ body: "lost", messageId: "lost" }));
  await sender.sendMessages({ body: "after", messageId: "after" });
  same(ids(await c.take(c.deleting(), 2)), ["before", "after"]);
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

test("session-ended", (c) => recovers(c, { do: "end", entity: c.entity }));

test("lost-answer", async (c) => {
  // The broker takes a message and the connection dies before it says so: the SDK sends again, and the queue, which detects
  // duplicates, has it once.
  await c.plan.fault({ on: "transfer_in", entity: c.entity, do: "drop_answer", reset: true });
  await c.send("a");
  await c.send("b");
  const receiver = c.deleting();
  same(ids(await c.take(receiver, 2)), ["a", "b"]);
  await c.nothing(receiver);
});

test("busy-for-a-moment", async (c) => {
  // The first try is throttled; the SDK waits and sends again.
  await c.plan.fault({ on: "transfer_in", entity: c.entity, do: "throttle" });
  await c.send("a");
  same(ids(await c.take(c.deleting(), 1)), ["a"]);
});
