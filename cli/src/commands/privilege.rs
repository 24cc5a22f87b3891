//! `privilege`: show what some users may and others may not and which jobs use it, grant it and take it
//! back.

use super::history::say_when;
use crate::client::{Client, Kind};
use crate::exit::Failure;
use crate::output::privileges::UserPrivilege;
use crate::output::views::Read;
use crate::output::{Output, note};
use borg_proto::time::Date;
use borg_proto::wire::pb;
use borg_proto::{Millis, Privilege, UserName};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum PrivilegeCommand {
    /// List who holds which privilege, and the live jobs that use it; of others than yourself for admins
    List {
        /// Only this user's
        user: Option<UserName>,
    },
    /// Let a user do what a privilege allows. Needs admin
    #[command(after_help = meanings())]
    Grant {
        /// Who
        user: UserName,
        /// admin, monitoring, listen, system-calls, machine-ids or devices
        privilege: Privilege,
    },
    /// Take a privilege back; jobs that were accepted with it go on. Needs admin
    Revoke {
        /// From whom
        user: UserName,
        /// admin, monitoring, listen, system-calls, machine-ids or devices
        privilege: Privilege,
    },
}

impl PrivilegeCommand {
    /// Whether it only shows.
    pub(super) fn only_shows(&self) -> bool {
        matches!(self, Self::List { .. })
    }
}

/// What each allows, one to a line.
fn meanings() -> String {
    let line = |privilege: Privilege| format!("  {privilege:<14}{}", privilege.meaning());
    let lines = Privilege::ALL.map(line).join("\n");
    format!("Privileges:\n{lines}")
}

pub(super) async fn run(
    client: &mut Client,
    command: PrivilegeCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        PrivilegeCommand::List { user } => list(client, user, out).await,
        PrivilegeCommand::Grant { user, privilege } => grant(client, &user, privilege, out).await,
        PrivilegeCommand::Revoke { user, privilege } => revoke(client, &user, privilege, out).await,
    }
}

async fn grant(
    client: &mut Client,
    user: &UserName,
    privilege: Privilege,
    out: Output,
) -> Result<(), Failure> {
    let what = format!("grant {user} the privilege {privilege}");
    let message = pb::GrantPrivilegeRequest {
        user: user.to_string(),
        privilege: pb::Privilege::from(privilege).into(),
        request_id: client.request_id(),
    };
    let answer = client.call(&what, Kind::Change, message, async |mut to, request| {
        to.grant_privilege(request).await
    });
    let index = answer.await?.index;
    if out.is_json() {
        return out.json(&serde_json::json!({ "index": index }), false);
    }
    out.line(&format!("{user} holds {privilege}: {}", privilege.meaning()))
}

async fn revoke(
    client: &mut Client,
    user: &UserName,
    privilege: Privilege,
    out: Output,
) -> Result<(), Failure> {
    let what = format!("revoke the privilege {privilege} of {user}");
    let message = pb::RevokePrivilegeRequest {
        user: user.to_string(),
        privilege: pb::Privilege::from(privilege).into(),
        request_id: client.request_id(),
    };
    let answer = client.call(&what, Kind::Change, message, async |mut to, request| {
        to.revoke_privilege(request).await
    });
    let index = answer.await?.index;
    if out.is_json() {
        return out.json(&serde_json::json!({ "index": index }), false);
    }
    out.line(&format!("{user} does not hold {privilege} any more"))?;
    if privilege.loosens() {
        note(&format!(
            "jobs that were accepted with it go on: borgctl privilege list {user} shows them"
        ));
    }
    Ok(())
}

async fn list(client: &mut Client, user: Option<UserName>, out: Output) -> Result<(), Failure> {
    let message =
        pb::ListPrivilegesRequest { user: user.map_or_else(String::new, |user| user.to_string()) };
    let answer = client
        .call("privileges", Kind::Read, message, async |mut master, request| {
            master.list_privileges(request).await
        })
        .await?;
    say_when(client, out, answer.read.as_ref());
    let privileges: Vec<UserPrivilege> =
        answer.privileges.into_iter().map(UserPrivilege::from).collect();
    if out.is_json() {
        return out.json(&Read::each(answer.read, privileges), false);
    }
    note("admin holds every privilege");
    let rows = privileges.into_iter().map(|held| {
        let since = held.granted_at_ms.map(|at| Date(Millis(at)).to_string());
        let jobs = held.jobs_told();
        [
            held.user,
            held.privilege,
            since.unwrap_or_else(|| "not held".into()),
            held.by.unwrap_or_else(|| "-".into()),
            jobs,
        ]
    });
    out.table(["user", "privilege", "since", "by", "used by jobs"], rows)
}
