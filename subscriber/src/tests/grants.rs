//! P8 and P10 at TenantService: how often it is asked, and what is never said.

use std::{num::NonZeroU32, time::Duration};

use time::OffsetDateTime;
use url::Url;
use waybill_azure::{GrantError, Service, TokenSource};
use waybill_contracts::GrantLayout;
use waybill_local::{
    Local,
    fault::{Step, What, When},
};

use super::world::{World, bearer, http, until, within};
use crate::grants::{Grants, RenewedBecause};

fn next_grant() -> When {
    When::Grant { tenant: None }
}

#[tokio::test]
async fn twenty_refusals_of_one_token_are_one_renewal() {
    let world = World::new().await;
    let grants = world.grants(&world.ready().bearer_token);
    let first = grants.grant(Service::Blob, None).await.unwrap();
    assert_eq!(world.asked(), 1);
    let refusals = (0..20).map(|number| {
        let service = if number % 2 == 0 { Service::Blob } else { Service::Bus };
        grants.grant(service, Some(first.generation))
    });
    for renewed in futures::future::join_all(refusals).await {
        assert!(renewed.unwrap().generation > first.generation);
    }
    assert_eq!(world.asked(), 2);
    // A latecomer with the old one is given what is there.
    grants.grant(Service::Blob, Some(first.generation)).await.unwrap();
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn callers_that_wait_for_a_failing_renewal_share_its_error_and_ask_no_more() {
    let world = World::new().await;
    let down = What::throttle(Duration::from_secs(7));
    world.local.faults().install([Step::new(next_grant(), down).times(NonZeroU32::MAX)]).unwrap();
    let grants = world.grants(&world.ready().bearer_token);
    let asking = (0..20).map(|_| grants.grant(Service::Blob, None));
    for answer in futures::future::join_all(asking).await {
        let Err(GrantError::Unavailable { service: Service::Blob, retry_after: Some(after), .. }) = answer else {
            panic!("{answer:?}")
        };
        assert!(after <= Duration::from_secs(7) && after > Duration::from_secs(5), "what it asked for: {after:?}");
    }
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn two_rotations_in_quick_succession_are_two_renewals_at_once() {
    let world = World::new().await;
    let grants = world.grants(&world.ready().bearer_token);
    let mut grant = grants.grant(Service::Bus, None).await.unwrap();
    for _ in 0..2 {
        world.local.rotate(None).unwrap();
        let next = grants.grant(Service::Bus, Some(grant.generation)).await.unwrap();
        assert!(next.generation > grant.generation && next.token != grant.token);
        grant = next;
    }
    assert_eq!(grants.renewals()[&RenewedBecause::RefusedByBus], 2);
}

#[tokio::test]
async fn a_service_that_refuses_every_token_does_not_hammer_tenant_service() {
    let world = World::new().await;
    let grants = world.grants(&world.ready().bearer_token);
    let mut generation = grants.grant(Service::Blob, None).await.unwrap().generation;
    let mut refused = 0;
    for _ in 0..200 {
        match grants.grant(Service::Blob, Some(generation)).await {
            Ok(grant) => generation = grant.generation,
            Err(GrantError::RefusedTwice { service: Service::Blob }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(world.asked() <= 32, "{} requests", world.asked());
    assert!(refused >= 168);
    grants.grant(Service::Blob, None).await.expect("what is there is still given out");
}

#[tokio::test]
async fn tokens_are_renewed_before_their_time_is_over() {
    let world = World::of(Local::builder().token_life(Duration::from_secs(2)).start().await.unwrap());
    let grants = world.grants(&world.ready().bearer_token);
    let stop = tokio_util::sync::CancellationToken::new();
    let watching = async {
        let mut changes = grants.changes();
        let mut expiry = None;
        for _ in 0..3 {
            changes.changed().await.unwrap();
            if let Some(expires_at) = expiry {
                assert!(OffsetDateTime::now_utc() < expires_at, "the old one still lives");
            }
            expiry = Some(grants.grant(Service::Bus, None).await.unwrap().expires_at);
        }
        stop.cancel();
    };
    within(async { tokio::join!(grants.run(&stop), watching) }).await;
    assert_eq!(grants.renewals()[&RenewedBecause::Due], 2);
}

#[tokio::test]
async fn while_tenant_service_is_down_tokens_that_live_go_on_being_used_and_it_is_spared() {
    let world = World::of(Local::builder().token_life(Duration::from_secs(4)).start().await.unwrap());
    let grants = world.grants(&world.ready().bearer_token);
    let first = grants.grant(Service::Blob, None).await.unwrap();
    let busy = What::throttle(Duration::ZERO);
    world.local.faults().install([Step::new(next_grant(), busy).times(NonZeroU32::MAX)]).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let watching = async {
        // The renewal ahead of time fails while the token lives.
        until("a renewal that fails", || async { world.asked() >= 2 }).await;
        if OffsetDateTime::now_utc() < first.expires_at {
            assert_eq!(grants.grant(Service::Blob, None).await.unwrap().generation, first.generation);
        }
        world.local.faults().clear();
        let mut changes = grants.changes();
        changes.wait_for(|generation| *generation > first.generation).await.unwrap();
        stop.cancel();
    };
    within(async { tokio::join!(grants.run(&stop), watching) }).await;
    assert!(world.asked() < 12, "{} requests", world.asked());
}

#[tokio::test]
async fn a_wrong_bearer_token_is_refused_with_words_and_without_the_token() {
    let world = World::new().await;
    let error = world.grants("hunter2").grant(Service::Blob, None).await.unwrap_err();
    let GrantError::Refused { problem, .. } = &error else { panic!("{error:?}") };
    assert!(problem.contains("401") && problem.contains("check the credential"), "{problem}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn an_address_that_would_show_the_token_to_others_is_refused_and_says_no_secrets() {
    for address in
        ["http://tenant.example/?code=hunter2", "https://user:hunter2@tenant.example/", "ftp://tenant.example/"]
    {
        let tenant = Url::parse(address).unwrap();
        let made = Grants::new(http(), &tenant, bearer("t"), GrantLayout::default(), OffsetDateTime::now_utc);
        let error = made.unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let query = Url::parse("https://tenant.example/base/?code=hunter2").unwrap();
    let grants = Grants::new(http(), &query, bearer("t"), GrantLayout::default(), OffsetDateTime::now_utc).unwrap();
    assert!(!format!("{grants:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_clock_that_runs_ahead_costs_no_request_per_use() {
    let world = World::new().await;
    let tenant = Url::parse(&world.ready().tenant_url).unwrap();
    let ahead = || OffsetDateTime::now_utc() + Duration::from_secs(30 * 24 * 3600);
    let token = bearer(&world.ready().bearer_token);
    let grants = Grants::new(http(), &tenant, token, GrantLayout::default(), ahead).unwrap();
    for _ in 0..10 {
        grants.grant(Service::Blob, None).await.unwrap();
    }
    assert_eq!(world.asked(), 1);
}
