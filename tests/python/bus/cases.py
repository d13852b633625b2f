"""One case per operation, for both Python SDKs."""
import asyncio
import datetime
import time
import uuid

from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType, AmqpMessageHeader, AmqpMessageProperties
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)

from suite import case, refused, same, until

DELETE = ServiceBusReceiveMode.RECEIVE_AND_DELETE
DEAD = ServiceBusSubQueue.DEAD_LETTER


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def in_seconds(seconds):
    return now() + datetime.timedelta(seconds=seconds)


def ids(messages):
    return [message.message_id for message in messages]


def text(value):
    """This SDK gives text in AMQP maps as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def properties(message):
    return {text(name): text(value) for name, value in (message.application_properties or {}).items()}


# Send ----------------------------------------------------------------------------------------------------------------

@case("send-one")
async def send_one(c):
    await (await c.sender()).send_messages(ServiceBusMessage("hello", message_id="1"))
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    same((str(message), message.message_id), ("hello", "1"))
    await receiver.complete_message(message)
    await c.drained()


@case("send-list")
async def send_list(c):
    wanted = [f"m{number}" for number in range(50)]
    await (await c.sender()).send_messages([ServiceBusMessage(name, message_id=name) for name in wanted])
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 50)), wanted)


@case("send-batch")
async def send_batch(c):
    sender = await c.sender()
    batch = await sender.create_message_batch()
    for number in range(100):
        batch.add_message(ServiceBusMessage(f"body {number}", message_id=str(number), application_properties={"n": number}))
    await sender.send_messages(batch)
    messages = await c.take(await c.receiver(receive_mode=DELETE), 100)
    same([(message.message_id, str(message), properties(message)["n"]) for message in messages],
         [(str(number), f"body {number}", number) for number in range(100)])


@case("batch-overflow")
async def batch_overflow(c):
    sender = await c.sender()
    batch, count = await sender.create_message_batch(), 0
    with refused(MessageSizeExceededError):
        while True:
            batch.add_message(ServiceBusMessage(b"x" * 100_000))
            count += 1
    assert count >= 2, f"only {count} messages of 100 kB fitted"
    await sender.send_messages(batch)
    same(len(await c.take(await c.receiver(receive_mode=DELETE), count)), count)


@case("send-empty-body")
async def send_empty_body(c):
    await (await c.sender()).send_messages(ServiceBusMessage(b"", message_id="empty"))
    [message] = await c.take(await c.receiver(receive_mode=DELETE), 1)
    same((b"".join(message.body), message.message_id), (b"", "empty"))


@case("send-large")
async def send_large(c):
    body = bytes(number * number % 251 for number in range(900_000))
    await (await c.sender()).send_messages(ServiceBusMessage(body))
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    assert b"".join(message.body) == body, "900 kB came back changed"
    await receiver.complete_message(message)


@case("message-too-large")
async def message_too_large(c):
    sender = await c.sender()
    with refused(MessageSizeExceededError):
        await sender.send_messages(ServiceBusMessage(b"x" * 1_100_000))
    await sender.send_messages(ServiceBusMessage("small", message_id="small"))
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 1)), ["small"], "the sender goes on")


@case("message-too-large-for-entity")
async def message_too_large_for_entity(c):
    # The entity takes 64 KiB; this SDK asks its constants first, so it is the broker that refuses.
    sender = await c.sender()
    with refused(MessageSizeExceededError):
        await sender.send_messages(ServiceBusMessage(b"x" * 100_000))
    await sender.send_messages(ServiceBusMessage("small", message_id="small"))
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 1)), ["small"], "the sender goes on")


@case("schedule")
async def schedule(c):
    sender, receiver = await c.sender(), await c.receiver(receive_mode=DELETE)
    due = in_seconds(3)
    [number] = await sender.schedule_messages(ServiceBusMessage("later", message_id="later"), due)
    assert number > 0, f"sequence number {number}"
    await c.nothing(receiver)
    [message] = await c.take(receiver, 1)
    same(message.message_id, "later")
    assert now() >= due - datetime.timedelta(milliseconds=50), "came before it was due"


@case("schedule-many")
async def schedule_many(c):
    messages = [ServiceBusMessage(name, message_id=name) for name in ("a", "b", "c")]
    numbers = await (await c.sender()).schedule_messages(messages, in_seconds(3))
    same(len(set(numbers)), 3, "different sequence numbers")
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 3)), ["a", "b", "c"])


@case("schedule-cancel")
async def schedule_cancel(c):
    sender, receiver = await c.sender(), await c.receiver(receive_mode=DELETE)
    messages = [ServiceBusMessage(name, message_id=name) for name in ("keep", "drop")]
    keep, drop = await sender.schedule_messages(messages, in_seconds(4))
    await sender.cancel_scheduled_messages(drop)
    same(ids(await receiver.peek_messages(10)), ["keep"], "what is still scheduled")
    same(ids(await c.take(receiver, 1)), ["keep"])
    await c.nothing(receiver)
    assert keep != drop


@case("schedule-by-property")
async def schedule_by_property(c):
    receiver = await c.receiver(receive_mode=DELETE)
    due = in_seconds(4)
    message = ServiceBusMessage("later", message_id="later", scheduled_enqueue_time_utc=due)
    await (await c.sender()).send_messages([message, ServiceBusMessage("now", message_id="now")])
    same(ids(await c.take(receiver, 1)), ["now"])
    [message] = await c.take(receiver, 1)
    same(message.message_id, "later")
    assert now() >= due - datetime.timedelta(milliseconds=50), "came before it was due"


@case("peek-scheduled")
async def peek_scheduled(c):
    due = in_seconds(600).replace(microsecond=0)
    await (await c.sender()).schedule_messages(ServiceBusMessage("later", message_id="later"), due)
    [message] = await (await c.receiver()).peek_messages(10)
    same((message.message_id, message.state, message.scheduled_enqueue_time_utc),
         ("later", ServiceBusMessageState.SCHEDULED, due))


@case("duplicate-detection")
async def duplicate_detection(c):
    await c.send("a", "a", "b", "a")
    receiver = await c.receiver(receive_mode=DELETE)
    same(ids(await c.take(receiver, 2)), ["a", "b"])
    await c.nothing(receiver)
    await c.send("a", "c")
    same(ids(await c.take(receiver, 1)), ["c"], "an id is remembered when its message is gone")


# Properties ----------------------------------------------------------------------------------------------------------

@case("message-properties")
async def message_properties(c):
    sent = dict(message_id="id-1", correlation_id="correlation", subject="subject", content_type="text/plain", to="to",
                reply_to="reply", reply_to_session_id="reply-session", session_id="key", partition_key="key",
                time_to_live=datetime.timedelta(minutes=3))
    await (await c.sender()).send_messages(ServiceBusMessage("body", **sent))
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    same({name: getattr(message, name) for name in sent}, sent)
    await receiver.complete_message(message)


@case("application-properties")
async def application_properties(c):
    sent = {
        "text": "ä text", "empty": "", "yes": True, "no": False, "int": 7, "negative": -7, "float": 1.5,
        "uuid": uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "null": None,
    }
    await (await c.sender()).send_messages(ServiceBusMessage("body", application_properties=sent))
    [message] = await c.take(await c.receiver(receive_mode=DELETE), 1)
    same(properties(message), sent)


@case("body-data")
async def body_data(c):
    message = AmqpAnnotatedMessage(data_body=[b"one", b"", b"three"])
    await (await c.sender()).send_messages(message)
    [message] = await c.take(await c.receiver(receive_mode=DELETE), 1)
    same((message.body_type, list(message.body)), (AmqpMessageBodyType.DATA, [b"one", b"", b"three"]))


@case("body-sequence")
async def body_sequence(c):
    await (await c.sender()).send_messages(AmqpAnnotatedMessage(sequence_body=[["a", 1], ["b", 2]]))
    [message] = await c.take(await c.receiver(receive_mode=DELETE), 1)
    sections = [[text(value) for value in section] for section in message.body]
    same((message.body_type, sections), (AmqpMessageBodyType.SEQUENCE, [["a", 1], ["b", 2]]))


@case("body-value")
async def body_value(c):
    await (await c.sender()).send_messages(AmqpAnnotatedMessage(value_body={"name": "shoe", "sizes": [41, 42]}))
    [message] = await c.take(await c.receiver(receive_mode=DELETE), 1)
    body = {text(name): text(value) for name, value in message.body.items()}
    same((message.body_type, body), (AmqpMessageBodyType.VALUE, {"name": "shoe", "sizes": [41, 42]}))


@case("annotated-message")
async def annotated_message(c):
    sent = AmqpAnnotatedMessage(
        data_body=b"body",
        header=AmqpMessageHeader(durable=True, priority=7),
        properties=AmqpMessageProperties(
            message_id="id", user_id=b"user", subject="subject", group_id="group", group_sequence=5,
            content_encoding="gzip", creation_time=1_700_000_000_000, absolute_expiry_time=4_000_000_000_000),
        application_properties={"a": 1}, annotations={"x-mine": "kept"}, footer={"f": "foot"})
    await (await c.sender()).send_messages(sent)
    [message] = await c.take(await c.receiver(receive_mode=DELETE), 1)
    raw = message.raw_amqp_message
    same((raw.header.durable, raw.header.priority), (True, 7), "header")
    seen = raw.properties
    same((text(seen.message_id), seen.user_id, text(seen.subject), text(seen.group_id), seen.group_sequence,
          text(seen.content_encoding), seen.creation_time),
         ("id", b"user", "subject", "group", 5, "gzip", 1_700_000_000_000), "properties")
    annotations = {text(name): text(value) for name, value in raw.annotations.items()}
    same(annotations.get("x-mine"), "kept", "the sender's own annotation")
    same({text(name): text(value) for name, value in (raw.footer or {}).items()}, {"f": "foot"}, "footer")


@case("broker-properties")
async def broker_properties(c):
    before = now() - datetime.timedelta(seconds=2)
    await c.send("a", "b")
    receiver = await c.receiver()
    first, second = await c.take(receiver, 2)
    assert second.sequence_number == first.sequence_number + 1, "sequence numbers follow each other"
    same(first.delivery_count, 0, "delivery count")
    assert before <= first.enqueued_time_utc <= now() + datetime.timedelta(seconds=1), "enqueued time"
    assert first.locked_until_utc > now(), "locked until"
    assert isinstance(first.lock_token, uuid.UUID) and first.lock_token != second.lock_token, "lock tokens"
    same(first.state, ServiceBusMessageState.ACTIVE)
    same((first.dead_letter_source, first.dead_letter_reason), (None, None))


# Receive -------------------------------------------------------------------------------------------------------------

@case("receive-peek-lock")
async def receive_peek_lock(c):
    await c.send("a")
    first, second = await c.receiver(), await c.receiver()
    [message] = await c.take(first, 1)
    await c.nothing(second)
    same((await c.plan.counts(c.entity))["locked"], 1, "locked messages")
    await first.complete_message(message)
    await c.drained()


@case("receive-and-delete")
async def receive_and_delete(c):
    await c.send("a", "b")
    receiver = await c.receiver(receive_mode=DELETE)
    same(ids(await c.take(receiver, 2)), ["a", "b"])
    await c.drained()


@case("receive-wait")
async def receive_wait(c):
    started = time.monotonic()
    same(await (await c.receiver()).receive_messages(max_wait_time=1), [])
    waited = time.monotonic() - started
    assert waited >= 0.9, f"came back after {waited:.2f} s"


@case("receive-what-is-there")
async def receive_what_is_there(c):
    await c.send("a", "b", "c")
    receiver = await c.receiver(receive_mode=DELETE)
    seen = []
    while len(seen) < 3:
        batch = await receiver.receive_messages(max_message_count=100, max_wait_time=5)
        assert batch, "no more messages came"
        seen += ids(batch)
    same(seen, ["a", "b", "c"])


@case("receive-late")
async def receive_late(c):
    receiver = await c.receiver(receive_mode=DELETE)
    waiting = asyncio.create_task(receiver.receive_messages(max_wait_time=20))
    await asyncio.sleep(0.5)
    await c.send("a")
    same(ids(await waiting), ["a"])


@case("prefetch")
async def prefetch(c):
    await c.send(*(str(number) for number in range(20)))
    receiver = await c.receiver(prefetch_count=10)
    [first] = await c.take(receiver, 1)

    async def ten_are_locked():
        # The SDK looks at its socket only when it is asked for something.
        return (await c.plan.counts(c.entity))["locked"] >= 10
    await until("ten locked messages", ten_are_locked)
    seen = [first, *await c.take(receiver, 19)]
    same(ids(seen), [str(number) for number in range(20)])
    for message in seen:
        await receiver.complete_message(message)
    await c.drained()


@case("iterate")
async def iterate(c):
    await c.send("a", "b", "c")
    receiver, seen = await c.receiver(max_wait_time=2), []
    async for message in receiver:
        seen.append(message.message_id)
        await receiver.complete_message(message)
    same(seen, ["a", "b", "c"])
    await c.drained()


@case("in-order")
async def in_order(c):
    wanted = [str(number) for number in range(500)]
    await (await c.sender()).send_messages([ServiceBusMessage(name, message_id=name) for name in wanted])
    same(ids(await c.take(await c.receiver(receive_mode=DELETE, prefetch_count=100), 500)), wanted)


@case("competing-receivers")
async def competing_receivers(c):
    wanted = {str(number) for number in range(60)}
    await (await c.sender()).send_messages([ServiceBusMessage(name, message_id=name) for name in wanted])
    seen = []

    async def work():
        receiver = await c.receiver()
        while len(seen) < len(wanted):
            for message in await receiver.receive_messages(max_message_count=5, max_wait_time=1):
                seen.append(message.message_id)
                await receiver.complete_message(message)

    await asyncio.gather(work(), work())
    same(sorted(seen), sorted(wanted), "each message once")
    await c.drained()


@case("many-receivers")
async def many_receivers(c):
    receivers = await asyncio.gather(*(c.receiver() for _ in range(8)))
    waiting = [asyncio.create_task(c.take(receiver, 1)) for receiver in receivers]
    await c.send(*(str(number) for number in range(8)))
    taken = await asyncio.gather(*waiting)
    same(sorted(message.message_id for [message] in taken), [str(number) for number in range(8)])
    for receiver, [message] in zip(receivers, taken):
        await receiver.complete_message(message)
    await c.drained()


@case("close-while-receiving")
async def close_while_receiving(c):
    receiver = await c.receiver()
    waiting = asyncio.create_task(receiver.receive_messages(max_wait_time=3))
    await asyncio.sleep(0.5)
    await receiver.close()
    # What the call says then is the SDK's own affair; that it ends, and that no message is lost, is ours.
    await asyncio.gather(waiting, return_exceptions=True)
    await c.send("a")
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 1)), ["a"])


# Settle --------------------------------------------------------------------------------------------------------------

@case("complete")
async def complete(c):
    await c.send("a", "b")
    receiver = await c.receiver()
    for message in await c.take(receiver, 2):
        await receiver.complete_message(message)
    await c.drained()
    same((await c.plan.counts(c.entity))["totals"]["completed"], 2)


@case("abandon")
async def abandon(c):
    await c.send("a")
    receiver = await c.receiver()
    for count in range(3):
        [message] = await c.take(receiver, 1)
        same((message.message_id, message.delivery_count), ("a", count))
        await receiver.abandon_message(message)


@case("release")
async def release(c):
    await c.send(*(str(number) for number in range(10)))
    receiver = await c.receiver(prefetch_count=10)
    [message] = await c.take(receiver, 1)
    await receiver.complete_message(message)
    # What was prefetched and never asked for goes back, and does not count as a delivery.
    await receiver.close()
    messages = await c.take(await c.receiver(), 9, seconds=4)
    same([message.delivery_count for message in messages], [0] * 9, "delivery counts")


@case("defer")
async def defer(c):
    await c.send("a", "b")
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    await receiver.defer_message(message)
    same(ids(await c.take(receiver, 1)), ["b"], "a deferred message is not delivered")
    # It peeks on from what was received last, if it is not told from where.
    [peeked] = await receiver.peek_messages(1, sequence_number=1)
    same((peeked.message_id, peeked.state), ("a", ServiceBusMessageState.DEFERRED))


@case("receive-deferred")
async def receive_deferred(c):
    await c.send("a", "b")
    receiver = await c.receiver()
    numbers = []
    for message in await c.take(receiver, 2):
        numbers.append(message.sequence_number)
        await receiver.defer_message(message)
    messages = await receiver.receive_deferred_messages(numbers)
    same(sorted(ids(messages)), ["a", "b"])
    for message in messages:
        assert message.lock_token, "a lock"
        await receiver.complete_message(message)
    await c.drained()


@case("settle-deferred")
async def settle_deferred(c):
    names = ["complete", "abandon", "defer", "dead-letter"]
    await c.send(*names)
    receiver = await c.receiver()
    numbers = {}
    for message in await c.take(receiver, 4):
        numbers[message.message_id] = message.sequence_number
        await receiver.defer_message(message)
    for message in await receiver.receive_deferred_messages(list(numbers.values())):
        match message.message_id:
            case "complete":
                await receiver.complete_message(message)
            case "abandon":
                await receiver.abandon_message(message)
            case "defer":
                await receiver.defer_message(message)
            case "dead-letter":
                await receiver.dead_letter_message(message, reason="why", error_description="because")
    messages = await receiver.receive_deferred_messages([numbers["abandon"], numbers["defer"]])
    same(sorted(ids(messages)), ["abandon", "defer"], "both are still deferred")
    [dead] = await c.take(await c.receiver(sub_queue=DEAD), 1)
    same((dead.message_id, dead.dead_letter_reason, dead.dead_letter_error_description), ("dead-letter", "why", "because"))


@case("receive-deferred-and-delete")
async def receive_deferred_and_delete(c):
    await c.send("a")
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    await receiver.defer_message(message)
    deleting = await c.receiver(receive_mode=DELETE)
    same(ids(await deleting.receive_deferred_messages(message.sequence_number)), ["a"])
    await c.drained()


@case("deferred-not-found")
async def deferred_not_found(c):
    with refused(MessageNotFoundError):
        await (await c.receiver()).receive_deferred_messages([4711])


@case("dead-letter")
async def dead_letter(c):
    await c.send("a")
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    await receiver.dead_letter_message(message, reason="bad", error_description="a long story")
    await c.nothing(receiver)
    [dead] = await c.take(await c.receiver(sub_queue=DEAD), 1)
    same((dead.message_id, dead.dead_letter_reason, dead.dead_letter_error_description), ("a", "bad", "a long story"))
    same(properties(dead)["DeadLetterReason"], "bad")


# Dead-letter queue ---------------------------------------------------------------------------------------------------

@case("dead-letter-queue")
async def dead_letter_queue(c):
    await c.send("a", "b")
    receiver = await c.receiver()
    for message in await c.take(receiver, 2):
        await receiver.dead_letter_message(message, reason="bad")
    dead = await c.receiver(sub_queue=DEAD)
    same([(message.message_id, message.dead_letter_source) for message in await dead.peek_messages(10)],
         [("a", c.entity), ("b", c.entity)], "peeked")
    for message in await c.take(dead, 2):
        same(message.dead_letter_source, c.entity)
        await dead.complete_message(message)
    await c.nothing(dead)


@case("dead-letter-queue-abandon")
async def dead_letter_queue_abandon(c):
    await c.send("a")
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    await receiver.dead_letter_message(message)
    dead = await c.receiver(sub_queue=DEAD)
    counts = []
    for _ in range(4):
        [message] = await c.take(dead, 1)
        counts.append(message.delivery_count)
        await dead.abandon_message(message)
    same([count - counts[0] for count in counts], [0, 1, 2, 3], "there is no maximum on a dead-letter queue")


@case("dead-letter-resubmit")
async def dead_letter_resubmit(c):
    sender = await c.send("a")
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    await receiver.dead_letter_message(message, reason="try again")
    dead = await c.receiver(sub_queue=DEAD)
    [message] = await c.take(dead, 1)
    await sender.send_messages(ServiceBusMessage(b"".join(message.body), message_id="a-again"))
    await dead.complete_message(message)
    [message] = await c.take(receiver, 1)
    same((message.message_id, str(message), message.delivery_count), ("a-again", "a", 0))


@case("max-delivery-count")
async def max_delivery_count(c):
    await c.send("a")
    receiver = await c.receiver()
    for count in range(3):
        [message] = await c.take(receiver, 1)
        same(message.delivery_count, count)
        await receiver.abandon_message(message)
    [dead] = await c.take(await c.receiver(sub_queue=DEAD), 1)
    same((dead.message_id, dead.dead_letter_reason), ("a", "MaxDeliveryCountExceeded"))
    assert dead.dead_letter_error_description, "a description"


@case("time-to-live")
async def time_to_live(c):
    life = datetime.timedelta(seconds=1)
    await (await c.sender()).send_messages([
        ServiceBusMessage("short", message_id="short", time_to_live=life), ServiceBusMessage("long", message_id="long")])

    async def one_is_gone():
        return (await c.plan.counts(c.entity))["active"] == 1
    await until("the end of a message", one_is_gone)
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 1)), ["long"])
    await c.nothing(await c.receiver(sub_queue=DEAD))


@case("time-to-live-dead-letter")
async def time_to_live_dead_letter(c):
    message = ServiceBusMessage("short", message_id="short", time_to_live=datetime.timedelta(seconds=1))
    await (await c.sender()).send_messages(message)
    [dead] = await c.take(await c.receiver(sub_queue=DEAD), 1)
    same((dead.message_id, dead.dead_letter_reason), ("short", "TTLExpiredException"))
    assert dead.dead_letter_error_description, "a description"


@case("time-to-live-of-entity")
async def time_to_live_of_entity(c):
    # The entity's default is 2 s: it holds for a message without a life, and for one that asks for more.
    more = ServiceBusMessage("more", message_id="more", time_to_live=datetime.timedelta(hours=1))
    await (await c.sender()).send_messages([ServiceBusMessage("none", message_id="none"), more])
    [_, peeked] = await (await c.receiver()).peek_messages(10)
    same(peeked.time_to_live, datetime.timedelta(seconds=2), "the life that a receiver sees")
    dead = await c.take(await c.receiver(sub_queue=DEAD), 2)
    same([(message.message_id, message.dead_letter_reason) for message in dead],
         [("none", "TTLExpiredException"), ("more", "TTLExpiredException")])


# Locks and peeking ---------------------------------------------------------------------------------------------------

@case("lock-renew")
async def lock_renew(c):
    await c.send("a")
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    first = message.locked_until_utc
    end = first + datetime.timedelta(seconds=1)
    while now() < end:
        await asyncio.sleep(0.5)
        until_when = await receiver.renew_message_lock(message)
        assert until_when > first and message.locked_until_utc == until_when, "a lock that lasts longer"
    await receiver.complete_message(message)
    await c.drained()


@case("lock-renew-automatically")
async def lock_renew_automatically(c):
    await c.send("a")
    receiver, renewer = await c.receiver(), await c.renewer()
    [message] = await c.take(receiver, 1)
    renewer.register(receiver, message, max_lock_renewal_duration=30)
    await asyncio.sleep(5)  # the lock lasts 3 s
    await receiver.complete_message(message)
    await c.drained()
    same((await c.plan.counts(c.entity))["totals"]["deliveries"], 1, "deliveries")


@case("lock-expires")
async def lock_expires(c):
    await c.send("a")
    receiver = await c.receiver()
    [first] = await c.take(receiver, 1)
    [second] = await c.take(receiver, 1)
    same([(first.message_id, first.delivery_count), (second.message_id, second.delivery_count)], [("a", 0), ("a", 1)])
    assert first.lock_token != second.lock_token, "a lock of its own"


@case("lock-lost-settling")
async def lock_lost_settling(c):
    await c.send("a")
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    await c.plan.fault(on="now", do="lose_lock", entity=c.entity)
    with refused(MessageLockLostError):
        await receiver.complete_message(message)


@case("lock-lost-renewing")
async def lock_lost_renewing(c):
    await c.send("a")
    receiver = await c.receiver()
    [message] = await c.take(receiver, 1)
    await c.plan.fault(on="now", do="lose_lock", entity=c.entity)
    with refused(MessageLockLostError):
        await receiver.renew_message_lock(message)


@case("peek")
async def peek(c):
    await c.send("a", "b", "c")
    receiver = await c.receiver()
    same(ids(await receiver.peek_messages(2)), ["a", "b"])
    same(ids(await receiver.peek_messages(2, sequence_number=1)), ["a", "b"], "peeking takes nothing")
    same([message.delivery_count for message in await c.take(receiver, 3)], [0, 0, 0])


@case("peek-from")
async def peek_from(c):
    await c.send("a", "b", "c")
    receiver = await c.receiver()
    second = (await receiver.peek_messages(3))[1].sequence_number
    same(ids(await receiver.peek_messages(5, sequence_number=second)), ["b", "c"])
    same(ids(await receiver.peek_messages(5, sequence_number=second + 2)), [])


@case("peek-nothing")
async def peek_nothing(c):
    same(await (await c.receiver()).peek_messages(10), [])


@case("peek-locked")
async def peek_locked(c):
    await c.send("a", "b")
    receiver = await c.receiver()
    await c.take(receiver, 1)
    same(ids(await receiver.peek_messages(10, sequence_number=1)), ["a", "b"], "a locked message is seen too")


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
    due = in_seconds(3)
    sender = await c.topic_sender()
    keep, drop = await sender.schedule_messages(
        [ServiceBusMessage("keep", message_id="keep"), ServiceBusMessage("drop", message_id="drop")], due)
    await sender.cancel_scheduled_messages([drop])
    for name in ("s1", "s2"):
        receiver = await c.subscriber(name, receive_mode=DELETE)
        same(ids(await c.take(receiver, 1)), ["keep"], name)
        await c.nothing(receiver)


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


@case("token-expires")
async def token_expires(c):
    client = await c.client(c.plan.with_sas(c.plan.sas(c.entity, life_s=2)), retry_total=0)
    receiver = await c.receiver(client=client)
    with refused(*UNAUTHORIZED, ServiceBusConnectionError):
        for _ in range(10):
            await receiver.receive_messages(max_wait_time=1)


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
