//! Names as they change, for whoever watches them.
//!
//! Which endpoints are news is decided in `borg_cell::bns::follow`; here is when to look, and what becomes of one
//! who does not listen. A watcher is told the difference between what it was told and what is, so that it costs no
//! memory to be slow, and nobody is told what is over.
//!
//! Invariant: however many watch, they cost no more than a twenty-fifth of a core.

use super::streams::Items;
use super::{Api, views};
use crate::clock::{self, Stopwatch};
use crate::feed::View;
use crate::freshness::Freshness;
use crate::metrics::Metrics;
use borg_cell::bns::follow::{Change, Followed};
use borg_cell::state::CellState;
use borg_proto::slots::{NoSlot, Slot};
use borg_proto::wire::pb;
use borg_proto::{Millis, UserName};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

/// Watchers of names at a master. 1,000: our choice; with 100 endpoints each 50 MB.
pub(crate) const WATCHERS: usize = 1_000;
/// Messages on their way to a watcher.
const ON_THE_WAY: usize = 4;
/// Endpoints in a message: some 100 KB.
const IN_A_MESSAGE: usize = 1_000;
/// How long a message may wait for its reader. Ours.
const SLOW: Duration = Duration::from_secs(10);
/// Time between two looks when nothing happened: for how old the state is, and for machines whose host is
/// another one. Ours.
const IDLE: Duration = Duration::from_millis(500);
/// Longest time that a change waits to be told.
const LONGEST_REST: Duration = Duration::from_millis(500);
/// Rests that are shorter are none: tokio counts in milliseconds.
const LEAST_REST: Duration = Duration::from_millis(2);
/// Rest of each watcher for a look, and for each of its endpoints: twenty-five times what that costs.
const LOOK: Duration = Duration::from_micros(500);
const LOOK_AT_ONE: Duration = Duration::from_micros(25);

pub(super) async fn watch(
    api: &Api,
    user: &UserName,
    request: Request<pb::WatchNamesRequest>,
) -> Result<Items<pb::NamesUpdate>, Status> {
    let mut view = api.view_for(user, &request).await?;
    let pb::WatchNamesRequest { name, at_least_index } = request.into_inner();
    if at_least_index > view.state.applied() {
        view = api.confirmed_view(user).await?;
        let end = view.state.applied();
        if at_least_index > end {
            return Err(Status::out_of_range(format!(
                "at_least_index: {at_least_index}, but the log of this cell ends at {end}: it was restored from a \
                 backup since, or the index is another cell's. Watch anew, with 0"
            )));
        }
    }
    let followed = Followed::new(&name, &view.state).map_err(views::bns_status)?;
    let place = api.name_watchers.take(user).map_err(|full: NoSlot| {
        Status::resource_exhausted(format!(
            "too many names are watched: {full}; another master may have room"
        ))
    })?;
    let (out, items) = mpsc::channel(ON_THE_WAY);
    let teller = Teller {
        out,
        followed,
        view: api.view.clone(),
        fresh: api.fresh.clone(),
        max_age: api.names_max_age,
        metrics: api.metrics.clone(),
        _place: place,
    };
    api.metrics.name_watchers.inc();
    let (stop, counted) = (api.stop.clone(), api.metrics.name_watchers.clone());
    tokio::spawn(async move {
        let gone = teller.out.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = gone.closed() => {}
            () = teller.tell(view.state) => {}
        }
        counted.dec();
    });
    Ok(Box::pin(ReceiverStream::new(items)))
}

/// One watcher's stream.
struct Teller {
    out: mpsc::Sender<Result<pb::NamesUpdate, Status>>,
    followed: Followed,
    view: watch::Receiver<View>,
    fresh: Freshness,
    max_age: Millis,
    metrics: Metrics,
    _place: Slot,
}

/// The watcher took nothing for too long, or is gone.
struct Deaf;

impl Teller {
    async fn tell(mut self, first: CellState) {
        let mut told_stale = None;
        let mut state = first;
        let mut looked: Option<Stopwatch> = None;
        loop {
            let age = self.fresh.age(clock::now());
            let stale = age.is_none_or(|age| age > self.max_age);
            let full = told_stale.is_none();
            let is_due = looked.as_ref().is_none_or(|looked| looked.elapsed() >= IDLE);
            let change = if is_due || self.followed.has_news(&state) {
                looked = Some(clock::stopwatch());
                self.followed.look(&state)
            } else {
                Change::default()
            };
            if full || !change.is_empty() || told_stale != Some(stale) {
                told_stale = Some(stale);
                let standing = pb::NamesUpdate {
                    index: state.applied(),
                    full,
                    stale,
                    age_ms: age.map_or(0, |age| age.0),
                    replica: self.view.borrow().status.replica.0,
                    ..pb::NamesUpdate::default()
                };
                if let Err(Deaf) = self.send(standing, change).await {
                    let why = "too slow: nothing was taken for 10 s; watch again, from the index seen last";
                    drop(self.out.send(Err(Status::aborted(why))).await);
                    return;
                }
            }
            tokio::time::sleep(self.rest()).await;
            if let Ok(Err(_)) = tokio::time::timeout(IDLE, self.view.changed()).await {
                return;
            }
            state = self.view.borrow_and_update().state.clone();
        }
    }

    /// In as many messages as it takes.
    async fn send(&self, standing: pb::NamesUpdate, change: Change) -> Result<(), Deaf> {
        for message in messages(standing, change) {
            match tokio::time::timeout(SLOW, self.out.send(Ok(message))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Deaf),
            }
        }
        Ok(())
    }

    /// Longer the more watch, and the more each of them watches.
    fn rest(&self) -> Duration {
        let watchers = u32::try_from(self.metrics.name_watchers.get()).unwrap_or(1);
        let endpoints = u32::try_from(self.followed.len()).unwrap_or(u32::MAX);
        let look = LOOK.saturating_add(LOOK_AT_ONE.saturating_mul(endpoints));
        look.saturating_mul(watchers).clamp(LEAST_REST, LONGEST_REST)
    }
}

/// The parts of a change, in order; all but the last are followed by another.
fn messages(standing: pb::NamesUpdate, change: Change) -> Vec<pb::NamesUpdate> {
    let gone = change.gone.into_iter().map(|(task, port_name)| pb::GoneEndpoint {
        task: task.to_string(),
        port_name: port_name.to_string(),
    });
    let gone: Vec<_> = gone.collect();
    let set: Vec<_> = change.set.into_iter().map(views::endpoint).collect();
    let part = pb::NamesUpdate { more: true, ..standing };
    let mut messages: Vec<_> = gone
        .chunks(IN_A_MESSAGE)
        .map(|gone| pb::NamesUpdate { gone: gone.to_vec(), ..part.clone() })
        .collect();
    messages.extend(
        set.chunks(IN_A_MESSAGE)
            .map(|set| pb::NamesUpdate { endpoints: set.to_vec(), ..part.clone() }),
    );
    if messages.is_empty() {
        messages.push(part);
    }
    // What comes after the first belongs to it and replaces nothing.
    for message in messages.iter_mut().skip(1) {
        message.full = false;
    }
    if let Some(last) = messages.last_mut() {
        last.more = false;
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::bns::Endpoint;
    use borg_proto::Health;

    fn endpoint(index: u32) -> Endpoint {
        Endpoint {
            task: format!("ann/web/{index}").parse().unwrap(),
            port_name: "http".parse().unwrap(),
            host: "10.0.0.1".into(),
            port: 80,
            up: true,
            health: Health::Healthy,
        }
    }

    #[test]
    fn a_large_change_comes_in_parts_of_which_the_last_says_that_it_is_the_last() {
        let standing = pb::NamesUpdate { full: true, index: 7, ..pb::NamesUpdate::default() };
        let shown = |change: Change| -> Vec<_> {
            let told = messages(standing.clone(), change);
            let show = |m: &pb::NamesUpdate| (m.gone.len(), m.endpoints.len(), m.full, m.more);
            assert!(told.iter().all(|message| message.index == 7));
            told.iter().map(show).collect()
        };
        let gone = vec![("ann/web/9000".parse().unwrap(), "http".parse().unwrap())];
        let large = Change { set: (0..2_500).map(endpoint).collect(), gone };
        assert_eq!(
            shown(large),
            [
                (1, 0, true, true),
                (0, 1_000, false, true),
                (0, 1_000, false, true),
                (0, 500, false, false)
            ]
        );
        assert_eq!(shown(Change::default()), [(0, 0, true, false)], "nothing is told too");
    }
}
