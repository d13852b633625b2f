"""Cases of both Python SDKs: settling, dead-letter queues, locks and peeking."""
import asyncio
import datetime

from azure.servicebus import ServiceBusMessage, ServiceBusMessageState
from azure.servicebus.exceptions import MessageLockLostError, MessageNotFoundError

from suite import case, refused, same, until
from words import DEAD, DELETE, ids, now, properties

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
    # The entity's default is 8 s: it holds for a message without a life, and for one that asks for more.
    more = ServiceBusMessage("more", message_id="more", time_to_live=datetime.timedelta(hours=1))
    await (await c.sender()).send_messages([ServiceBusMessage("none", message_id="none"), more])
    [_, peeked] = await (await c.receiver()).peek_messages(10)
    same(peeked.time_to_live, datetime.timedelta(seconds=8), "the life that a receiver sees")
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
