//! Which deed can be done at which event. A script that could never do what it says is refused when it is installed.

use std::num::NonZeroU32;

use super::{
    BusEvent, Step, What, When,
    refusal::Refusal,
    what::{CutAt, Service, Whose},
};
use crate::blob::BlobOperation;

/// Where an event happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    Time,
    Blob,
    Grant,
    Token,
    Bus(BusEvent),
}

/// Why this step can never fire, or never do what it says; and what could stand there.
pub(super) fn problem(step: &Step) -> Option<String> {
    let scene = match &step.when {
        When::Now | When::After(_) => Scene::Time,
        When::Blob(_) => Scene::Blob,
        When::Grant { .. } => Scene::Grant,
        When::Token { .. } => Scene::Token,
        When::Bus(frames) => Scene::Bus(frames.event),
    };
    let trigger_is_plain = step.trigger == super::Trigger::default();
    let ons = |events: &[BusEvent]| events.iter().map(|event| event.name()).collect::<Vec<_>>().join(", ");
    match (scene, &step.what) {
        (Scene::Time, _) if !trigger_is_plain => {
            Some("what happens at a time happens once: leave out nth, every, times, probability and for_ms".to_owned())
        }
        (Scene::Bus(BusEvent::Connect), _) if selects_entity(step) => {
            Some("a connection is not yet about an entity; wait for on = \"attach\"".to_owned())
        }
        (_, what) => {
            let word = what.word();
            let place = match place(what) {
                Place::Anywhere => return None,
                Place::Blob => (scene != Scene::Blob).then(|| "on = \"blob\"".to_owned()),
                Place::Request => {
                    (scene == Scene::Time).then(|| "blob, grant, token or an event of the bus".to_owned())
                }
                Place::GrantOrToken => {
                    (!matches!(scene, Scene::Grant | Scene::Token)).then(|| "on = \"grant\" or \"token\"".to_owned())
                }
                Place::Bus(events) => {
                    let there = matches!(scene, Scene::Bus(event) if events.contains(&event));
                    (!there).then(|| format!("on = {}", ons(events)))
                }
                Place::HttpOrBus(events) => {
                    let there = matches!(scene, Scene::Blob | Scene::Grant | Scene::Token)
                        || matches!(scene, Scene::Bus(event) if events.contains(&event));
                    (!there).then(|| format!("on = blob, grant, token, {}", ons(events)))
                }
            };
            match place {
                Some(place) if what.whose() == Some(&Whose::Event) => Some(format!(
                    "do = {word:?} needs an event that it can befall ({place}), or a `target` entity{}",
                    if takes_service(what) { ", or a `service`" } else { "" }
                )),
                Some(place) => Some(format!("do = {word:?} can only be done at {place}")),
                None => of_request(step),
            }
        }
    }
}

fn selects_entity(step: &Step) -> bool {
    matches!(&step.when, When::Bus(frames) if frames.entity.is_some() || frames.role.is_some())
}

pub(super) fn takes_service(what: &What) -> bool {
    matches!(what, What::Reset(_) | What::Blackhole { .. } | What::Close { .. })
}

/// What a deed needs to be done to.
enum Place {
    Anywhere,
    Blob,
    GrantOrToken,
    Request,
    Bus(&'static [BusEvent]),
    HttpOrBus(&'static [BusEvent]),
}

const ON_LINKS: &[BusEvent] =
    &[BusEvent::Attach, BusEvent::TransferIn, BusEvent::Flow, BusEvent::TransferOut, BusEvent::Disposition];
const ON_SESSIONS: &[BusEvent] = &[
    BusEvent::PutToken,
    BusEvent::Attach,
    BusEvent::TransferIn,
    BusEvent::Flow,
    BusEvent::TransferOut,
    BusEvent::Disposition,
    BusEvent::Management,
];
const ANSWERED: &[BusEvent] = &[
    BusEvent::Connect,
    BusEvent::PutToken,
    BusEvent::Attach,
    BusEvent::TransferIn,
    BusEvent::Disposition,
    BusEvent::Management,
];
/// Done first, then answered.
const DONE: &[BusEvent] = &[BusEvent::PutToken, BusEvent::TransferIn, BusEvent::Disposition, BusEvent::Management];
const OF_QUEUES: &[BusEvent] = &[BusEvent::Flow, BusEvent::TransferOut, BusEvent::Disposition, BusEvent::Management];

fn place(what: &What) -> Place {
    match what {
        What::Rotate { .. } | What::Expire { .. } | What::Down { .. } => Place::Anywhere,
        What::RefuseSas
        | What::Cut { .. }
        | What::Truncate { .. }
        | What::Corrupt { .. }
        | What::Slow { .. }
        | What::Replace { .. } => Place::Blob,
        What::Refuse { with: Refusal::Busy, .. } => Place::HttpOrBus(ANSWERED),
        What::Refuse { with: Refusal::Blob(_), .. } => Place::Blob,
        What::Refuse { with: Refusal::Status(_), .. } => Place::GrantOrToken,
        What::Refuse { with: Refusal::Condition(_), .. } => Place::Bus(ANSWERED),
        What::Delay(_) => Place::Request,
        What::DropAnswer { .. } => Place::HttpOrBus(DONE),
        What::Reset(Whose::Event) | What::Blackhole { whose: Whose::Event, .. } => Place::Request,
        What::Close { whose: Whose::Event, .. } => Place::Bus(&BusEvent::ALL),
        What::End { whose: Whose::Event, .. } => Place::Bus(ON_SESSIONS),
        What::Detach { whose: Whose::Event, .. } => Place::Bus(ON_LINKS),
        What::LoseLocks(Whose::Event) => Place::Bus(&[BusEvent::TransferOut, BusEvent::Disposition]),
        What::DeliverTwice { whose: Whose::Event, .. } => Place::Bus(&[BusEvent::TransferIn, BusEvent::TransferOut]),
        What::Reorder { whose: Whose::Event, .. } | What::HoldBack { whose: Whose::Event, .. } => Place::Bus(OF_QUEUES),
        What::Reset(_)
        | What::Blackhole { .. }
        | What::Close { .. }
        | What::End { .. }
        | What::Detach { .. }
        | What::LoseLocks(_)
        | What::DeliverTwice { .. }
        | What::Reorder { .. }
        | What::HoldBack { .. } => Place::Anywhere,
    }
}

/// What a deed asks of its request beyond its kind.
fn of_request(step: &Step) -> Option<String> {
    let operation = if let When::Blob(requests) = &step.when { requests.operation } else { None };
    match (&step.what, operation) {
        (What::Cut { at: CutAt::BlobByte(_), .. }, Some(operation)) if is_upload(operation) => {
            Some("an upload is cut after so many bytes of its body: `after_bytes`".to_owned())
        }
        (What::Cut { .. }, Some(operation)) if operation != BlobOperation::GetBlob && !is_upload(operation) => {
            Some("only GetBlob, PutBlob, PutBlock and PutBlockList have a body that can be cut".to_owned())
        }
        (What::Corrupt { .. }, Some(operation)) if operation != BlobOperation::GetBlob => {
            Some("only GetBlob has a body that can be corrupted".to_owned())
        }
        (What::Slow { .. }, Some(operation)) if operation != BlobOperation::GetBlob => {
            Some("only GetBlob has a body that can be slow; others wait with do = \"delay\"".to_owned())
        }
        (What::Truncate { .. }, Some(operation)) if !is_read(operation) => {
            Some("only GetBlob and GetBlobProperties tell a length".to_owned())
        }
        (What::DeliverTwice { whose: Whose::Event, messages }, _) if *messages > NonZeroU32::MIN => {
            Some("an event has one message; leave `messages` out, or name a `target`".to_owned())
        }
        _ => None,
    }
}

/// What is wrong with a deed whatever fires it.
pub(super) fn problem_of_deed(what: &What) -> Option<String> {
    match what {
        What::Down { service: Service::Bus, .. } => {
            Some("the bus has no answer that says so; use throttle, reset, close or blackhole".to_owned())
        }
        What::Refuse { with: Refusal::Status(status), .. } if !(400..600).contains(status) => {
            Some(format!("{status} is no HTTP status of an error; use 400 to 599"))
        }
        _ => match what.whose() {
            Some(Whose::Service(service)) if !takes_service(what) => {
                Some(format!("do = {:?} cannot befall the whole service {}", what.word(), service.name()))
            }
            Some(Whose::Service(Service::Blob | Service::Tenant)) if matches!(what, What::Close { .. }) => {
                Some("only the bus closes with a condition; use do = \"reset\"".to_owned())
            }
            Some(Whose::Entity(_)) if matches!(what, What::Blackhole { .. }) => {
                Some("a blackhole swallows the event's connection or a `service`".to_owned())
            }
            _ => None,
        },
    }
}

pub(super) fn is_upload(operation: BlobOperation) -> bool {
    matches!(operation, BlobOperation::PutBlob | BlobOperation::PutBlock | BlobOperation::PutBlockList)
}

fn is_read(operation: BlobOperation) -> bool {
    matches!(operation, BlobOperation::GetBlob | BlobOperation::GetBlobProperties)
}

/// Whether a request of this operation counts for the deed at all.
pub(super) fn counts(what: &What, wanted: Option<BlobOperation>, operation: BlobOperation) -> bool {
    match what {
        // A download's cut is counted when its bytes are known.
        What::Cut { .. } => wanted.is_some_and(is_upload) && is_upload(operation),
        What::Corrupt { .. } | What::Slow { .. } => false,
        What::Truncate { .. } => is_read(operation),
        _ => true,
    }
}
