//! What long work shows meanwhile: a line that changes on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

/// How often lines are written where there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(10);

/// Shows what `line` says until `done`, on standard error.
pub async fn show(line: impl Fn() -> String, done: CancellationToken) {
    if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is sound"));
        loop {
            bar.set_message(line());
            bar.tick();
            tokio::select! {
                () = done.cancelled() => break,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
        bar.finish_and_clear();
        return;
    }
    let (mut before, mut at) = (String::new(), Instant::now());
    loop {
        tokio::select! {
            () = done.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let now = line();
        if now != before && at.elapsed() >= LINES_EVERY {
            eprintln!("{now}");
            (before, at) = (now, Instant::now());
        }
    }
}
