"""Cases of both Python SDKs: topics, security, errors and recovery."""
import asyncio
import time

from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.servicebus import ServiceBusMessage, TransportType
from azure.servicebus.exceptions import (
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)

from suite import case, refused, same
from words import DEAD, DELETE, ids, in_seconds, properties

# Topics --------------------------------------------------------------------------------------------------------------

@case("fan-out")
async def fan_out(c):
    sender = await c.topic_sender()
    await sender.send_messages(ServiceBusMessage("one", message_id="one", application_properties={"a": 1}))
    await sender.send_messages([ServiceBusMessage(name, message_id=name) for name in ("two", "three")])
    for name in ("s1", "s2"):
        receiver = await c.subscriber(name)
        messages = await c.take(receiver, 3)
        same((ids(messages), properties(messages[0])), (["one", "two", "three"], {"a": 1}), name)
        for message in messages:
            await receiver.complete_message(message)
        await c.drained(f"{c.entity}/subscriptions/{name}")


@case("subscription-dead-letter-queue")
async def subscription_dead_letter_queue(c):
    await (await c.topic_sender()).send_messages(ServiceBusMessage("one", message_id="one"))
    first = await c.subscriber("s1")
    [message] = await c.take(first, 1)
    await first.dead_letter_message(message, reason="bad", error_description="very")
    [dead] = await c.take(await c.subscriber("s1", sub_queue=DEAD), 1)
    same((dead.message_id, dead.dead_letter_reason, dead.dead_letter_error_description), ("one", "bad", "very"))
    same(ids(await c.take(await c.subscriber("s2"), 1)), ["one"], "the other subscription has its own")


@case("topic-schedule")
async def topic_schedule(c):
    due = in_seconds(8)
    sender = await c.topic_sender()
    keep, drop = await sender.schedule_messages(
        [ServiceBusMessage("keep", message_id="keep"), ServiceBusMessage("drop", message_id="drop")], due)
    await sender.cancel_scheduled_messages([drop])
    for name in ("s1", "s2"):
        receiver = await c.subscriber(name, receive_mode=DELETE)
        same(ids(await c.take(receiver, 1)), ["keep"], name)
        await c.nothing(receiver)


@case("filters")
async def filters(c):
    sender = await c.topic_sender()
    await sender.send_messages([
        ServiceBusMessage("1", message_id="1", subject="price", application_properties={"color": "red", "size": 41}),
        ServiceBusMessage("2", message_id="2", subject="stock", application_properties={"color": "red", "size": 9}),
        ServiceBusMessage("3", message_id="3", subject="price"),
    ])
    same(ids(await c.take(await c.subscriber("s1", receive_mode=DELETE), 1)), ["1"], "color = 'red' AND size > 10")
    same(ids(await c.take(await c.subscriber("s2", receive_mode=DELETE), 2)), ["1", "3"], "subject = price")
    for name in ("s1", "s2"):
        await c.drained(f"{c.entity}/subscriptions/{name}")


# Security ------------------------------------------------------------------------------------------------------------

async def round_trip(c, client, name="a"):
    await (await c.sender(client=client)).send_messages(ServiceBusMessage(name, message_id=name))
    same(ids(await c.take(await c.receiver(client=client, receive_mode=DELETE), 1)), [name])


@case("sas-of-namespace")
async def sas_of_namespace(c):
    await round_trip(c, await c.client(c.plan.with_sas(c.plan.sas())))


@case("sas-of-entity")
async def sas_of_entity(c):
    await round_trip(c, await c.client(c.plan.with_sas(c.plan.sas(c.entity))))


@case("sas-credential")
async def sas_credential(c):
    await round_trip(c, await c.client(credential=AzureSasCredential(c.plan.sas(c.entity)), use_tls=False))


@case("key-credential")
async def key_credential(c):
    credential = AzureNamedKeyCredential(c.plan.key_name, c.plan.key)
    await round_trip(c, await c.client(credential=credential, use_tls=False))


UNAUTHORIZED = (ServiceBusAuthenticationError, ServiceBusAuthorizationError)


@case("wrong-key")
async def wrong_key(c):
    with refused(*UNAUTHORIZED):
        await round_trip(c, await c.client(c.plan.connection_string(SharedAccessKey="wrong"), retry_total=0))


@case("wrong-key-name")
async def wrong_key_name(c):
    with refused(*UNAUTHORIZED):
        await round_trip(c, await c.client(c.plan.connection_string(SharedAccessKeyName="Nobody"), retry_total=0))


@case("wrong-audience")
async def wrong_audience(c):
    with refused(*UNAUTHORIZED):
        await round_trip(c, await c.client(c.plan.with_sas(c.plan.sas("another-queue")), retry_total=0))


@case("expired-token")
async def expired_token(c):
    with refused(*UNAUTHORIZED):
        await round_trip(c, await c.client(c.plan.with_sas(c.plan.sas(c.entity, life_s=-60)), retry_total=0))


class ShortTokens:
    """A credential of one's own that hands out a SAS with a short life, as TenantService does."""

    def __init__(self, plan, path, life_s):
        self.plan, self.path, self.life_s, self.asked = plan, path, life_s, 0

    def token(self):
        self.asked += 1
        return AccessToken(self.plan.sas(self.path, life_s=self.life_s), int(time.time() + self.life_s))


class BlockingTokens(ShortTokens):
    def get_token(self, *_scopes, **_options):
        return self.token()


class AsyncTokens(ShortTokens):
    async def get_token(self, *_scopes, **_options):
        return self.token()

    async def close(self):
        """Nothing to close."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_error):
        """Nothing to close."""


@case("token-renewed")
async def token_renewed(c):
    tokens = (BlockingTokens if c.blocking else AsyncTokens)(c.plan, c.entity, 3)
    client = await c.client(credential=tokens, use_tls=False)
    sender, receiver = await c.sender(client=client), await c.receiver(client=client)
    started, number = time.monotonic(), 0
    while time.monotonic() < started + 7:
        number += 1
        await sender.send_messages(ServiceBusMessage(str(number), message_id=str(number)))
        [message] = await c.take(receiver, 1)
        same(message.message_id, str(number))
        await receiver.complete_message(message)
        await asyncio.sleep(0.5)
    assert tokens.asked > 2, f"only {tokens.asked} tokens in 7 s"
    await c.drained()


@case("missing-right")
async def missing_right(c):
    # A policy that may listen only, and one that may send only.
    listener = await c.client(c.plan.policy("listener"), retry_total=0)
    sender = await c.client(c.plan.policy("sender"), retry_total=0)
    with refused(*UNAUTHORIZED):
        await (await c.sender(client=listener)).send_messages(ServiceBusMessage("a"))
    with refused(*UNAUTHORIZED):
        await (await c.receiver(client=sender)).receive_messages(max_wait_time=2)
    await (await c.sender(client=sender)).send_messages(ServiceBusMessage("a", message_id="a"))
    same(ids(await c.take(await c.receiver(client=listener, receive_mode=DELETE), 1)), ["a"])


@case("token-expires")
async def token_expires(c):
    client = await c.client(c.plan.with_sas(c.plan.sas(c.entity, life_s=6)), retry_total=0)
    receiver = await c.receiver(client=client)
    with refused(*UNAUTHORIZED, ServiceBusConnectionError):
        for _ in range(20):
            await receiver.receive_messages(max_wait_time=1)


# TLS, WebSocket and access tokens ------------------------------------------------------------------------------------

def over_tls(c, **options):
    """What makes this SDK connect to a port of one's own with TLS, and trust the authority of the run."""
    endpoint = c.plan.tls["Endpoint"]
    return {"connection_verify": c.plan.ready["caFile"], "custom_endpoint_address": endpoint,
            "transport_type": TransportType.Amqp, **options}


@case("tls")
async def tls(c):
    await round_trip(c, await c.client(c.plan.ready["serviceBusTlsConnectionString"], **over_tls(c)))


@case("tls-untrusted")
async def tls_untrusted(c):
    options = over_tls(c, connection_verify=None, retry_total=0)
    with refused(ServiceBusError):
        await round_trip(c, await c.client(c.plan.ready["serviceBusTlsConnectionString"], **options))


@case("websocket")
async def websocket(c):
    options = over_tls(c, transport_type=TransportType.AmqpOverWebsocket)
    await round_trip(c, await c.client(c.plan.ready["serviceBusTlsConnectionString"], **options))


@case("client-certificate")
async def client_certificate(c):
    application = c.plan.ready["clients"][0]
    credential = await c.open(c.identity.CertificateCredential(
        application["directoryId"], application["clientId"], application["certificateFile"], **c.authority()))
    await round_trip(c, await c.client(credential=credential, host="localhost", **over_tls(c)))


@case("client-secret")
async def client_secret(c):
    application = c.plan.ready["clients"][0]
    credential = await c.open(c.identity.ClientSecretCredential(
        application["directoryId"], application["clientId"], application["clientSecret"], **c.authority()))
    await round_trip(c, await c.client(credential=credential, host="localhost", **over_tls(c)))


@case("wrong-client-secret")
async def wrong_client_secret(c):
    application = c.plan.ready["clients"][0]
    credential = await c.open(c.identity.ClientSecretCredential(
        application["directoryId"], application["clientId"], "wrong", **c.authority()))
    with refused(ServiceBusError, ClientAuthenticationError, text="AADSTS7000215"):
        await round_trip(c, await c.client(credential=credential, host="localhost", retry_total=0, **over_tls(c)))


@case("tenant-service")
async def tenant_service(c):
    """An access token for TenantService; the grant that it answers opens the tenant's subscription, and no other."""
    application = c.plan.ready["clients"][0]
    credential = await c.open(c.identity.CertificateCredential(
        application["directoryId"], application["clientId"], application["certificateFile"], **c.authority()))
    token = (await credential.get_token(c.plan.ready["tenantScope"])).token
    bus = (await asyncio.to_thread(c.plan.grant, token))["serviceBus"]
    topic, _, subscription = bus["entityPath"].split("/")
    client = await c.client(f"Endpoint=sb://localhost;SharedAccessSignature={bus['sasToken']}", **over_tls(c, retry_total=0))
    await (await c.open((await c.own_client()).get_topic_sender(topic))).send_messages(
        ServiceBusMessage("file", message_id="file"))
    receiver = await c.open(client.get_subscription_receiver(topic, subscription, receive_mode=DELETE))
    same(ids(await c.take(receiver, 1)), ["file"])
    # With an endpoint of one's own this SDK takes a refused token for a wrong endpoint.
    with refused(*UNAUTHORIZED, ServiceBusConnectionError):
        await (await c.receiver(client=client)).receive_messages(max_wait_time=2)


# Errors --------------------------------------------------------------------------------------------------------------

@case("entity-not-found")
async def entity_not_found(c):
    client = await c.client(retry_total=0)
    with refused(MessagingEntityNotFoundError):
        await (await c.sender("nowhere", client)).send_messages(ServiceBusMessage("a"))
    with refused(MessagingEntityNotFoundError):
        await (await c.receiver("nowhere", client)).receive_messages(max_wait_time=2)


@case("session-refused")
async def session_refused(c):
    client = await c.client(retry_total=0)
    with refused(ServiceBusError, text="session"):
        receiver = await c.receiver(client=client, session_id="one")
        await receiver.receive_messages(max_wait_time=2)


@case("entity-disabled")
async def entity_disabled(c):
    client = await c.client(retry_total=0)
    with refused(MessagingEntityDisabledError):
        await (await c.sender(client=client)).send_messages(ServiceBusMessage("a"))
    with refused(MessagingEntityDisabledError):
        await (await c.receiver(client=client)).receive_messages(max_wait_time=2)


@case("quota-exceeded")
async def quota_exceeded(c):
    # The queue takes 64 KiB.
    sender = await c.sender(client=await c.client(retry_total=0))
    with refused(ServiceBusQuotaExceededError):
        for _ in range(20):
            await sender.send_messages(ServiceBusMessage(b"x" * 10_000))
    receiver = await c.receiver(receive_mode=DELETE)
    await c.take(receiver, 6)
    await sender.send_messages(ServiceBusMessage("room again"))


@case("server-busy")
async def server_busy(c):
    sender = await c.sender(client=await c.client(retry_total=0))
    await sender.send_messages(ServiceBusMessage("before", message_id="before"))
    await c.plan.fault(on="transfer_in", entity=c.entity, do="throttle")
    with refused(ServiceBusServerBusyError):
        await sender.send_messages(ServiceBusMessage("lost", message_id="lost"))
    await sender.send_messages(ServiceBusMessage("after", message_id="after"))
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 2)), ["before", "after"])


# Recovery ------------------------------------------------------------------------------------------------------------

async def recovers(c, **fault):
    """A receiver that is waiting when the fault comes gets the next message, and a sender goes on."""
    sender, receiver = await c.send("before"), await c.receiver()
    [message] = await c.take(receiver, 1)
    await receiver.complete_message(message)
    waiting = asyncio.create_task(c.take(receiver, 1, seconds=30))
    await asyncio.sleep(0.5)
    await c.plan.fault(on="now", **fault)
    await asyncio.sleep(0.2)
    await sender.send_messages(ServiceBusMessage("after", message_id="after"))
    [message] = await waiting
    same(message.message_id, "after")
    await receiver.complete_message(message)
    await c.drained()


@case("link-detached")
async def link_detached(c):
    await recovers(c, do="detach", entity=c.entity)


@case("connection-closed")
async def connection_closed(c):
    await recovers(c, do="close", entity=c.entity)


@case("connection-reset")
async def connection_reset(c):
    await recovers(c, do="reset", entity=c.entity)


@case("lost-answer")
async def lost_answer(c):
    """The broker takes a message and the connection dies before it says so: the SDK sends again, and the queue, which
    detects duplicates, has it once."""
    await c.plan.fault(on="transfer_in", entity=c.entity, do="drop_answer", reset=True)
    await c.send("a")
    await c.send("b")
    receiver = await c.receiver(receive_mode=DELETE)
    same(ids(await c.take(receiver, 2)), ["a", "b"])
    await c.nothing(receiver)


@case("busy-for-a-moment")
async def busy_for_a_moment(c):
    """The first try is throttled; the SDK waits and sends again."""
    await c.plan.fault(on="transfer_in", entity=c.entity, do="throttle")
    await c.send("a")
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 1)), ["a"])
