//! Machines: what they say of themselves and where they listen.

use super::error::{At, WireError, check_len, check_line, check_range, each, required};
use super::pb;
use crate::machine::{MachineAddress, MachineInfo};
use crate::names::shorten;

/// Most attributes of a machine: our choice, far over what constraints use.
pub const MAX_ATTRIBUTES: usize = 256;
/// Longest key or value of an attribute, boot id, or kind of isolation, in bytes.
pub const MAX_ATTRIBUTE_BYTES: usize = 512;
/// Longest host name in bytes (RFC 1035, section 2.3.4).
pub const MAX_HOST_BYTES: usize = 255;
/// Most kinds of isolation that a machine may lack.
const MAX_MISSING: usize = 64;

impl From<&MachineInfo> for pb::MachineInfo {
    fn from(info: &MachineInfo) -> Self {
        Self {
            capacity: Some((&info.capacity).into()),
            first_port: info.first_port.into(),
            attributes: info.attributes.clone(),
            boot_id: info.boot_id.clone(),
            missing_isolation: info.missing_isolation.clone(),
            task_host: info.task_host.clone(),
        }
    }
}

impl TryFrom<pb::MachineInfo> for MachineInfo {
    type Error = WireError;
    fn try_from(info: pb::MachineInfo) -> Result<Self, WireError> {
        let mut capacity = required("capacity", info.capacity)?;
        // Absent means none, so a machine that counts no devices says nothing of them.
        capacity.devices.retain(|_, amount| *amount > 0);
        if capacity.ports > 0 {
            // Both bounded by the range itself: no sum of them can leave u16.
            let first = u64::from(info.first_port);
            check_range("first_port", first, 1, u16::MAX.into())?;
            check_range("capacity.ports", capacity.ports.into(), 0, 65_536 - first)?;
        }
        check_len("attributes", info.attributes.len(), MAX_ATTRIBUTES)?;
        for (key, value) in &info.attributes {
            check_line("attributes", key, MAX_ATTRIBUTE_BYTES)?;
            check_line(&format!("attributes.{}", shorten(key)), value, MAX_ATTRIBUTE_BYTES)?;
        }
        check_line("boot_id", &info.boot_id, MAX_ATTRIBUTE_BYTES)?;
        check_line("task_host", &info.task_host, MAX_HOST_BYTES)?;
        Ok(Self {
            capacity: capacity.try_into().at("capacity")?,
            first_port: u16::try_from(info.first_port)
                .map_err(|_| WireError::new("first_port", info.first_port, "is not a port"))?,
            attributes: info.attributes,
            boot_id: info.boot_id,
            missing_isolation: each(
                "missing_isolation",
                info.missing_isolation,
                MAX_MISSING,
                |kind| check_line("", &kind, MAX_ATTRIBUTE_BYTES).map(|()| kind),
            )?,
            task_host: info.task_host,
        })
    }
}

impl From<&MachineAddress> for pb::AddMachine {
    fn from(machine: &MachineAddress) -> Self {
        Self { name: machine.name.to_string(), address: machine.address.clone() }
    }
}

impl TryFrom<pb::AddMachine> for MachineAddress {
    type Error = WireError;
    fn try_from(machine: pb::AddMachine) -> Result<Self, WireError> {
        check_address("address", &machine.address)?;
        Ok(Self { name: machine.name.parse().at("name")?, address: machine.address })
    }
}

/// Holds that `address` is `HOST:PORT`, as others can reach it: HOST is a name, an IPv4 address or an IPv6
/// address in brackets, PORT from 1 to 65535.
///
/// # Errors
/// Names `field`.
pub fn check_address(field: &str, address: &str) -> Result<(), WireError> {
    const WHY: &str = "is not HOST:PORT as others reach it, with a port from 1 to 65535";
    let refuse = || WireError::new(field, format!("{address:?}"), WHY);
    let (host, port) = address.rsplit_once(':').ok_or_else(refuse)?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let fits = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok_and(|v6| !v6.is_unspecified()),
        None => {
            !host.is_empty()
                && host != "0.0.0.0"
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        }
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    if fits
        && digits
        && host.len() <= MAX_HOST_BYTES
        && port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Ok(());
    }
    Err(refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:7000", "m-1.lab.example:1", "[::1]:65535"] {
            check_address("", good).unwrap();
        }
        for bad in [
            "",
            ":1",
            "m",
            "m:0",
            "m:65536",
            "m:x",
            "m:+9",
            "a b:1",
            "http://m:1",
            "[::g]:1",
            "::1:80",
            "0.0.0.0:1",
            "[::]:1",
        ] {
            assert!(check_address("", bad).is_err(), "{bad}");
        }
    }
}
