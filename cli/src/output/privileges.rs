//! The JSON form of privileges. Field names are a promise to scripts.

use borg_proto::wire::{pb, read_privilege};
use serde::Serialize;

/// That a user holds a privilege, or that jobs of the user use one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are those of borg.v1.UserPrivilege, documented there")]
pub struct UserPrivilege {
    pub user: String,
    pub privilege: String,
    /// Whether the user holds it now.
    pub granted: bool,
    pub granted_at_ms: Option<u64>,
    pub by: Option<String>,
    pub jobs: Vec<String>,
    pub jobs_in_all: u32,
}

/// A privilege's name; its number when a newer master knows more of them.
#[must_use]
pub fn privilege_name(number: i32) -> String {
    read_privilege(number).map_or_else(|_| format!("number {number}"), |p| p.to_string())
}

impl From<pb::UserPrivilege> for UserPrivilege {
    fn from(from: pb::UserPrivilege) -> Self {
        Self {
            privilege: privilege_name(from.privilege),
            user: from.user,
            granted: from.granted_at_ms.is_some(),
            granted_at_ms: from.granted_at_ms,
            by: Some(from.by).filter(|by| !by.is_empty()),
            jobs: from.jobs,
            jobs_in_all: from.jobs_in_all,
        }
    }
}

impl UserPrivilege {
    /// The jobs that use it, for a table.
    #[must_use]
    pub fn jobs_told(&self) -> String {
        const NAMED: usize = 3;
        if self.jobs.is_empty() {
            return "-".to_owned();
        }
        let named = self.jobs.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
        let in_all = usize::try_from(self.jobs_in_all).unwrap_or(usize::MAX);
        let more = in_all.saturating_sub(named.len());
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{rest}", named.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_beyond_a_few_are_counted_and_a_privilege_taken_back_is_shown_as_such() {
        let jobs = ["ann/a", "ann/b", "ann/c"].map(str::to_owned).to_vec();
        let of = |jobs: Vec<String>, jobs_in_all| {
            UserPrivilege::from(pb::UserPrivilege {
                user: "ann".into(),
                privilege: pb::Privilege::Listen.into(),
                granted_at_ms: None,
                by: String::new(),
                jobs,
                jobs_in_all,
            })
        };
        let used = of(jobs.clone(), 7);
        assert_eq!(used.jobs_told(), "ann/a ann/b ann/c and 4 more");
        assert_eq!((used.granted, used.by, used.privilege.as_str()), (false, None, "listen"));
        assert_eq!(of(jobs, 3).jobs_told(), "ann/a ann/b ann/c");
        assert_eq!(of(Vec::new(), 0).jobs_told(), "-");
    }
}
