//! `cert issue`: certificates for people and machines that join a cell.

use crate::ca::CellCa;
use crate::exit::{Code, Failure};
use crate::output::Output;
use borg_proto::ReplicaId;
use borg_proto::identity::Role;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum CertCommand {
    /// Make the CA of a new cell
    Init {
        /// The cell's name
        cell: borg_proto::CellName,
        /// Where to: a directory without a CA
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
    },
    /// Issue a certificate, valid for a year
    Issue(IssueArgs),
}

#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// What the owner is in the cell
    role: RoleName,
    /// The owner's name: a user's, a machine's, or a master's number
    name: String,
    /// Directory of the cell's CA
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Where ca.pem, cert.pem and key.pem go
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    User,
    Borglet,
    Master,
}

pub(super) fn run(command: CertCommand, out: Output) -> Result<(), Failure> {
    let (name, dir) = match command {
        CertCommand::Init { cell, ca } => (CellCa::create(&ca, cell)?.cell().to_string(), ca),
        CertCommand::Issue(args) => {
            let role = role(args.role, &args.name)?;
            (CellCa::open(&args.ca)?.issue(role, &args.dir)?.to_string(), args.dir)
        }
    };
    if out.is_json() {
        return out.json(&serde_json::json!({ "name": name, "dir": dir }), false);
    }
    out.line(&format!("{name} in {}", dir.display()))
}

fn role(kind: RoleName, name: &str) -> Result<Role, Failure> {
    let wrong = |why: String| Failure::new(Code::Usage, why);
    Ok(match kind {
        RoleName::User => Role::User(name.parse().map_err(|error| wrong(format!("{error}")))?),
        RoleName::Borglet => {
            Role::Borglet(name.parse().map_err(|error| wrong(format!("{error}")))?)
        }
        RoleName::Master => {
            let most = ReplicaId::MAX_NUMBER;
            let number = name.parse().ok().filter(|number| (1..=most).contains(number));
            Role::Master(ReplicaId(
                number.ok_or_else(|| {
                    wrong(format!("{name:?} is not a master's number, 1 to {most}"))
                })?,
            ))
        }
    })
}
