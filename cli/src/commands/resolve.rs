//! `resolve`: host and port of tasks by name, once or as they change.

use super::history::say_when;
use super::names;
use super::select::SelectArgs;
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::output::views::{Endpoint, Read};
use crate::output::{Output, note};
use borg_proto::IndexSet;
use borg_proto::wire::pb;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::{Status, Streaming};

/// Pause before another master is asked, after one whose state may be too old: all may be cut off.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct ResolveArgs {
    /// JOB, USER/JOB or USER/JOB/INDEX
    name: String,
    #[command(flatten)]
    which: SelectArgs,
    /// Go on, and print what changes as it changes
    #[arg(short, long)]
    watch: bool,
}

pub(super) async fn resolve(
    client: &mut Client,
    args: ResolveArgs,
    out: Output,
) -> Result<(), Failure> {
    let (name, only) = match names::job_or_task(&args.name, client.user())? {
        (job, None) => (job.to_string(), args.which.chosen(client, &job).await?),
        (job, Some(index)) => {
            args.which.must_be_empty(&args.name)?;
            (format!("{job}/{index}"), None)
        }
    };
    if args.watch {
        if client.at().is_some() {
            return Err(Failure::new(Code::Usage, "--watch with --at: the past does not change"));
        }
        return watch(client, &name, only, out).await;
    }
    let message = pb::ResolveRequest { name: name.clone() };
    let answer = client
        .call(&format!("resolve {name}"), Kind::Read, message, async |mut master, request| {
            master.resolve(request).await
        })
        .await?;
    say_when(client, out, answer.read.as_ref());
    let endpoints = answer.endpoints.into_iter().map(Endpoint::from);
    let meant = |endpoint: &Endpoint| is_of(&endpoint.task, only.as_ref());
    let endpoints: Vec<Endpoint> = endpoints.filter(meant).collect();
    if out.is_json() {
        return out.json(&Read::each(answer.read, endpoints), false);
    }
    let rows = endpoints.into_iter().map(|endpoint| {
        let (address, state) = (address(&endpoint), state(&endpoint));
        [endpoint.task, endpoint.port_name, address, state.to_owned()]
    });
    out.table(["task", "port", "address", "state"], rows)
}

/// Whether `USER/JOB/INDEX` is one of these.
fn is_of(task: &str, only: Option<&IndexSet>) -> bool {
    let index = || task.rsplit_once('/').and_then(|(_, index)| index.parse().ok());
    only.is_none_or(|only| index().is_some_and(|index| only.contains(index)))
}

fn address(endpoint: &Endpoint) -> String {
    format!("{}:{}", endpoint.host, endpoint.port)
}

fn state(endpoint: &Endpoint) -> &'static str {
    match (endpoint.up, endpoint.health) {
        (true, _) => "up",
        (false, Some(health)) => health,
        (false, None) => "starting",
    }
}

/// A task and the name of one of its ports.
type Key = (String, String);

/// What was printed of a name. From one master to the next only what differs is news.
#[derive(Debug, Default)]
struct Known {
    endpoints: BTreeMap<Key, Endpoint>,
    index: u64,
    stale: bool,
    /// Whether anything was printed.
    begun: bool,
    /// The parts of a change of which more are to come.
    parts: Vec<pb::NamesUpdate>,
    /// Those that are looked at; `None`: all.
    only: Option<IndexSet>,
}

/// What is printed, as JSON.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct News {
    /// Up to and with this entry of the log.
    index: u64,
    /// Whether these are all, as at the beginning.
    full: bool,
    /// New ones, or other than before.
    endpoints: Vec<Endpoint>,
    /// Those that are there no longer.
    gone: Vec<Gone>,
    /// Whether the masters that answer may know too little.
    stale: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Gone {
    task: String,
    port_name: String,
}

impl Known {
    /// Takes a message; what there is to print, if it was the last of its change.
    fn take(&mut self, update: pb::NamesUpdate) -> Option<News> {
        let more = update.more;
        self.parts.push(update);
        if more {
            return None;
        }
        let parts = std::mem::take(&mut self.parts);
        let (last, full) = (parts.last()?.clone(), parts.first()?.full);
        let mut now = if full { BTreeMap::new() } else { self.endpoints.clone() };
        for part in parts {
            for gone in part.gone {
                now.remove(&(gone.task, gone.port_name));
            }
            let endpoints = part.endpoints.into_iter().map(Endpoint::from);
            let endpoints = endpoints.filter(|e| is_of(&e.task, self.only.as_ref()));
            now.extend(endpoints.map(|e| ((e.task.clone(), e.port_name.clone()), e)));
        }
        let gone = self.endpoints.keys().filter(|key| !now.contains_key(key));
        let gone = gone.map(|(task, port)| Gone { task: task.clone(), port_name: port.clone() });
        let gone: Vec<_> = gone.collect();
        let is_news =
            |(key, endpoint): &(&Key, &Endpoint)| self.endpoints.get(key) != Some(endpoint);
        let endpoints: Vec<_> = now.iter().filter(is_news).map(|(_, e)| e.clone()).collect();
        let full = !std::mem::replace(&mut self.begun, true);
        let was_stale = std::mem::replace(&mut self.stale, last.stale);
        self.endpoints = now;
        self.index = self.index.max(last.index);
        let is_news = full || !endpoints.is_empty() || !gone.is_empty() || was_stale != last.stale;
        is_news.then_some(News { index: last.index, full, endpoints, gone, stale: last.stale })
    }
}

/// Until interrupted. When a master goes away, or knows too little, goes on at another one.
async fn watch(
    client: &mut Client,
    name: &str,
    only: Option<IndexSet>,
    out: Output,
) -> Result<(), Failure> {
    let mut known = Known { only, ..Known::default() };
    loop {
        let message = pb::WatchNamesRequest { name: name.to_owned(), at_least_index: known.index };
        let mut stream: Streaming<pb::NamesUpdate> = client
            .open(&format!("resolve {name}"), message, async |mut master, request| {
                master.watch_names(request).await
            })
            .await?;
        known.parts.clear();
        let was_stale = loop {
            match stream.message().await {
                Ok(Some(update)) => {
                    let is_whole = !update.more;
                    if let Some(news) = known.take(update) {
                        show(&news, out)?;
                    }
                    if is_whole && known.stale && client.masters() > 1 {
                        break true;
                    }
                }
                Ok(None) => break false,
                Err(status) if goes_on(&status) => break false,
                Err(status) => return Err(Failure::from(status).context("resolve")),
            }
        };
        if was_stale {
            tokio::time::sleep(PAUSE).await;
        }
        client.pass_over();
    }
}

/// Whether another master is worth asking.
fn goes_on(status: &Status) -> bool {
    status.code() == tonic::Code::Aborted || Failure::from(status.clone()).code == Code::Unavailable
}

fn show(news: &News, out: Output) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(news, true);
    }
    let index = news.index;
    for gone in &news.gone {
        out.line(&format!("{index:>6}  - {} {}", gone.task, gone.port_name))?;
    }
    for endpoint in &news.endpoints {
        let (address, state) = (address(endpoint), state(endpoint));
        let Endpoint { task, port_name, .. } = endpoint;
        let line = format!("{index:>6}  = {task} {port_name} {address} {state}");
        out.line(&line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>())?;
    }
    if news.full && news.endpoints.is_empty() {
        note("nothing is placed under this name yet");
    }
    if news.stale {
        note("this master's state may be too old: asking another one");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(task: u32, up: bool) -> pb::Endpoint {
        pb::Endpoint {
            task: format!("ann/web/{task}"),
            port_name: "http".into(),
            host: "h".into(),
            port: 80,
            up,
            health: 0,
        }
    }

    fn update(index: u64, full: bool, endpoints: Vec<pb::Endpoint>) -> pb::NamesUpdate {
        pb::NamesUpdate { index, full, endpoints, ..pb::NamesUpdate::default() }
    }

    #[test]
    fn another_master_that_begins_with_everything_is_news_only_where_it_differs() {
        let mut known = Known::default();
        let first =
            known.take(update(5, true, vec![endpoint(0, true), endpoint(1, true)])).unwrap();
        assert_eq!((first.full, first.endpoints.len()), (true, 2));
        assert_eq!(known.take(update(6, true, vec![endpoint(0, true), endpoint(1, true)])), None);
        let other = known.take(update(7, true, vec![endpoint(1, false)])).unwrap();
        assert_eq!((other.full, other.endpoints.len(), other.gone.len()), (false, 1, 1));
        assert_eq!(other.gone[0].task, "ann/web/0");
        assert_eq!(known.index, 7);
    }

    #[test]
    fn of_some_tasks_only_these_are_news() {
        let only = "1,3".parse().ok();
        let mut known = Known { only, ..Known::default() };
        let all = vec![endpoint(0, true), endpoint(1, true)];
        let first = known.take(update(5, true, all.clone())).unwrap();
        assert_eq!(first.endpoints.iter().map(|e| &e.task).collect::<Vec<_>>(), ["ann/web/1"]);
        assert_eq!(known.take(update(6, true, vec![endpoint(0, false), endpoint(1, true)])), None);
        assert!(is_of("ann/web/12", None) && !is_of("ann/web/12", known.only.as_ref()));
    }

    #[test]
    fn a_change_in_parts_is_one_change() {
        let mut known = Known::default();
        let part = pb::NamesUpdate { more: true, ..update(5, true, vec![endpoint(0, true)]) };
        assert_eq!(known.take(part), None);
        let whole = known.take(update(5, false, vec![endpoint(1, true)])).unwrap();
        assert_eq!((whole.full, whole.endpoints.len()), (true, 2));
        let gone = pb::GoneEndpoint { task: "ann/web/0".into(), port_name: "http".into() };
        let less = pb::NamesUpdate { gone: vec![gone], ..update(6, false, Vec::new()) };
        assert_eq!(known.take(less).unwrap().gone.len(), 1);
        let stale = pb::NamesUpdate { stale: true, ..update(6, false, Vec::new()) };
        assert!(known.take(stale.clone()).unwrap().stale);
        assert_eq!(known.take(stale), None, "it was told");
    }
}
