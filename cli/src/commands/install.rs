//! What a new machine needs: certificate, configuration and systemd unit, in one directory.

use crate::ca::CellCa;
use crate::exit::{Code, Failure};
use borg_proto::MachineName;
use borg_proto::identity::Role;
use std::fs;
use std::path::Path;

/// Where the directory goes on the machine.
const PLACE: &str = "/etc/borglet";
/// The unit, which never ends tasks with the borglet.
const UNIT: &str = include_str!("../../install/borglet.service");

/// Writes it into `dir`, which must not be there yet.
///
/// # Errors
/// When the CA cannot issue, the address has no port, or the directory cannot be written.
pub(super) fn write(
    ca: &Path,
    dir: &Path,
    name: &MachineName,
    address: &str,
) -> Result<(), Failure> {
    let port: u16 = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| Failure::new(Code::Usage, format!("{address:?} is not HOST:PORT")))?;
    let ca = CellCa::open(ca)?;
    let failed = |error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::AlreadyExists => Code::AlreadyExists,
            _other => Code::Internal,
        };
        Failure::new(code, format!("write {}: {error}", dir.display()))
    };
    fs::create_dir(dir).map_err(failed)?;
    ca.issue(Role::Borglet(name.clone()), &dir.join("creds"))?;
    fs::write(dir.join("borglet.toml"), config(port, host(address))).map_err(failed)?;
    fs::write(dir.join("borglet.service"), UNIT).map_err(failed)
}

/// What to do with it, for people.
pub(super) fn what_to_do(dir: &Path, address: &str) -> String {
    let (dir, host) = (dir.display(), host(address));
    format!(
        "\non {host}, as root: copy {dir} to {PLACE}, the program borglet to /usr/local/bin, and \
         {PLACE}/borglet.service to /etc/systemd/system; then systemctl enable --now borglet"
    )
}

fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}

fn config(port: u16, host: &str) -> String {
    let host = toml_text(host);
    format!(
        "# What borglet --help tells of each option, without its dashes.\n\
         listen = \"[::]:{port}\"\n\
         task-host = {host}\n\
         dir = \"/var/lib/borglet\"\n\
         creds = \"{PLACE}/creds\"\n\
         metrics-listen = \"127.0.0.1:9101\"\n\
         # Facts for constraints.\n\
         [attribute]\n\
         # rack = \"r1\"\n"
    )
}

/// A text as TOML writes it.
fn toml_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_ends_the_borglet_alone() {
        assert!(UNIT.lines().any(|line| line == "KillMode=process"), "{UNIT}");
        assert!(UNIT.contains(&format!("--config {PLACE}/borglet.toml")), "{UNIT}");
    }

    #[test]
    fn a_host_is_quoted_and_an_address_of_six_bytes_loses_its_brackets() {
        assert_eq!(host("[fe80::1]:7000"), "fe80::1");
        assert!(config(7000, "a\"b").contains("task-host = \"a\\\"b\""));
    }
}
