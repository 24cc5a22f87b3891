//! Which cell to talk to: options, environment, and the file `client.json` in a cell's directory.

use crate::commands::history::At;
use crate::exit::{Code, Failure};
use borg_proto::identity::{Identity, Role};
use borg_proto::rpc::Credentials;
use borg_proto::{CellName, UserName, in_full};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the client's file in a cell's directory.
pub const CLIENT_FILE: &str = "client.json";

/// What a client needs to know of a cell. Paths are relative to the file's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFile {
    /// The cell's name.
    pub cell: CellName,
    /// `HOST:PORT` of its masters.
    pub masters: Vec<String>,
    /// Directory with `ca.pem`, `cert.pem` and `key.pem` of the user.
    pub creds: PathBuf,
}

impl ClientFile {
    /// Writes the file into a cell's directory.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        let partial = dir.join(format!(".{CLIENT_FILE}"));
        std::fs::write(&partial, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(partial, dir.join(CLIENT_FILE))
    }
}

/// Options that choose the cell, shared by all commands that talk to one.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cell")]
pub struct TargetArgs {
    /// Directory of the cell, with client.json [default: the local cell's]
    #[arg(long, global = true, env = "BORG_CELL_DIR", value_name = "DIR")]
    pub cell_dir: Option<PathBuf>,
    /// Addresses of the masters instead of those in client.json
    #[arg(
        long = "master",
        visible_alias = "cell",
        global = true,
        value_delimiter = ',',
        value_name = "HOST:PORT,.."
    )]
    pub masters: Vec<String>,
    /// Directory of the credentials instead of that in client.json
    #[arg(long, global = true, value_name = "DIR")]
    pub creds: Option<PathBuf>,
    /// How long to try before giving up
    #[arg(long, global = true, default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: Duration,
    /// Show the cell as it was: a time (2026-11-25T20:00:00Z), a while ago (-10m), or an index of the log
    #[arg(long, global = true, allow_hyphen_values = true, value_name = "TIME|INDEX")]
    pub at: Option<At>,
    /// Show nothing older than this moment: a majority of the masters is asked (status, machines, why, resolve)
    #[arg(long, global = true, conflicts_with = "at")]
    pub consistent: bool,
    /// Names what is changed: said again with the same one, it is done once [default: a new one]
    #[arg(long, global = true, value_name = "ID", value_parser = request_name)]
    pub request_id: Option<String>,
}

/// A request id that leaves room for a number behind it.
fn request_name(text: &str) -> Result<String, String> {
    const MOST: usize = 53;
    if (1..=MOST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!("is not 1 to {MOST} letters, digits and signs"))
}

/// A cell, and who we are there.
#[derive(Debug, Clone)]
pub struct Target {
    /// `HOST:PORT` of its masters, at least one.
    pub masters: Vec<String>,
    /// Certificate and key of the user.
    pub credentials: Credentials,
    /// The user.
    pub user: UserName,
    /// How long one call may take in all.
    pub timeout: Duration,
    /// The moment that reads show; now when left out.
    pub at: Option<At>,
    /// Whether reads must not be older than the moment of asking.
    pub consistent: bool,
    /// What the request ids of changes begin with; random when left out.
    pub request_id: Option<String>,
}

/// The directory of the local cell: `$XDG_STATE_HOME/borg/local`, else
/// `~/.local/state/borg/local`.
#[must_use]
pub fn default_cell_dir() -> PathBuf {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_else(|| PathBuf::from(".")).join("borg/local")
}

impl TargetArgs {
    /// Whom the cell knows us as; `nobody` where there is no cell to ask as somebody.
    #[must_use]
    pub fn user(&self) -> UserName {
        let nobody = || "nobody".parse().expect("nobody is a name");
        self.resolve().map_or_else(|_| nobody(), |target| target.user)
    }

    /// The cell's directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.cell_dir.clone().unwrap_or_else(default_cell_dir)
    }

    /// Finds the cell and loads the credentials.
    ///
    /// # Errors
    /// `NotFound` when there is no cell, `Permission` when the credentials are no user's.
    pub fn resolve(&self) -> Result<Target, Failure> {
        let file = match (&self.creds, self.masters.is_empty()) {
            (Some(_), false) => None,
            (Some(_) | None, _) => Some(self.read_file()?),
        };
        let masters = match &file {
            Some(file) if self.masters.is_empty() => file.masters.clone(),
            _ => self.masters.clone(),
        };
        if masters.is_empty() {
            return Err(Failure::new(Code::Usage, "no master is known: give --master HOST:PORT"));
        }
        let creds = match (&self.creds, &file) {
            (Some(creds), _) => creds.clone(),
            (None, Some(file)) => self.dir().join(&file.creds),
            (None, None) => {
                return Err(Failure::new(
                    Code::Usage,
                    "no credentials are known: give --creds DIR",
                ));
            }
        };
        let credentials = Credentials::load(&creds)
            .map_err(|error| Failure::new(Code::Permission, in_full(&error)))?;
        let Identity { cell, role } = &credentials.identity;
        if let Some(file) = &file
            && file.cell != *cell
        {
            let text =
                format!("credentials in {} are of cell {cell}, not {}", creds.display(), file.cell);
            return Err(Failure::new(Code::Permission, text));
        }
        let Role::User(user) = role else {
            let text = format!(
                "credentials in {} are {}'s, not a user's",
                creds.display(),
                credentials.identity
            );
            return Err(Failure::new(Code::Permission, text));
        };
        Ok(Target {
            masters,
            user: user.clone(),
            credentials: credentials.clone(),
            timeout: self.timeout,
            at: self.at,
            consistent: self.consistent,
            request_id: self.request_id.clone(),
        })
    }

    fn read_file(&self) -> Result<ClientFile, Failure> {
        let path = self.dir().join(CLIENT_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let why = format!(
                "there is no cell in {} ({error}): start one with `borgctl cell up`, or name one with --cell-dir, BORG_CELL_DIR or --master and --creds",
                self.dir().display()
            );
            Failure::new(Code::NotFound, why)
        })?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::new(Code::Usage, format!("{}: {error}", path.display())))
    }
}
