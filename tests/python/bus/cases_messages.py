"""Cases of both Python SDKs: sending, properties and receiving."""
import asyncio
import datetime
import time
import uuid

from azure.servicebus import ServiceBusMessage, ServiceBusMessageState
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType, AmqpMessageHeader, AmqpMessageProperties
from azure.servicebus.exceptions import MessageSizeExceededError

from suite import case, refused, same, until
from words import DELETE, ids, in_seconds, now, properties, text

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
    due = in_seconds(8)
    [number] = await sender.schedule_messages(ServiceBusMessage("later", message_id="later"), due)
    assert number > 0, f"sequence number {number}"
    await c.nothing(receiver)
    [message] = await c.take(receiver, 1)
    same(message.message_id, "later")
    assert now() >= due - datetime.timedelta(milliseconds=50), "came before it was due"


@case("schedule-many")
async def schedule_many(c):
    messages = [ServiceBusMessage(name, message_id=name) for name in ("a", "b", "c")]
    numbers = await (await c.sender()).schedule_messages(messages, in_seconds(8))
    same(len(set(numbers)), 3, "different sequence numbers")
    same(ids(await c.take(await c.receiver(receive_mode=DELETE), 3)), ["a", "b", "c"])


@case("schedule-cancel")
async def schedule_cancel(c):
    sender, receiver = await c.sender(), await c.receiver(receive_mode=DELETE)
    messages = [ServiceBusMessage(name, message_id=name) for name in ("keep", "drop")]
    keep, drop = await sender.schedule_messages(messages, in_seconds(8))
    await sender.cancel_scheduled_messages(drop)
    same(ids(await receiver.peek_messages(10)), ["keep"], "what is still scheduled")
    same(ids(await c.take(receiver, 1)), ["keep"])
    await c.nothing(receiver)
    assert keep != drop


@case("schedule-by-property")
async def schedule_by_property(c):
    receiver = await c.receiver(receive_mode=DELETE)
    due = in_seconds(8)
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
