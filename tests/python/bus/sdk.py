"""Microsoft's `azure-servicebus`, synchronous or asynchronous, judges `waybill-local`.

usage: sdk.py sync|async PLAN
"""
import asyncio
import contextlib
import logging
import sys
import time

import azure.identity as blocking_identity
import azure.identity.aio as async_identity
import azure.servicebus as blocking_sdk
import azure.servicebus.aio as async_sdk

import cases_messages  # noqa: F401: each names its cases
import cases_namespace  # noqa: F401
import cases_settlement  # noqa: F401
import suite
from blocking import Blocking

TWINS = {
    blocking_sdk.ServiceBusClient: async_sdk.ServiceBusClient,
    blocking_sdk.ServiceBusSender: async_sdk.ServiceBusSender,
    blocking_sdk.ServiceBusReceiver: async_sdk.ServiceBusReceiver,
    blocking_sdk.AutoLockRenewer: async_sdk.AutoLockRenewer,
}


class Identity:
    """Synchronous credentials behind the interface of the asynchronous ones."""

    def __getattr__(self, name):
        return lambda *arguments, **options: Blocking(
            getattr(blocking_identity, name)(*arguments, **options), getattr(async_identity, name), TWINS)


# Small, so that what is refused is refused soon, and what comes back comes back soon.
RETRIES = {"retry_total": 2, "retry_backoff_factor": 0.05, "retry_backoff_max": 0.5}


class Context:
    """What a case gets: its entity, and clients that end with it."""

    def __init__(self, plan, operation, blocking, stack):
        self.plan, self.blocking, self._stack = plan, blocking, stack
        self.entity = operation["entity"]
        self._client = None

    def _twin(self, value):
        return Blocking(value, TWINS[type(value)], TWINS) if self.blocking else value

    async def open(self, closable):
        return await self._stack.enter_async_context(closable)

    @property
    def identity(self):
        """The credentials of `azure-identity`."""
        return Identity() if self.blocking else async_identity

    def authority(self):
        """What makes them ask the token authority of the run."""
        return {"authority": self.plan.ready["authorityUrl"], "disable_instance_discovery": True,
                "connection_verify": self.plan.ready["caFile"]}

    async def client(self, connection=None, credential=None, host=None, **options):
        sdk = blocking_sdk if self.blocking else async_sdk
        options = {**RETRIES, **options}
        if credential is not None:
            credential = credential._inner if isinstance(credential, Blocking) else credential
            client = sdk.ServiceBusClient(host or self.plan.endpoint, credential, **options)
        else:
            client = sdk.ServiceBusClient.from_connection_string(
                connection or self.plan.connection_string(), **options)
        return await self.open(self._twin(client))

    async def own_client(self):
        if self._client is None:
            self._client = await self.client()
        return self._client

    async def sender(self, queue=None, client=None):
        client = client or await self.own_client()
        return await self.open(client.get_queue_sender(queue or self.entity))

    async def receiver(self, queue=None, client=None, **options):
        client = client or await self.own_client()
        return await self.open(client.get_queue_receiver(queue or self.entity, **options))

    async def topic_sender(self, client=None):
        client = client or await self.own_client()
        return await self.open(client.get_topic_sender(self.entity))

    async def subscriber(self, name, client=None, **options):
        client = client or await self.own_client()
        return await self.open(client.get_subscription_receiver(self.entity, name, **options))

    async def renewer(self, **options):
        sdk = blocking_sdk if self.blocking else async_sdk
        return await self.open(self._twin(sdk.AutoLockRenewer(**options)))

    async def send(self, *bodies):
        """Sends texts as messages with the texts as their ids."""
        sender = await self.sender()
        for body in bodies:
            await sender.send_messages(blocking_sdk.ServiceBusMessage(body, message_id=body))
        return sender

    @staticmethod
    async def take(receiver, count, seconds=20.0):
        """Receives so many messages, in as many calls as it takes."""
        taken, end = [], time.monotonic() + seconds
        while len(taken) < count:
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{len(taken)} of {count} messages came within {seconds} s")
            taken += await receiver.receive_messages(max_message_count=count - len(taken), max_wait_time=min(left, 5.0))
        return taken

    @staticmethod
    async def nothing(receiver, seconds=0.5):
        messages = await receiver.receive_messages(max_message_count=1, max_wait_time=seconds)
        suite.same([message.message_id for message in messages], [], "messages on a queue that should be empty")

    async def drained(self, entity=None):
        """Nothing is left on the entity, locked or not."""
        async def empty():
            counts = await self.plan.counts(entity or self.entity)
            return counts["active"] + counts["locked"] + counts["deferred"] == 0
        await suite.until("an empty queue", empty)


def context_of(blocking):
    @contextlib.asynccontextmanager
    async def context(plan, operation):
        async with contextlib.AsyncExitStack() as stack:
            yield Context(plan, operation, blocking, stack)
    return context


if __name__ == "__main__":
    # The SDK logs what its caller is told anyway.
    logging.disable(logging.CRITICAL)
    mode, path = sys.argv[1:]
    asyncio.run(suite.run(suite.Plan(path), context_of(mode == "sync")))
