//! Names as they change, for whoever watches them.
//!
//! Which endpoints are news is decided in `borg_cell::bns::follow`; here is when to look, and what becomes of one
//! who does not listen. A watcher is told the difference between what it was told and what is, so that it costs no
//! memory to be slow, and nobody is told what is over.
//!
//! Invariant: however many watch however much, they cost no more than a twenty-fifth of a core, and what they were
//! told takes bounded memory.

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
use prometheus_client::metrics::gauge::Gauge;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

/// Watchers of names at a master. 1,000: our choice.
pub(crate) const WATCHERS: usize = 1_000;
/// Endpoints that all of them watch together: 100 MB of what was told, and at most 6 s until something new is. Our
/// choice: 1,000 watchers of jobs of 200 tasks, or 20 of jobs of 10,000.
const ENDPOINTS: i64 = 200_000;
/// Messages on their way to a watcher.
const ON_THE_WAY: usize = 4;
/// Endpoints in a message: some 100 KB.
const IN_A_MESSAGE: usize = 1_000;
/// How long a message may wait for its reader. Ours.
const SLOW: Duration = Duration::from_secs(10);
/// Time between two looks when nothing happened: for how old the state is, and for machines whose host is
/// another one. Ours.
const IDLE: Duration = Duration::from_millis(500);
/// Rests that are shorter are none: tokio counts in milliseconds.
const LEAST_REST: Duration = Duration::from_millis(2);
/// Rest of all watchers for a look of one of them, and for each of its endpoints: twenty-five times what that costs.
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
        load: Load::new(&api.metrics),
        _place: place,
    };
    let stop = api.stop.clone();
    tokio::spawn(async move {
        let gone = teller.out.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = gone.closed() => {}
            () = teller.tell(view.state) => {}
        }
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
    load: Load,
    _place: Slot,
}

/// What one watcher is among all of a master's.
struct Load {
    watchers: Gauge,
    /// Of all.
    endpoints: Gauge,
    /// Of this one.
    own: i64,
}

impl Load {
    /// One more watches, nothing yet.
    fn new(metrics: &Metrics) -> Self {
        metrics.name_watchers.inc();
        let (watchers, endpoints) =
            (metrics.name_watchers.clone(), metrics.watched_endpoints.clone());
        Self { watchers, endpoints, own: 0 }
    }

    /// So many endpoints are watched by this one from now on.
    ///
    /// # Errors
    /// When they have become more, and are too many with those of all others.
    fn watches(&mut self, endpoints: usize) -> Result<(), Status> {
        let more = i64::try_from(endpoints).unwrap_or(i64::MAX) - self.own;
        self.own += more;
        let all = self.endpoints.inc_by(more) + more;
        if more > 0 && all > ENDPOINTS {
            return Err(Status::resource_exhausted(format!(
                "{all} endpoints are watched at this master with these {endpoints}, most is {ENDPOINTS}: watch \
                 at another master, or single tasks"
            )));
        }
        Ok(())
    }

    /// How long each watcher rests between two looks: longer the more watch, and the more they watch.
    fn rest(&self) -> Duration {
        let count = |gauge: &Gauge| u32::try_from(gauge.get()).unwrap_or(u32::MAX);
        let looks = LOOK.saturating_mul(count(&self.watchers));
        let each = LOOK_AT_ONE.saturating_mul(count(&self.endpoints));
        looks.saturating_add(each).max(LEAST_REST)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.watchers.dec();
        self.endpoints.dec_by(self.own);
    }
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
                let change = self.followed.look(&state);
                if let Err(too_many) = self.load.watches(self.followed.len()) {
                    drop(self.out.send(Err(too_many)).await);
                    return;
                }
                change
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
            tokio::time::sleep(self.load.rest()).await;
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

    /// By what a look costs: 20 us, and 1 us for each endpoint.
    #[test]
    fn watchers_cost_a_twenty_fifth_of_a_core_at_most_and_wait_for_seconds_at_most() {
        for (watchers, each) in [(1, 3), (1_000, 0), (1_000, 200), (20, 10_000), (500, 400)] {
            let metrics = Metrics::new().0;
            let mut all: Vec<Load> = (0..watchers).map(|_| Load::new(&metrics)).collect();
            for one in &mut all {
                one.watches(each).unwrap();
            }
            let look = Duration::from_micros(20 + each as u64);
            let (cost, rest) = (look * watchers, all[0].rest());
            assert!(cost * 25 <= rest, "{watchers} of {each}: {cost:?} each {rest:?}");
            assert!(rest <= Duration::from_secs(6), "{watchers} of {each}: {rest:?}");
            drop(all);
            assert_eq!((metrics.name_watchers.get(), metrics.watched_endpoints.get()), (0, 0));
        }
    }

    #[test]
    fn who_watches_more_than_there_is_room_for_is_refused_and_the_others_stay() {
        let metrics = Metrics::new().0;
        let [mut first, mut second] = [Load::new(&metrics), Load::new(&metrics)];
        first.watches(150_000).unwrap();
        let refused = second.watches(50_001).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("200001 endpoints"), "{}", refused.message());
        first.watches(150_000).unwrap();
        first.watches(149_000).unwrap();
        drop(second);
        first.watches(200_000).unwrap();
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
