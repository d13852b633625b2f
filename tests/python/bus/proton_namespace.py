"""Cases of Qpid Proton: topics, security, errors and recovery."""
import contextlib
import time

import certifi
from proton import Described, Message, ProtonException, int32, symbol, timestamp
from proton.reactor import Filter
from proton.utils import LinkDetached, SendException

from proton_bus import Bus, Coordinator, answered, bodies, case, dead_letter, detached, longs, scheduled
from suite import refused, same

# Topics --------------------------------------------------------------------------------------------------------------

@case("fan-out")
def fan_out(c):
    c.send("one", "two", "three")
    for name in ("s1", "s2"):
        entity = f"{c.entity}/Subscriptions/{name}"
        receiver = c.receiver(entity)
        for wanted in ("one", "two", "three"):
            message, delivery = receiver.receive()
            same(message.body, wanted, name)
            receiver.complete(delivery)
        c.drained(entity)


@case("subscription-dead-letter-queue")
def subscription_dead_letter_queue(c):
    c.send("one")
    entity = f"{c.entity}/Subscriptions/s1"
    receiver = c.receiver(entity)
    dead_letter(receiver, receiver.receive()[1])
    message, _ = c.receiver(f"{entity}/$DeadLetterQueue").receive()
    same((message.body, message.properties["DeadLetterReason"]), ("one", "bad"))
    same(c.receiver(f"{c.entity}/Subscriptions/s2").receive()[0].body, "one", "the other subscription has its own")


@case("topic-schedule")
def topic_schedule(c):
    _, drop = scheduled(c, time.time() + 8, "keep", "drop")
    c.ask("cancel-scheduled-message", sequence_numbers=longs([drop]))
    for name in ("s1", "s2"):
        receiver = c.receiver(f"{c.entity}/Subscriptions/{name}", delete=True)
        same(receiver.receive()[0].body, "keep", name)
        receiver.nothing()


@case("filters")
def filters(c):
    sender = c.sender()
    sender.send(Message(id="1", body="1", subject="price", properties={"color": "red", "size": 41}))
    sender.send(Message(id="2", body="2", subject="stock", properties={"color": "red", "size": 9}))
    sender.send(Message(id="3", body="3", subject="price"))
    for name, wanted in (("s1", ["1"]), ("s2", ["1", "3"])):
        entity = f"{c.entity}/Subscriptions/{name}"
        same(bodies(c.receiver(entity, delete=True).take(len(wanted))), wanted, name)
        c.drained(entity)


def rules_of(c, subscription):
    answer = c.own.management(f"{c.entity}/Subscriptions/{subscription}", "enumerate-rules", top=int32(100), skip=int32(0))
    descriptions = [entry["rule-description"].value for entry in (answer or {}).get("rules", [])]
    return {name: (filter.descriptor, filter.value) for filter, _, name, *_ in descriptions}


def add_rule(c, subscription, name, **filter):
    description = {key.replace("_", "-"): value for key, value in filter.items()}
    c.own.management(f"{c.entity}/Subscriptions/{subscription}", "add-rule", rule_name=name, rule_description=description)


def remove_rule(c, subscription, name):
    c.own.management(f"{c.entity}/Subscriptions/{subscription}", "remove-rule", rule_name=name)


@case("rule-list")
def rule_list(c):
    same(list(rules_of(c, "s1")), ["$Default"])


@case("rule-sql")
def rule_sql(c):
    remove_rule(c, "s1", "$Default")
    add_rule(c, "s1", "big", sql_filter={"expression": "size > 10"})
    same(rules_of(c, "s1")["big"][1][0], "size > 10")
    sender = c.sender()
    sender.send(Message(body="small", properties={"size": 9}))
    sender.send(Message(body="big", properties={"size": 41}))
    same(bodies(c.receiver(f"{c.entity}/Subscriptions/s1", delete=True).take(1)), ["big"])
    c.drained(f"{c.entity}/Subscriptions/s1")


@case("rule-correlation")
def rule_correlation(c):
    remove_rule(c, "s1", "$Default")
    add_rule(c, "s1", "prices", correlation_filter={"label": "price", "properties": {"color": "red"}})
    sender = c.sender()
    sender.send(Message(body="blue", subject="price", properties={"color": "blue"}))
    sender.send(Message(body="red", subject="price", properties={"color": "red"}))
    same(bodies(c.receiver(f"{c.entity}/Subscriptions/s1", delete=True).take(1)), ["red"])
    c.drained(f"{c.entity}/Subscriptions/s1")


@case("rule-delete")
def rule_delete(c):
    remove_rule(c, "s1", "$Default")
    same(rules_of(c, "s1"), {})
    c.send("a")
    same(c.receiver(f"{c.entity}/Subscriptions/s2", delete=True).receive()[0].body, "a")
    c.receiver(f"{c.entity}/Subscriptions/s1").nothing()


@case("rule-refused")
def rule_refused(c):
    with answered(400, "com.microsoft:argument-error"):
        add_rule(c, "s1", "broken", sql_filter={"expression": "size >"})
    with answered(409, "com.microsoft:entity-already-exists"):
        add_rule(c, "s1", "$Default", sql_filter={"expression": "size > 1"})
    with answered(501, "amqp:not-implemented"):
        add_rule(c, "s1", "acts", sql_filter={"expression": "1=1"}, sql_rule_action={"expression": "SET a = 1"})
    with answered(404, "amqp:not-found"):
        remove_rule(c, "s1", "nothing")


# Security ------------------------------------------------------------------------------------------------------------

UNAUTHORIZED = "amqp:unauthorized-access"


def round_trip(c, bus, name="a"):
    bus.sender(c.entity).send(Message(body=name))
    same(bus.receiver(c.entity, delete=True).receive()[0].body, name)


@case("sas-of-namespace")
def sas_of_namespace(c):
    round_trip(c, c.bus(c.plan.sas(), audience=""))


@case("sas-of-entity")
def sas_of_entity(c):
    round_trip(c, c.bus(c.plan.sas(c.entity)))


@case("wrong-key")
def wrong_key(c):
    with answered(401):
        c.bus(c.plan.sas(c.entity, key="wrong"))


@case("wrong-key-name")
def wrong_key_name(c):
    with answered(401):
        c.bus(c.plan.sas(c.entity, key_name="Nobody"))


@case("wrong-audience")
def wrong_audience(c):
    with answered(401):
        c.bus(c.plan.sas("another-queue"))
    # Put for the queue that it is good for, it opens no other.
    bus = c.bus(c.plan.sas("another-queue"), audience="another-queue")
    with detached(UNAUTHORIZED):
        bus.sender(c.entity)
    with detached(UNAUTHORIZED):
        bus.receiver(c.entity)


@case("expired-token")
def expired_token(c):
    with answered(401):
        c.bus(c.plan.sas(c.entity, life_s=-60))


@case("no-token")
def no_token(c):
    with contextlib.closing(Bus(c.plan, None, None)) as bus, detached(UNAUTHORIZED):
        bus.sender(c.entity)


@case("token-renewed")
def token_renewed(c):
    bus = c.bus(c.plan.sas(c.entity, life_s=6))
    sender, receiver = bus.sender(c.entity), bus.receiver(c.entity)
    started, number = time.monotonic(), 0
    while time.monotonic() < started + 9:
        number += 1
        bus.put_token(c.plan.sas(c.entity, life_s=6), c.entity)
        sender.send(Message(body=str(number)))
        message, delivery = receiver.receive()
        same(message.body, str(number))
        receiver.complete(delivery)
        time.sleep(0.7)
    c.drained()


@case("token-expires")
def token_expires(c):
    # Long enough to connect and attach on a busy machine.
    receiver = c.bus(c.plan.sas(c.entity, life_s=6)).receiver(c.entity)
    with detached(UNAUTHORIZED):
        receiver.receive()


@case("missing-right")
def missing_right(c):
    def bus(policy):
        return c.bus(c.plan.sas(c.entity, key_name=policy, key=c.plan.policies[policy]))
    with detached(UNAUTHORIZED):
        bus("listener").sender(c.entity)
    with detached(UNAUTHORIZED):
        bus("sender").receiver(c.entity)
    bus("sender").sender(c.entity).send(Message(body="a"))
    same(bus("listener").receiver(c.entity, delete=True).receive()[0].body, "a")


@case("tls")
def tls(c):
    round_trip(c, c.bus(trust=c.plan.ready["caFile"]))


@case("tls-untrusted")
def tls_untrusted(c):
    with refused(ProtonException):
        c.bus(trust=certifi.where())


# Errors --------------------------------------------------------------------------------------------------------------

@case("entity-not-found")
def entity_not_found(c):
    bus = c.bus(c.plan.sas(), audience="")
    with detached("amqp:not-found"):
        bus.sender("nowhere")
    with detached("amqp:not-found"):
        bus.receiver("nowhere")


@case("session-refused")
def session_refused(c):
    name = symbol("com.microsoft:session-filter")
    with detached("amqp:not-allowed", text="session"):
        c.receiver(options=[Filter({name: Described(name, "one")})])


@case("transaction-refused")
def transaction_refused(c):
    with detached("amqp:not-implemented", text="transaction"):
        c.own.sender(None, options=[Coordinator()])


@case("entity-disabled")
def entity_disabled(c):
    with detached("com.microsoft:entity-disabled"):
        c.sender()
    with detached("com.microsoft:entity-disabled"):
        c.receiver()


@case("quota-exceeded")
def quota_exceeded(c):
    sender = c.sender()
    with refused(LinkDetached, SendException):
        for _ in range(20):
            sender.send(Message(body=b"x" * 10_000))
    c.receiver(delete=True).take(6)
    c.sender().send(Message(body="room again"))


@case("server-busy")
def server_busy(c):
    sender = c.send("before")
    c.plan.admin("POST", "/faults", {"faults": [{"on": "transfer_in", "entity": c.entity, "do": "throttle"}]})
    with refused(SendException):
        sender.send(Message(body="lost"))
    sender.send(Message(body="after"))
    same(bodies(c.receiver(delete=True).take(2)), ["before", "after"])


@case("batch-delete")
def batch_delete(c):
    c.send("a", "b", "c")
    deleted = c.ask("batch-delete-messages", message_count=int32(2), enqueued_time_utc=timestamp(int(time.time() * 1000) + 1000))
    same(deleted["message-count"], 2)
    same([message.body for message in c.peek()], ["c"])
