//! A cell to be tortured: the programs that people run, and the API as any client calls it.
//!
//! Unlike `local_cell`, its directories and addresses are the test's to choose, and its daemons
//! are this process's children. Leaves the faults to the tests.
//!
//! Invariant: what it checks is asked over the API or read in what the daemons print; nothing here
//! looks into a data directory.

use super::apart::run;
use super::books::Books;
use super::clients::read;
use super::daemon::Daemon;
use crate::{Error, clock};
use borg_proto::identity::{ADMIN, any_master_name};
use borg_proto::rpc::{BorgmasterClient, Credentials, Timeouts, borgmaster_client, channel};
use borg_proto::wire::pb;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::Channel;

/// Masters of a cell.
pub const MASTERS: usize = 5;
/// How long one question may take.
const TRY: Duration = Duration::from_secs(2);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A client of one master.
pub type Client = BorgmasterClient<Channel>;

/// What a cell is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Its own directory, for credentials and logs.
    pub dir: PathBuf,
    /// Data directory of each master.
    pub data: Vec<PathBuf>,
    /// Address of each master.
    pub addresses: Vec<String>,
    /// Store of the log, `redb` or `sled`.
    pub store: String,
    /// Log entries between two checkpoints: few, so that faults meet them.
    pub checkpoint_every: u64,
}

impl Plan {
    /// Masters on loopback, from this port on, with plain directories.
    #[must_use]
    pub fn new(dir: &Path, name: &str, masters: usize, first_port: u16, store: &str) -> Self {
        let numbers = || (0..masters).map(|i| u16::try_from(i).unwrap_or(u16::MAX));
        Self {
            name: name.to_owned(),
            dir: dir.join(name),
            data: numbers().map(|i| dir.join(name).join(format!("data-{}", i + 1))).collect(),
            addresses: numbers().map(|i| format!("127.0.0.1:{}", first_port + i)).collect(),
            store: store.to_owned(),
            checkpoint_every: 400,
        }
    }
}

/// A cell; whatever of it runs is killed when it is dropped.
#[derive(Debug)]
pub struct Cell {
    /// Its masters, by place.
    pub masters: Vec<Daemon>,
    /// Its borglets.
    pub borglets: Vec<Daemon>,
    /// Where the clients run.
    pub runtime: Runtime,
    plan: Plan,
    clients: Vec<Client>,
}

impl Cell {
    /// Makes its certificates; starts nothing.
    ///
    /// # Errors
    /// When `borgctl` is not beside this program, or fails.
    pub fn make(plan: Plan) -> Result<Self, Error> {
        std::fs::create_dir_all(plan.dir.join("log"))?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let ca = plan.dir.join("ca").display().to_string();
        let mut cell =
            Self { masters: Vec::new(), borglets: Vec::new(), runtime, clients: Vec::new(), plan };
        run(&program("borgctl")?, &["cert", "init", &cell.plan.name, "--ca", &ca])?;
        let members: Vec<String> = (1..)
            .zip(&cell.plan.addresses)
            .map(|(n, address): (u64, _)| format!("{n}={address}"))
            .collect();
        for (i, address) in cell.plan.addresses.iter().enumerate() {
            let number = (i + 1).to_string();
            let creds = cell.issue("master", &number)?;
            let text = |path: &Path| path.display().to_string();
            let args = [
                "--dir",
                &text(&cell.plan.data[i]),
                "--creds",
                &text(&creds),
                "--listen",
                address,
                "--masters",
                &members.join(","),
                "--store",
                &cell.plan.store,
                "--checkpoint-every",
                &cell.plan.checkpoint_every.to_string(),
            ];
            let name = format!("master-{number}");
            let log = cell.log(&name);
            let mut master = Daemon::new(
                name,
                program("borgmaster")?.into(),
                args.map(str::to_owned).into(),
                log,
            );
            master.first = vec!["--new".to_owned()];
            cell.masters.push(master);
        }
        cell.issue("user", ADMIN)?;
        cell.clients = cell.clients_of(ADMIN)?;
        Ok(cell)
    }

    /// Adds a machine, whose tasks are plain processes; does not start its borglet.
    ///
    /// # Errors
    /// When its certificate cannot be made.
    pub fn add_borglet(&mut self, number: usize, address: &str, ports: &str) -> Result<(), Error> {
        let name = format!("m-{number}");
        let creds = self.issue("borglet", &name)?.display().to_string();
        let dir = self.plan.dir.join(&name).display().to_string();
        let ram = (4_u64 << 30).to_string();
        let args = [
            "--dir",
            &dir,
            "--creds",
            &creds,
            "--listen",
            address,
            "--ports",
            ports,
            "--isolation",
            "none",
            "--ram-bytes",
            &ram,
            "--cpu-milli",
            "100000",
        ];
        let args = args.map(str::to_owned).into();
        let log = self.log(&name);
        self.borglets.push(Daemon::new(name, program("borglet")?.into(), args, log));
        Ok(())
    }

    /// Makes a certificate; gives its directory.
    ///
    /// # Errors
    /// When `borgctl` fails.
    pub fn issue(&self, role: &str, name: &str) -> Result<PathBuf, Error> {
        let dir = self.plan.dir.join(format!("{role}-{name}"));
        let ca = self.plan.dir.join("ca").display().to_string();
        let to = dir.display().to_string();
        run(&program("borgctl")?, &["cert", "issue", role, name, "--ca", &ca, "--dir", &to])?;
        Ok(dir)
    }

    /// Clients of all masters as one user, whose certificate is there.
    ///
    /// # Errors
    /// When the certificate cannot be used.
    pub fn clients_of(&self, user: &str) -> Result<Vec<Client>, Error> {
        let credentials = Credentials::load(&self.plan.dir.join(format!("user-{user}")))?;
        let name = any_master_name(&credentials.identity.cell);
        let _guard = self.runtime.enter();
        let connect = |address: &String| {
            let channel = channel(address, &credentials, &name, Timeouts::default())?;
            Ok(borgmaster_client(channel))
        };
        self.plan.addresses.iter().map(connect).collect()
    }

    /// Where its daemons' logs are.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.plan.dir.join("log")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Starts all masters and waits until they work together.
    ///
    /// # Errors
    /// When they do not.
    pub fn start_masters(&mut self) -> Result<(), Error> {
        for master in &mut self.masters {
            master.start()?;
        }
        self.until_all_serve(Duration::from_secs(30))
    }

    /// Asks one master, within two seconds.
    ///
    /// # Errors
    /// What it answers.
    pub fn ask<T, F>(&self, master: usize, call: impl FnOnce(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let client = self.clients[master].clone();
        self.runtime.block_on(async {
            let limit = tokio::time::timeout(TRY, call(client));
            limit.await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer within 2 s")))
        })
    }

    /// How far a master is, once it can be read from.
    ///
    /// # Errors
    /// What it answers.
    pub fn applied(&self, master: usize) -> Result<u64, Status> {
        self.ask(master, async |mut client| {
            let answer = client.list_machines(pb::ListMachinesRequest {}).await?.into_inner();
            Ok(answer.read.unwrap_or_default().index)
        })
    }

    /// What a master says of all of them.
    ///
    /// # Errors
    /// What it answers.
    pub fn seen_from(&self, master: usize) -> Result<Vec<pb::Master>, Status> {
        self.ask(master, async |mut client| {
            Ok(client.list_masters(pb::ListMastersRequest {}).await?.into_inner().masters)
        })
    }

    /// Waits until every started master answers reads, has all that any of them had when the wait
    /// began, and votes: one that has joined again and does not vote yet is as good as dead to those
    /// who count on a majority.
    ///
    /// # Errors
    /// When that takes too long, or a master ends by itself.
    pub fn until_all_serve(&mut self, patience: Duration) -> Result<(), Error> {
        let began = clock::now();
        let mut goal = None;
        loop {
            let mut behind = Vec::new();
            let mut least = u64::MAX;
            let mut most = 0;
            for i in 0..self.masters.len() {
                if !self.masters[i].is_started() {
                    continue;
                }
                self.masters[i].must_run()?;
                match self.applied(i) {
                    Ok(index) => (least, most) = (least.min(index), most.max(index)),
                    Err(status) => {
                        let why = format!("{}: {}", self.masters[i].name, status.message());
                        behind.push(why);
                    }
                }
            }
            if behind.is_empty() {
                let goal = *goal.get_or_insert(most);
                if least < goal {
                    behind.push(format!("the last is at {least} of {goal}"));
                } else {
                    behind.extend(self.not_voting());
                }
                if behind.is_empty() {
                    return Ok(());
                }
            }
            if began.elapsed() > patience {
                return Err(format!(
                    "the masters do not work together after {patience:?}: {}",
                    behind.join("; ")
                )
                .into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The started masters that do not vote, as one that has all entries tells it.
    fn not_voting(&self) -> Vec<String> {
        let started = |i: &usize| self.masters[*i].is_started();
        let Some(asked) = (0..self.masters.len()).find(started) else { return Vec::new() };
        let seen = match self.seen_from(asked) {
            Ok(seen) => seen,
            Err(status) => {
                return vec![format!("{}: {}", self.masters[asked].name, status.message())];
            }
        };
        let mut waits = Vec::new();
        for (i, master) in self.masters.iter().enumerate().filter(|(_, one)| one.is_started()) {
            // Its earlier life may be there still.
            let mut lives = seen.iter().filter(|one| one.replica == i as u64 + 1).peekable();
            if lives.peek().is_none() || lives.any(|one| one.standing != "voting") {
                waits.push(format!("{} does not vote", master.name));
            }
        }
        waits
    }

    /// Holds what one master answers against the books: through read index if `consistent`, else
    /// as soon as its state has what was acknowledged when the question began.
    ///
    /// # Errors
    /// What is lost, or that no answer came within 20 s.
    pub fn check(&self, books: &Books, master: usize, consistent: bool) -> Result<(), Error> {
        let began = clock::now();
        let expected = books.expected();
        loop {
            let read = self.ask(master, async |client| read(client, consistent, TRY).await);
            let name = &self.masters[master].name;
            match read {
                Ok((index, listed)) if consistent || index >= expected.index => {
                    return Ok(books.check(name, &expected, &listed)?);
                }
                other if began.elapsed() > Duration::from_secs(20) => {
                    let index = other.map(|(index, _)| index);
                    let wanted = expected.index;
                    return Err(format!("{name} does not come to {wanted}: {index:?}").into());
                }
                Ok(_) | Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// With nobody changing anything: all masters come to the same index, those that have a digest
    /// of one index to the same one, and all have what is in the books. A master has a digest only
    /// of round indexes that it applied since it started.
    ///
    /// # Errors
    /// When they do not within half a minute.
    pub fn check_calm(&mut self, books: &Books) -> Result<(), Error> {
        self.until_all_serve(Duration::from_secs(30))?;
        let began = clock::now();
        loop {
            let seen = self.seen_from(0);
            if let Ok(masters) = &seen
                && masters.len() == self.masters.len()
                && masters.iter().all(|master| {
                    master.reachable
                        && master.applied_index == masters[0].applied_index
                        && masters.iter().all(|other| {
                            other.digest_index != master.digest_index
                                || other.digest == master.digest
                        })
                })
            {
                break;
            }
            if began.elapsed() > Duration::from_secs(30) {
                return Err(format!("the masters do not become equal: {seen:?}").into());
            }
            std::thread::sleep(LOOK);
        }
        for master in 0..self.masters.len() {
            self.check(books, master, false)?;
        }
        Ok(())
    }

    /// The states of all masters become the same byte for byte: the checkpoints that they save are.
    ///
    /// # Errors
    /// When they do not within half a minute.
    pub fn check_equal_states(&self) -> Result<(), Error> {
        let began = clock::now();
        loop {
            let mut states = Vec::new();
            for master in 0..self.masters.len() {
                let state = self.ask(master, async |mut client| {
                    let request = pb::SaveCheckpointRequest::default();
                    let mut chunks = client.save_checkpoint(request).await?.into_inner();
                    let mut bytes = Vec::new();
                    while let Some(chunk) = chunks.message().await? {
                        bytes.extend(chunk.data);
                    }
                    Ok(bytes)
                });
                states.push(state);
            }
            let first = states[0].as_ref().ok();
            if first.is_some() && states.iter().all(|state| state.as_ref().ok() == first) {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(30) {
                let sizes: Vec<_> =
                    states.iter().map(|state| state.as_ref().map(Vec::len)).collect();
                return Err(format!("the states of the masters differ: {sizes:?} bytes").into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Place of the master that leads, as a majority of those that answer sees it.
    ///
    /// # Errors
    /// When nobody leads for 20 s.
    pub fn leader(&self) -> Result<usize, Error> {
        let began = clock::now();
        loop {
            let mut votes = vec![0; self.masters.len()];
            let mut answers = 0;
            for i in 0..self.masters.len() {
                if !self.masters[i].is_started() {
                    continue;
                }
                let Ok(masters) = self.seen_from(i) else { continue };
                answers += 1;
                let leader = masters.iter().find(|master| master.leader && master.reachable);
                let number = leader.and_then(|leader| usize::try_from(leader.replica).ok());
                if let Some(vote) = number.and_then(|number| votes.get_mut(number.checked_sub(1)?))
                {
                    *vote += 1;
                }
            }
            if let Some(leader) = votes.iter().position(|votes| 2 * votes > answers) {
                return Ok(leader);
            }
            if began.elapsed() > Duration::from_secs(20) {
                return Err("nobody leads for 20 s".into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// No two masters led in one term, and none of them panicked, as far as they say.
    ///
    /// # Errors
    /// Names the term, or shows the panic.
    pub fn check_logs(&self) -> Result<(), Error> {
        let mut leaders: BTreeMap<u64, String> = BTreeMap::new();
        for master in &self.masters {
            for line in master.said().lines() {
                if line.contains("panicked at") {
                    return Err(format!("{}: {line}\n{}", master.name, master.tail()).into());
                }
                if line.contains("differs from this replica's") {
                    return Err(format!("{}: {line}", master.name).into());
                }
                let Some((_, rest)) = line.split_once("leader changed leader=") else { continue };
                let Some((leader, term)) = rest.split_once(" term=") else { continue };
                let leader = leader.trim_matches('"').to_owned();
                let term: u64 = term.trim().parse()?;
                if leader == "nobody" {
                    continue;
                }
                let first = leaders.entry(term).or_insert_with(|| leader.clone());
                if *first != leader {
                    return Err(format!("term {term} had two leaders: {first} and {leader}").into());
                }
            }
        }
        if leaders.is_empty() {
            return Err("no master said who leads; has the text of that line changed?".into());
        }
        Ok(())
    }
}

/// A program beside this one.
fn program(name: &str) -> Result<String, Error> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        return Err(format!("{} is not there; `./ci torture` builds it", path.display()).into());
    }
    Ok(path.display().to_string())
}
