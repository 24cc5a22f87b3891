//! `watch`: what happens in a cell, as it happens.

use super::names;
use crate::client::Client;
use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::output::views::Event;
use borg_proto::wire::pb;
use clap::Args;
use tonic::Streaming;

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Only this job's events: JOB or USER/JOB
    job: Option<String>,
    /// Begin after this place in the log instead of now
    #[arg(long, default_value_t = 0, value_name = "INDEX")]
    after: u64,
}

/// Prints events until interrupted. When a master goes away, goes on at another one where it was.
pub(super) async fn watch(
    client: &mut Client,
    args: WatchArgs,
    out: Output,
) -> Result<(), Failure> {
    let job = args.job.map(|name| names::job(&name, client.user())).transpose()?;
    let job = job.map(|job| job.to_string()).unwrap_or_default();
    let mut place = Place { after: args.after, last: 0, seen_at_last: 0 };
    let mut refused = 0;
    loop {
        let after_index = place.resume();
        let message = pb::WatchRequest { after_index, job: job.clone(), progress: true };
        let mut skip = place.to_skip();
        let opened = client
            .open("watch", message, async |mut master, request| master.watch(request).await)
            .await;
        let mut stream: Streaming<pb::Event> = match opened {
            Ok(stream) => stream,
            // A master that was started lately keeps less of the past than the others.
            Err(failure) if failure.code == Code::Refused && refused + 1 < client.masters() => {
                refused += 1;
                client.pass_over();
                continue;
            }
            Err(failure) => return Err(failure),
        };
        refused = 0;
        loop {
            match stream.message().await {
                Ok(Some(event)) if event.kind == "watch.progress" => place.passed(event.index),
                Ok(Some(event)) if event.index == place.last && skip > 0 => skip -= 1,
                Ok(Some(event)) => {
                    place.saw(event.index);
                    show(event.into(), out)?;
                }
                Ok(None) => break,
                Err(status) => {
                    let failure = Failure::from(status);
                    if failure.code != Code::Unavailable {
                        return Err(failure.context("watch"));
                    }
                    break;
                }
            }
        }
        client.pass_over();
    }
}

/// How far the events have been shown. Several may have one index, so the last index is asked for
/// again and those of it that were shown are skipped.
#[derive(Debug)]
struct Place {
    after: u64,
    last: u64,
    seen_at_last: usize,
}

impl Place {
    fn saw(&mut self, index: u64) {
        self.seen_at_last = if index == self.last { self.seen_at_last + 1 } else { 1 };
        self.last = index;
    }

    /// The log has been looked through up to here.
    fn passed(&mut self, index: u64) {
        *self = Self { after: index, last: 0, seen_at_last: 0 };
    }

    fn resume(&self) -> u64 {
        if self.last > 1 { self.last - 1 } else { self.after }
    }

    /// How many events of the last index come again.
    fn to_skip(&self) -> usize {
        self.seen_at_last
    }
}

fn show(event: Event, out: Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&event, true);
    }
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(event.at_ms);
    let at = humantime::format_rfc3339_millis(at);
    let line =
        format!("{at} {:>6}  {:<16} {}  {}", event.index, event.kind, event.subject, event.detail);
    let clean: String =
        line.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    out.line(&clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_goes_on_where_it_was_even_within_one_entry() {
        let mut place = Place { after: 5, last: 0, seen_at_last: 0 };
        assert_eq!((place.resume(), place.seen_at_last), (5, 0));
        place.saw(7);
        place.saw(7);
        assert_eq!((place.resume(), place.seen_at_last), (6, 2));
        place.saw(9);
        assert_eq!((place.resume(), place.seen_at_last), (8, 1));
        place.passed(1_009);
        assert_eq!((place.resume(), place.to_skip()), (1_009, 0));
    }
}
