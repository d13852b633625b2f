"""Cases of Qpid Proton: sending, properties and receiving."""
import threading
import time
import uuid

from proton import Message, Timeout, int32, symbol, timestamp, ubyte, uint, ulong

from proton_bus import TIMEOUT_S, bodies, case, detached, longs, scheduled, sequence_of
from suite import refused, same

# Send ----------------------------------------------------------------------------------------------------------------

@case("send-one")
def send_one(c):
    c.sender().send(Message(body="hello", id="1"))
    receiver = c.receiver()
    message, delivery = receiver.receive()
    same((message.body, message.id), ("hello", "1"))
    receiver.complete(delivery)
    c.drained()


@case("send-empty-body")
def send_empty_body(c):
    c.sender().send(Message(body=b"", inferred=True, id="empty"))
    message, _ = c.receiver(delete=True).receive()
    same((message.body, message.id), (b"", "empty"))


@case("send-large")
def send_large(c):
    body = bytes(number * number % 251 for number in range(900_000))
    c.sender().send(Message(body=body, inferred=True))
    receiver = c.receiver()
    message, delivery = receiver.receive()
    assert message.body == body, "900 kB came back changed"
    receiver.complete(delivery)


@case("message-too-large")
def message_too_large(c):
    with detached("amqp:link:message-size-exceeded"):
        c.sender().send(Message(body=b"x" * 1_100_000, inferred=True))
    c.send("small")
    same(c.receiver(delete=True).receive()[0].body, "small", "the connection goes on")


@case("message-too-large-for-entity")
def message_too_large_for_entity(c):
    with detached("amqp:link:message-size-exceeded"):
        c.sender().send(Message(body=b"x" * 100_000, inferred=True))
    c.send("small")
    same(c.receiver(delete=True).receive()[0].body, "small", "the connection goes on")


@case("schedule")
def schedule(c):
    receiver, due = c.receiver(delete=True), time.time() + 8
    [number] = scheduled(c, due, "later")
    assert number > 0, f"sequence number {number}"
    receiver.nothing()
    same(receiver.receive()[0].body, "later")
    assert time.time() >= due - 0.05, "came before it was due"


@case("schedule-many")
def schedule_many(c):
    same(len(set(scheduled(c, time.time() + 8, "a", "b", "c"))), 3, "different sequence numbers")
    same(bodies(c.receiver(delete=True).take(3)), ["a", "b", "c"])


@case("schedule-cancel")
def schedule_cancel(c):
    _, drop = scheduled(c, time.time() + 8, "keep", "drop")
    c.ask("cancel-scheduled-message", sequence_numbers=longs([drop]))
    same([message.body for message in c.peek()], ["keep"], "what is still scheduled")
    receiver = c.receiver(delete=True)
    same(receiver.receive()[0].body, "keep")
    receiver.nothing()


@case("schedule-by-property")
def schedule_by_property(c):
    due = time.time() + 8
    later = Message(body="later", annotations={symbol("x-opt-scheduled-enqueue-time"): timestamp(int(due * 1000))})
    sender, receiver = c.sender(), c.receiver(delete=True)
    sender.send(later)
    sender.send(Message(body="now"))
    same(bodies(receiver.take(2)), ["now", "later"])
    assert time.time() >= due - 0.05, "came before it was due"


@case("peek-scheduled")
def peek_scheduled(c):
    due = int(time.time() + 600)
    scheduled(c, due, "later")
    [message] = c.peek()
    annotations = message.annotations
    same((message.body, annotations["x-opt-message-state"], annotations["x-opt-scheduled-enqueue-time"]),
         ("later", 2, due * 1000))


@case("duplicate-detection")
def duplicate_detection(c):
    c.send("a", "a", "b", "a")
    receiver = c.receiver(delete=True)
    same(bodies(receiver.take(2)), ["a", "b"])
    receiver.nothing()
    c.send("a", "c")
    same(receiver.receive()[0].body, "c", "an id is remembered when its message is gone")


# Properties ----------------------------------------------------------------------------------------------------------

@case("message-properties")
def message_properties(c):
    sent = dict(id="id-1", user_id=b"user", address="to", subject="subject", reply_to="reply", correlation_id="correlation",
                content_type="text/plain", content_encoding="gzip", group_id="group", group_sequence=7,
                reply_to_group_id="reply-group", creation_time=1_700_000_000.0, ttl=180.0, durable=True, priority=7)
    c.sender().send(Message(body="body", **sent))
    message, _ = c.receiver().receive()
    same({name: getattr(message, name) for name in sent}, sent)


@case("application-properties")
def application_properties(c):
    sent = {
        "text": "ä text", "empty": "", "yes": True, "no": False, "byte": ubyte(200), "int": int32(-7), "uint": uint(7),
        "long": 1 << 40, "ulong": ulong(1 << 63), "double": 1.5, "when": timestamp(1_700_000_000_123),
        "uuid": uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "binary": b"\0\xff", "symbol": symbol("sym"), "null": None,
    }
    c.sender().send(Message(body="body", properties=sent))
    message, _ = c.receiver(delete=True).receive()
    received = {**message.properties, "binary": bytes(message.properties["binary"])}
    same(received, sent)
    same({name: type(value) for name, value in received.items()},
         {name: type(value) for name, value in sent.items()}, "types")


@case("body-data")
def body_data(c):
    c.sender().send(Message(body=b"\0one\xff", inferred=True))
    message, _ = c.receiver(delete=True).receive()
    same((message.body, message.inferred), (b"\0one\xff", True))


@case("body-sequence")
def body_sequence(c):
    c.sender().send(Message(body=["a", 1, ["b", 2]], inferred=True))
    message, _ = c.receiver(delete=True).receive()
    same((message.body, message.inferred), (["a", 1, ["b", 2]], True))


@case("body-value")
def body_value(c):
    c.sender().send(Message(body={"name": "shoe", "sizes": [41, 42]}))
    message, _ = c.receiver(delete=True).receive()
    same((message.body, message.inferred), ({"name": "shoe", "sizes": [41, 42]}, False))


@case("annotated-message")
def annotated_message(c):
    c.sender().send(Message(body="body", durable=True, priority=7, annotations={symbol("x-mine"): "kept"}))
    message, _ = c.receiver(delete=True).receive()
    same((message.durable, message.priority, message.annotations["x-mine"]), (True, 7, "kept"))


@case("broker-properties")
def broker_properties(c):
    before = time.time() - 2
    c.send("a", "b")
    (first, _), (second, _) = c.receiver(credit=2).take(2)
    same(sequence_of(second), sequence_of(first) + 1, "sequence numbers follow each other")
    same((first.delivery_count, first.first_acquirer), (0, True), "delivery count")
    assert before <= first.annotations["x-opt-enqueued-time"] / 1000 <= time.time() + 3, "enqueued time"
    assert first.annotations["x-opt-locked-until"] / 1000 > time.time(), "locked until"
    tokens = [message.instructions["x-opt-lock-token"] for message in (first, second)]
    assert isinstance(tokens[0], uuid.UUID) and tokens[0] != tokens[1], "lock tokens"


# Receive -------------------------------------------------------------------------------------------------------------

@case("receive-peek-lock")
def receive_peek_lock(c):
    c.send("a")
    first, second = c.receiver(), c.receiver()
    _, delivery = first.receive()
    second.nothing()
    same(c.counts()["locked"], 1, "locked messages")
    first.complete(delivery)
    c.drained()


@case("receive-and-delete")
def receive_and_delete(c):
    c.send("a", "b")
    same(bodies(c.receiver(delete=True).take(2)), ["a", "b"])
    c.drained()


@case("receive-wait")
def receive_wait(c):
    c.receiver().nothing(seconds=1)


@case("receive-what-is-there")
def receive_what_is_there(c):
    c.send("a", "b", "c")
    receiver = c.receiver(credit=100, delete=True)
    same(bodies(receiver.take(3)), ["a", "b", "c"])
    # Drained, the broker takes the credit that is left.
    link = receiver.link.link
    link.drain(0)
    c.own.connection.wait(lambda: not link.draining(), msg="the end of the drain", timeout=TIMEOUT_S)
    same(link.credit, 0, "credit after the drain")


@case("receive-late")
def receive_late(c):
    waiting = c.bus().receiver(c.entity, delete=True)
    timer = threading.Timer(0.5, c.send, ["a"])
    timer.start()
    same(waiting.receive()[0].body, "a")
    timer.join()


@case("prefetch")
def prefetch(c):
    c.send(*(str(number) for number in range(20)))
    receiver = c.receiver(credit=10)
    taken = [receiver.receive()]
    fetched = receiver.link.fetcher
    c.own.connection.wait(lambda: len(fetched.incoming) >= 9, msg="messages that nobody asked for", timeout=TIMEOUT_S)
    taken += receiver.take(19)
    same(bodies(taken), [str(number) for number in range(20)])
    for _, delivery in taken:
        receiver.complete(delivery)
    c.drained()


@case("iterate")
def iterate(c):
    c.send("a", "b", "c")
    receiver, seen = c.receiver(), []
    with refused(Timeout):
        while True:
            message, delivery = receiver.receive(timeout=1)
            seen.append(message.body)
            receiver.complete(delivery)
    same(seen, ["a", "b", "c"])
    c.drained()


@case("in-order")
def in_order(c):
    wanted = [str(number) for number in range(500)]
    link = c.sender().link
    deliveries = [link.send(Message(body=name)) for name in wanted]
    c.own.connection.wait(lambda: all(delivery.settled for delivery in deliveries), msg="sends", timeout=TIMEOUT_S)
    same(bodies(c.receiver(credit=500, delete=True).take(500)), wanted)


@case("competing-receivers")
def competing_receivers(c):
    wanted = [f"{number:02}" for number in range(60)]
    c.send(*wanted)
    first, second = c.receiver(), c.bus().receiver(c.entity)
    seen = []
    for receiver in (first, second) * 30:
        message, delivery = receiver.receive()
        seen.append(message.body)
        receiver.complete(delivery)
    same(sorted(seen), wanted, "each message once")
    c.drained()


@case("many-receivers")
def many_receivers(c):
    receivers = [c.receiver() for _ in range(100)]
    c.send(*(f"{number:02}" for number in range(100)))
    seen = []
    for receiver in receivers:
        message, delivery = receiver.receive()
        seen.append(message.body)
        receiver.complete(delivery)
    same(sorted(seen), [f"{number:02}" for number in range(100)])
    c.drained()


@case("close-while-receiving")
def close_while_receiving(c):
    c.receiver(credit=10).close()
    c.send("a")
    same(c.receiver(delete=True).receive()[0].body, "a")
