//! Work that begins before its sink is there: messages are received meanwhile, as they are while a sink is down that was there.

use std::future::{Future, ready};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{COMPARE_PATIENCE, RunError, Subscriber, failed_at_start};
use crate::{
    inbox::{Inbox, Wanted},
    opening::once_there,
    schedule::Stages,
    sink::{Sink, SinkOpenError, WholeFiles},
    tasks::panics,
};

impl<I: Inbox + Clone> Subscriber<I> {
    /// As [`Subscriber::run`], with a sink that may be down: `open` makes it, and is tried again until it does. Messages are received
    /// from the begin; [`Subscriber::health`] says what is wrong with the sink; the log tells the outage once, and once that it is over.
    ///
    /// ```no_run
    /// # use tokio_util::sync::CancellationToken;
    /// # use waybill_contracts::Entities;
    /// # use waybill_subscriber::{RunError, Subscriber, sink::PostgresSink};
    /// # async fn example(subscriber: Subscriber, entities: Entities) -> Result<(), RunError> {
    /// let stop = CancellationToken::new();
    /// subscriber.run_once_open(|| PostgresSink::open("postgres://shop@db/shop", &entities), stop).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Subscriber::run`], and [`RunError::Open`] where the sink says no, which a person has to mend.
    ///
    /// # Cancel safety
    /// As [`Subscriber::run`].
    pub async fn run_once_open<S, F>(
        &self,
        open: impl FnMut() -> F + Send,
        stop: CancellationToken,
    ) -> Result<(), RunError>
    where
        S: Sink,
        F: Future<Output = Result<S, SinkOpenError>> + Send,
    {
        let _doing = (self.shared.receiving.begin(), self.shared.working.begin());
        let (stages, mut tasks) = (Stages::of(&stop), JoinSet::new());
        self.spawn_receive(&mut tasks, &stages.stop);
        let work = Work { wanted: self.wanted(Wanted::default()), patience: self.shared.options.start_patience };
        self.work_once_open(open, work, tasks, &stages).await
    }

    /// As [`Subscriber::process`], with a sink that may be down: `open` makes it, and is tried again until it does.
    ///
    /// # Errors
    /// As [`Subscriber::process`], and [`RunError::Open`] where the sink says no, or is down for as long as is waited for.
    ///
    /// # Cancel safety
    /// As [`Subscriber::run`].
    pub async fn process_once_open<S, F>(
        &self,
        open: impl FnMut() -> F + Send,
        wanted: Wanted,
        stop: CancellationToken,
    ) -> Result<(), RunError>
    where
        S: Sink,
        F: Future<Output = Result<S, SinkOpenError>> + Send,
    {
        let _doing = self.shared.working.begin();
        let (stages, mut tasks) = (Stages::of(&stop), JoinSet::new());
        self.spawn_grants(&mut tasks, &stages.stop);
        let patience = self.shared.options.start_patience.unwrap_or(COMPARE_PATIENCE);
        let work = Work { wanted: self.wanted(wanted), patience: Some(patience) };
        self.work_once_open(open, work, tasks, &stages).await
    }

    /// Opens the sink, then works into it beside the tasks that there are, until all of it ended.
    async fn work_once_open<S, F>(
        &self,
        open: impl FnMut() -> F + Send,
        Work { wanted, patience }: Work,
        mut tasks: JoinSet<()>,
        stages: &Stages,
    ) -> Result<(), RunError>
    where
        S: Sink,
        F: Future<Output = Result<S, SinkOpenError>> + Send,
    {
        let shared = &*self.shared;
        // From now on, and not when it is first asked: until then nothing is idle.
        let preparing = shared.preparing.begin();
        let mut ended = Ok(());
        let work = async {
            let note = |problem: &str| shared.sink_calls.note_failure(problem.to_owned());
            let opened = tokio::select! {
                opened = once_there("the sink", patience, &stages.stop, note, open) => opened,
                // What receives meanwhile ends with the stop alone, or by a defect, which ends all of it, as later.
                never = panics(&mut tasks) => match never {},
            };
            let failure = match opened {
                Ok(Some(sink)) if shared.options.atomic && sink.whole_files() == WholeFiles::Never => {
                    ended = Err(RunError::NotAtomic);
                    stages.stop.cancel();
                    None
                }
                Ok(Some(sink)) => Some(self.spawn_process(&mut tasks, self.watched(sink), wanted, patience, stages)),
                Ok(None) => None,
                Err(error) => {
                    ended = Err(error.into());
                    stages.stop.cancel();
                    None
                }
            };
            drop(preparing);
            self.all_ended(tasks, stages).await;
            if let Some(failure) = failure {
                ended = failed_at_start(failure);
            }
        };
        self.beating(work).await;
        ended
    }
}

/// A sink that is there already, to be given once.
pub(super) fn there<S: Sink>(sink: S) -> impl FnMut() -> std::future::Ready<Result<S, SinkOpenError>> + Send {
    let mut sink = Some(sink);
    move || ready(Ok(sink.take().expect("it is asked for until it is there")))
}

/// What is worked, and for how long it is waited that it can be.
#[derive(Debug)]
struct Work {
    wanted: Wanted,
    patience: Option<std::time::Duration>,
}
