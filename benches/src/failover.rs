//! From the death of the leader to the next acknowledged change.
//!
//! The change is the smallest there is: a machine that the cell knows is added once more at its
//! address. One client tries one master after another with the same request id until one answers,
//! not knowing which master is dead.

use crate::figures::{part, percentile, progress};
use crate::local_cell::{LocalCell, MASTERS};
use crate::{Error, clock};
use borg_proto::wire::pb;
use std::time::Duration;
use tonic::Request;

/// How many leaders die.
const KILLS: usize = 30;
/// Longest time for one try at one master.
const TRY: Duration = Duration::from_secs(5);
/// Pause after a master that did not answer.
const PAUSE: Duration = Duration::from_millis(5);
/// No change is acknowledged by then: the measurement fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rest before a kill. Not the same each time, so that no timer of the cell keeps in step.
const REST_MS: u64 = 400;
const REST_SPREAD_MS: u64 = 397;

/// One outage, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Outage {
    /// From the kill to the answer.
    whole: f64,
    /// From the kill until the next leader took up its work.
    elected: f64,
    /// From there to the answer.
    answered: f64,
}

/// All outages.
#[derive(Debug)]
pub struct Outages(Vec<Outage>);

impl Outages {
    /// Kill to acknowledged change, in milliseconds.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.of(|outage| outage.whole), percent)
    }

    fn of(&self, part: impl Fn(&Outage) -> f64) -> Vec<f64> {
        self.0.iter().map(part).collect()
    }

    /// Medians of the parts, to read.
    #[must_use]
    pub fn parts(&self) -> String {
        [
            part("next leader at work", &self.of(|outage| outage.elected)),
            part("change acknowledged", &self.of(|outage| outage.answered)),
        ]
        .join("\n")
    }
}

/// Kills the leader again and again; each time the dead master is started again, and all have to
/// agree before the next one dies.
///
/// # Errors
/// When no change is acknowledged for half a minute, or a master does not come back.
pub async fn measure(cell: &mut LocalCell) -> Result<Outages, Error> {
    let mut outages = Vec::new();
    for n in 0..KILLS {
        let rest = REST_MS + u64::try_from(n)? * 131 % REST_SPREAD_MS;
        tokio::time::sleep(Duration::from_millis(rest)).await;
        let leader = cell.settled().await?;
        let before = change(cell, &format!("before-{n}"), n).await?;
        let doomed = cell.arguments(leader)?;

        let (began, began_ms) = (clock::now(), clock::unix_ms());
        doomed.kill()?;
        let acknowledged = change(cell, &format!("after-{n}"), n).await?;
        let whole = clock::milliseconds(began.elapsed());

        let led_ms = led_after(cell, before.index, acknowledged.by).await?;
        cell.start_again(doomed)?;
        let outage =
            Outage { whole, elected: led_ms - began_ms, answered: began_ms + whole - led_ms };
        progress(&format!("kill {n}: master {} died, {whole:.0} ms", leader + 1));
        outages.push(outage);
    }
    cell.settled().await?;
    Ok(Outages(outages))
}

/// An acknowledged change.
struct Acknowledged {
    /// Its place in the log.
    index: u64,
    /// The master that answered.
    by: usize,
}

async fn change(cell: &LocalCell, id: &str, first: usize) -> Result<Acknowledged, Error> {
    let (name, address) = cell.machine(0)?;
    let message = pb::AddMachineRequest { name, address, request_id: id.to_owned() };
    let began = clock::now();
    for by in (0..MASTERS).cycle().skip(first % MASTERS) {
        let mut request = Request::new(message.clone());
        request.set_timeout(TRY);
        match cell.client(by).add_machine(request).await {
            Ok(answer) => return Ok(Acknowledged { index: answer.into_inner().index, by }),
            Err(status) if began.elapsed() > PATIENCE => return Err(status.into()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    unreachable!("a cycle has no end")
}

/// When the first leader after an entry took up its work, in Unix milliseconds of this computer.
async fn led_after(cell: &LocalCell, index: u64, ask: usize) -> Result<f64, Error> {
    let watch = pb::WatchRequest { after_index: index, job: String::new(), progress: false };
    let mut events = cell.client(ask).watch(watch).await?.into_inner();
    let found = async {
        while let Some(event) = events.message().await? {
            if event.kind == "master.leads" {
                return Ok(event.at_ms);
            }
        }
        Err(Error::from("the events ended before there was a leader"))
    };
    let at = tokio::time::timeout(TRY, found).await.map_err(|_| "no event tells of a leader")??;
    Ok(clock::told(at)?)
}
