// Microsoft's `@azure/service-bus` judges `waybill-local`.
//
// usage: node sdk.cjs PLAN
"use strict";

const { ServiceBusClient } = require("@azure/service-bus");
const { Plan, assert, run, until } = require("./suite.cjs");
require("./cases_messages.cjs");
require("./cases_settlement.cjs");
require("./cases_namespace.cjs");

// Small, so that what is refused is refused soon, and what comes back comes back soon.
const RETRIES = { maxRetries: 2, retryDelayInMs: 50, maxRetryDelayInMs: 500, timeoutInMs: 10_000 };

/** What a case gets: its entity, and clients that end with it. */
class Context {
  constructor(plan, operation) {
    this.plan = plan;
    this.entity = operation.entity;
    this.clients = [];
  }

  /** A client of a connection string; or of a credential, which this SDK takes over TLS only. */
  client({ connection = this.plan.connectionString(), credential, retries = {}, ...options } = {}) {
    options = { retryOptions: { ...RETRIES, ...retries }, ...options };
    const client = credential
      ? new ServiceBusClient(this.plan.tlsHost, credential, options)
      : new ServiceBusClient(connection, options);
    this.clients.push(client);
    return client;
  }

  ownClient() {
    return (this.own ??= this.client());
  }

  sender(client = this.ownClient(), queue = this.entity) {
    return client.createSender(queue);
  }

  receiver(options = {}, client = this.ownClient(), queue = this.entity) {
    return client.createReceiver(queue, { maxAutoLockRenewalDurationInMs: 0, ...options });
  }

  deleting(client) {
    return this.receiver({ receiveMode: "receiveAndDelete" }, client);
  }

  dead(options = {}) {
    return this.receiver({ subQueueType: "deadLetter", ...options });
  }

  subscriber(name, options = {}, client = this.ownClient()) {
    return client.createReceiver(this.entity, name, { maxAutoLockRenewalDurationInMs: 0, ...options });
  }

  /** Sends texts as messages with the texts as their ids. */
  async send(...bodies) {
    const sender = this.sender();
    for (const body of bodies) await sender.sendMessages({ body, messageId: body });
    return sender;
  }

  /** Receives so many messages, in as many calls as it takes. */
  async take(receiver, count, ms = 20_000) {
    const taken = [];
    const end = Date.now() + ms;
    while (taken.length < count) {
      const left = end - Date.now();
      if (left <= 0) throw new Error(`${taken.length} of ${count} messages came within ${ms} ms`);
      taken.push(...(await receiver.receiveMessages(count - taken.length, { maxWaitTimeInMs: Math.min(left, 5_000) })));
    }
    return taken;
  }

  async nothing(receiver, ms = 500) {
    const messages = await receiver.receiveMessages(1, { maxWaitTimeInMs: ms });
    assert.deepEqual(messages.map((message) => message.messageId), [], "messages on a queue that should be empty");
  }

  /** Nothing is left on the entity, locked or not. */
  drained(entity = this.entity) {
    return until("an empty queue", async () => {
      const counts = await this.plan.counts(entity);
      return counts.active + counts.locked + counts.deferred === 0;
    });
  }

  async close() {
    await Promise.allSettled(this.clients.map((client) => client.close()));
  }
}

run(new Plan(process.argv[2]), (plan, operation) => new Context(plan, operation)).then(
  // A case that hung may have left a socket behind.
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
