"""Cases of Qpid Proton: settling, dead-letter queues, locks and peeking."""
import time
import uuid

from proton import Delivery, Message, symbol, uint

from proton_bus import LOCK_LOST, TIMEOUT_S, answered, case, dead_letter, decoded, longs, sequence_of, uuids
from suite import same

# Settle --------------------------------------------------------------------------------------------------------------

@case("complete")
def complete(c):
    c.send("a", "b")
    receiver = c.receiver()
    receiver.complete(receiver.receive()[1])
    # Settled at once, as AMQP allows: nothing is answered, and it holds all the same.
    _, delivery = receiver.receive()
    delivery.update(Delivery.ACCEPTED)
    delivery.settle()
    c.peek()  # a round trip, which takes the settlement along
    c.drained()
    same(c.counts()["totals"]["completed"], 2)


@case("abandon")
def abandon(c):
    c.send("a")
    receiver = c.receiver()
    for count in range(3):
        message, delivery = receiver.receive()
        same((message.body, message.delivery_count, message.first_acquirer), ("a", count, count == 0))
        same(receiver.settle(delivery, Delivery.MODIFIED, failed=True), (Delivery.MODIFIED, None))


@case("abandon-with-properties")
def abandon_with_properties(c):
    c.sender().send(Message(body="a", properties={"kept": 1, "changed": 1}))
    receiver = c.receiver()
    _, delivery = receiver.receive()
    receiver.settle(delivery, Delivery.MODIFIED, annotations={symbol("changed"): 2, symbol("added"): "new"})
    same(receiver.receive()[0].properties, {"kept": 1, "changed": 2, "added": "new"})


@case("release")
def release(c):
    c.send("a")
    receiver = c.receiver()
    for _ in range(3):
        message, delivery = receiver.receive()
        same((message.body, message.delivery_count), ("a", 0), "released does not count")
        same(receiver.settle(delivery, Delivery.RELEASED), (Delivery.RELEASED, None))


def deferred(c, receiver, **local):
    message, delivery = receiver.receive()
    same(receiver.settle(delivery, Delivery.MODIFIED, undeliverable=True, **local), (Delivery.MODIFIED, None))
    return sequence_of(message)


def receive_deferred_messages(c, numbers, mode=1):
    answer = c.ask("receive-by-sequence-number", sequence_numbers=longs(numbers), receiver_settle_mode=uint(mode))
    return [(decoded(entry["message"]), entry.get("lock-token")) for entry in answer["messages"]]


@case("defer")
def defer(c):
    c.send("a", "b")
    receiver = c.receiver()
    deferred(c, receiver)
    same(receiver.receive()[0].body, "b", "a deferred message is not delivered")
    peeked = c.peek()[0]
    same((peeked.body, peeked.annotations["x-opt-message-state"]), ("a", 1))


@case("defer-with-properties")
def defer_with_properties(c):
    c.send("a")
    number = deferred(c, c.receiver(), annotations={symbol("why"): "too early"})
    [(message, _)] = receive_deferred_messages(c, [number])
    same(message.properties, {"why": "too early"})


@case("receive-deferred")
def receive_deferred(c):
    c.send("a", "b")
    receiver = c.receiver()
    taken = receive_deferred_messages(c, [deferred(c, receiver), deferred(c, receiver)])
    same(sorted(message.body for message, _ in taken), ["a", "b"])
    c.ask("update-disposition", disposition_status="completed", lock_tokens=uuids([token for _, token in taken]))
    c.drained()


@case("settle-deferred")
def settle_deferred(c):
    c.send("abandoned", "defered", "suspended", "completed")
    receiver = c.receiver()
    numbers = [deferred(c, receiver) for _ in range(4)]
    for message, token in receive_deferred_messages(c, numbers):
        more = {"deadletter-reason": "why", "deadletter-description": "because"} if message.body == "suspended" else {}
        c.ask("update-disposition", disposition_status=message.body, lock_tokens=uuids([token]), **more)
    same(sorted(message.body for message, _ in receive_deferred_messages(c, numbers[:2])), ["abandoned", "defered"])
    message, _ = c.dead().receive()
    same((message.body, message.properties),
         ("suspended", {"DeadLetterReason": "why", "DeadLetterErrorDescription": "because"}))


@case("receive-deferred-and-delete")
def receive_deferred_and_delete(c):
    c.send("a")
    [(message, token)] = receive_deferred_messages(c, [deferred(c, c.receiver())], mode=0)
    same((message.body, token), ("a", None))
    c.drained()


@case("deferred-not-found")
def deferred_not_found(c):
    with answered(404, "com.microsoft:message-not-found"):
        receive_deferred_messages(c, [4711])


@case("dead-letter")
def dead_letter_one(c):
    c.send("a")
    receiver = c.receiver()
    dead_letter(receiver, receiver.receive()[1])
    receiver.nothing()
    message, _ = c.dead().receive()
    same((message.body, message.properties),
         ("a", {"DeadLetterReason": "bad", "DeadLetterErrorDescription": "a long story"}))


@case("dead-letter-with-properties")
def dead_letter_with_properties(c):
    c.sender().send(Message(body="a", properties={"kept": 1}))
    receiver = c.receiver()
    dead_letter(receiver, receiver.receive()[1], more="detail")
    properties = c.dead().receive()[0].properties
    same((properties["kept"], properties["more"], properties["DeadLetterReason"]), (1, "detail", "bad"))


# Dead-letter queue ---------------------------------------------------------------------------------------------------

@case("dead-letter-queue")
def dead_letter_queue(c):
    c.send("a", "b")
    receiver, dead = c.receiver(), c.dead()
    for name in ("a", "b"):
        dead_letter(receiver, receiver.receive()[1])
        message, delivery = dead.receive()
        same((message.body, message.annotations["x-opt-deadletter-source"]), (name, c.entity))
        dead.complete(delivery)
    dead.nothing()


@case("dead-letter-queue-abandon")
def dead_letter_queue_abandon(c):
    c.send("a")
    receiver, dead = c.receiver(), c.dead()
    dead_letter(receiver, receiver.receive()[1])
    counts = []
    for _ in range(4):
        message, delivery = dead.receive()
        counts.append(message.delivery_count)
        dead.settle(delivery, Delivery.MODIFIED, failed=True)
    same([count - counts[0] for count in counts], [0, 1, 2, 3], "there is no maximum on a dead-letter queue")


@case("dead-letter-resubmit")
def dead_letter_resubmit(c):
    sender, receiver = c.send("a"), c.receiver()
    dead_letter(receiver, receiver.receive()[1])
    dead = c.dead()
    message, delivery = dead.receive()
    sender.send(Message(body=message.body, id="a-again"))
    dead.complete(delivery)
    message, _ = receiver.receive()
    same((message.id, message.body, message.delivery_count), ("a-again", "a", 0))


@case("max-delivery-count")
def max_delivery_count(c):
    c.send("a")
    receiver = c.receiver()
    for _ in range(3):
        receiver.settle(receiver.receive()[1], Delivery.MODIFIED, failed=True)
    message, _ = c.dead().receive()
    same((message.body, message.properties["DeadLetterReason"]), ("a", "MaxDeliveryCountExceeded"))


@case("time-to-live")
def time_to_live(c):
    sender = c.sender()
    sender.send(Message(body="short", ttl=1))
    sender.send(Message(body="long"))
    end = time.monotonic() + TIMEOUT_S
    while c.counts()["active"] != 1:
        assert time.monotonic() < end, "the message did not end"
        time.sleep(0.05)
    same(c.receiver(delete=True).receive()[0].body, "long")
    c.dead().nothing()


@case("time-to-live-dead-letter")
def time_to_live_dead_letter(c):
    c.sender().send(Message(body="short", ttl=1))
    message, _ = c.dead().receive()
    same((message.body, message.properties["DeadLetterReason"]), ("short", "TTLExpiredException"))


@case("time-to-live-of-entity")
def time_to_live_of_entity(c):
    sender = c.sender()
    sender.send(Message(body="none"))
    sender.send(Message(body="more", ttl=3600))
    same([message.ttl for message in c.peek()], [8, 8], "the life that a receiver sees")
    same([(message.body, message.properties["DeadLetterReason"]) for message, _ in c.dead().take(2)],
         [("none", "TTLExpiredException"), ("more", "TTLExpiredException")])


# Locks and peeking ---------------------------------------------------------------------------------------------------

@case("lock-renew")
def lock_renew(c):
    c.send("a")
    receiver = c.receiver()
    message, delivery = receiver.receive()
    token, first = message.instructions["x-opt-lock-token"], message.annotations["x-opt-locked-until"]
    while time.time() < first / 1000 + 1:
        time.sleep(0.5)
        [until] = c.ask("renew-lock", lock_tokens=uuids([token]))["expirations"].elements
        assert until > first, "a lock that lasts longer"
    receiver.complete(delivery)
    c.drained()


@case("lock-expires")
def lock_expires(c):
    c.send("a")
    (first, _), (second, _) = c.receiver(credit=2).take(2)
    same([(message.body, message.delivery_count) for message in (first, second)], [("a", 0), ("a", 1)])


@case("lock-lost-settling")
def lock_lost_settling(c):
    c.send("a")
    receiver = c.receiver()
    _, delivery = receiver.receive()
    c.plan.admin("POST", "/faults", {"faults": [{"on": "now", "do": "lose_lock", "entity": c.entity}]})
    same(receiver.settle(delivery, Delivery.ACCEPTED), (Delivery.REJECTED, LOCK_LOST))


@case("lock-lost-renewing")
def lock_lost_renewing(c):
    with answered(410, LOCK_LOST):
        c.ask("renew-lock", lock_tokens=uuids([uuid.uuid4()]))


@case("peek")
def peek(c):
    c.send("a", "b", "c")
    same([message.body for message in c.peek(count=2)], ["a", "b"])
    same([message.body for message in c.peek(count=2)], ["a", "b"], "peeking takes nothing")
    same([message.delivery_count for message, _ in c.receiver(credit=3).take(3)], [0, 0, 0])


@case("peek-from")
def peek_from(c):
    c.send("a", "b", "c")
    second = sequence_of(c.peek()[1])
    same([message.body for message in c.peek(second)], ["b", "c"])
    same(c.peek(second + 2), [])


@case("peek-nothing")
def peek_nothing(c):
    same(c.peek(), [])


@case("peek-locked")
def peek_locked(c):
    c.send("a", "b")
    c.receiver().receive()
    same([message.body for message in c.peek()], ["a", "b"], "a locked message is seen too")
