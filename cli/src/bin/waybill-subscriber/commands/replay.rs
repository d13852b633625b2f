//! `replay`: files again, into another sink.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::bail;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::Common,
    exit::Outcome,
    output::many,
    settings::subscriber::Settings,
    signals::heeded,
    work::{FINISHING, Local, check_grant},
};
use waybill_subscriber::{
    inbox::{Inbox, State, Wanted},
    replay::{Copied, Waiting, copy_files, coverage},
    sink::AnySink,
};

use super::{
    copy::{remove, say_failed, say_gaps},
    work::{Say, Watching, unread, while_read},
};
use crate::PROGRAM;

pub(crate) async fn replay(
    common: &Common,
    settings: &Settings,
    mut wanted: Wanted,
    complete: bool,
) -> anyhow::Result<Outcome> {
    let inbox = settings.existing_inbox().await?;
    if wanted.types.is_none() {
        wanted.types = settings.types().map(<[String]>::to_vec);
    }
    if complete {
        refuse_gaps(&inbox, &wanted).await?;
    }
    let path = settings.copy_path("replay")?;
    let copy = settings.copy_inbox(&path).await?;
    let Copied { files, left_out } = copy_files(&inbox, &copy, &wanted).await?;
    if files == 0 {
        remove(&path)?;
        bail!("no file to replay; `waybill-subscriber list` shows what was received");
    }
    if left_out > 0 {
        eprintln!(
            "waybill-subscriber: left out, because they are quarantined or expired: {}; `waybill-subscriber list` says why",
            many(left_out, "file")
        );
    }
    let sink = settings.open_sink(&settings.checked_entities()?).await?;
    let subscriber = settings.subscriber_on(copy, common.local.as_deref()).await?;
    check_grant(PROGRAM, &subscriber, true).await?;
    let say = Say::beside(settings)?;
    let outcome = heeded(FINISHING, async |stop| {
        let watching = Watching { stop: &stop, wanted: &wanted, until_idle: Some(Duration::ZERO), receiving: false };
        let work = async |stop: CancellationToken| {
            let work = subscriber.process(sink.clone(), wanted.clone(), stop.clone());
            Ok(while_read(unread(&sink), &stop, work).await?)
        };
        watching.work(common, &subscriber, say, work).await
    })
    .await?;
    let counts = subscriber.inbox().counts().await?;
    let open = counts.saved + counts.working;
    if open > 0 {
        bail!("{} could not be worked yet; begin the replay again, it goes on there", many(open, "file"));
    }
    say_nothing_new(settings, &subscriber, &sink);
    let failed = say_failed(&inbox, subscriber.inbox(), &[State::Quarantined, State::Expired]).await?;
    // The sink knows what it has; a list of what was to be done serves nothing any more.
    drop(subscriber);
    remove(&path)?;
    Ok(if failed > 0 { Outcome::Quarantined } else { outcome })
}

/// A sink that has everything takes nothing again.
fn say_nothing_new(settings: &Settings, subscriber: &Local, sink: &AnySink) {
    let worked = subscriber.work_stats();
    let (files, rows) = (worked.files_done.load(Ordering::Relaxed), worked.rows.load(Ordering::Relaxed));
    if files == 0 || rows > 0 {
        return;
    }
    let again = match sink {
        AnySink::Sqlite(_) | AnySink::Postgres(_) => {
            "replay is for another sink; to derive tables of this one again, use `waybill-subscriber rebuild`"
                .to_owned()
        }
        AnySink::Stdout(_) => format!(
            "to have the rows again, remove {}, where standard output's progress is",
            settings.data.join("stdout.sqlite").display()
        ),
        _ => "to have the files again, name another folder".to_owned(),
    };
    eprintln!(
        "waybill-subscriber: this sink has these files already ({}), nothing was to be done; {again}",
        many(files, "file")
    );
}

async fn refuse_gaps(inbox: &impl Inbox, wanted: &Wanted) -> anyhow::Result<()> {
    let coverage = coverage(inbox, wanted, Waiting::IsMissing, &[]).await?;
    if coverage.is_complete() {
        return Ok(());
    }
    say_gaps(&coverage);
    bail!("the files are not provably all; nothing was done. Mend what is named above, or leave --complete out")
}
