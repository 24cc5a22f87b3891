//! `quota`: show what users may ask for and what they use, give quota and take it back, and say
//! where it is enforced.

use super::history::say_when;
use crate::client::{Client, Kind};
use crate::config::units;
use crate::exit::Failure;
use crate::output::views::{Amount, Quota, Read};
use crate::output::{Output, cores, note, size};
use borg_proto::names::shorten;
use borg_proto::time::Date;
use borg_proto::wire::pb;
use borg_proto::{Band, Millis, Resources, UserName};
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct QuotaArgs {
    /// Only this user's
    user: Option<UserName>,
    #[command(subcommand)]
    command: Option<QuotaCommand>,
}

impl QuotaArgs {
    /// Whether it only shows.
    pub(super) fn only_shows(&self) -> bool {
        self.command.is_none()
    }
}

#[derive(Debug, Subcommand)]
enum QuotaCommand {
    /// Give a user quota in a band: for its time it takes the place of what was there. Needs admin
    Set {
        /// Whose
        user: UserName,
        /// batch, mid, production or monitoring
        band: Band,
        /// How much, as in cpu=8,ram=32GiB,disk=100GiB,ports=10,gpu=2; what is left out is none
        amount: Asked,
        /// From when on: a date or time (UTC), or as in +30d; now when left out
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        from: Option<Moment>,
        /// Until when: a date or time (UTC), or as in +90d; for ever when left out
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        until: Option<Moment>,
        /// Sell more production and monitoring quota than the cell's machines have
        #[arg(long)]
        oversell: bool,
    },
    /// Take all of a user's quota in a band back; what runs goes on. Needs admin
    Remove {
        /// Whose
        user: UserName,
        /// batch, mid, production or monitoring
        band: Band,
    },
    /// From here on jobs in these bands need quota. Needs admin
    Enforce {
        /// batch, mid, production or monitoring
        #[arg(required = true)]
        bands: Vec<Band>,
    },
    /// From here on jobs in these bands need no quota. Needs admin
    Open {
        /// batch, mid, production or monitoring
        #[arg(required = true)]
        bands: Vec<Band>,
    },
}

/// `cpu=8,ram=32GiB`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Asked(pb::Resources);

impl Asked {
    /// The amount, checked.
    pub(super) fn amount(self) -> Result<Resources, String> {
        self.0.try_into().map_err(|error: borg_proto::wire::WireError| error.to_string())
    }
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut amount = pb::Resources::default();
        let mut named = BTreeSet::new();
        for part in text.split(',') {
            let Some((name, value)) = part.split_once('=') else {
                return Err(format!("{:?} is not NAME=AMOUNT", shorten(part)));
            };
            if name.is_empty() || !named.insert(name) {
                return Err(format!("{:?} is named twice or is empty", shorten(name)));
            }
            let wrong = |wanted: &str| format!("{name}: {:?} is not {wanted}", shorten(value));
            let decimal = || {
                units::thousandths(value)
                    .map_err(|_| wrong("a number with at most three digits after the point"))
            };
            let bytes =
                || units::bytes(value).ok_or_else(|| wrong("a size, as in 512MiB or 32GiB"));
            match name {
                "cpu" => amount.cpu_milli = decimal()?,
                "ram" => amount.ram_bytes = bytes()?,
                "disk" => amount.disk_bytes = bytes()?,
                "ports" => amount.ports = value.parse().map_err(|_| wrong("a count"))?,
                device => {
                    let count = decimal()?;
                    if count > 0 {
                        amount.devices.insert(device.to_owned(), count);
                    }
                }
            }
        }
        Ok(Self(amount))
    }
}

/// A moment to come, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment(u64);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{:?} is neither a date like 2027-01-31, nor a time like 2027-01-31T12:00:00Z, nor a length \
                 of time from now like +90d",
                shorten(text)
            )
        };
        let time = if let Some(after) = text.strip_prefix('+') {
            let after = humantime::parse_duration(after).map_err(|_| wrong())?;
            let now = UNIX_EPOCH + Duration::from_millis(crate::clock::now().0);
            now.checked_add(after).ok_or_else(wrong)?
        } else {
            let midnight = (text.len() == "2027-01-31".len()).then(|| format!("{text}T00:00:00Z"));
            let text = midnight.as_deref().unwrap_or(text);
            humantime::parse_rfc3339_weak(text).map_err(|_| wrong())?
        };
        let since = SystemTime::duration_since(&time, UNIX_EPOCH).map_err(|_| wrong())?;
        u64::try_from(since.as_millis()).map(Self).map_err(|_| wrong())
    }
}

pub(super) async fn run(client: &mut Client, args: QuotaArgs, out: Output) -> Result<(), Failure> {
    let (text, index) = match args.command {
        None => return list(client, args.user, out).await,
        Some(QuotaCommand::Set { user, band, amount, from, until, oversell }) => {
            let what = format!("set quota of {user} in {band}");
            let message = pb::SetQuotaRequest {
                user: user.to_string(),
                band: pb::Band::from(band).into(),
                amount: Some(amount.0),
                from_ms: from.map(|at| at.0),
                until_ms: until.map(|at| at.0),
                oversell,
                request_id: client.request_id(),
            };
            let answer = client.call(&what, Kind::Change, message, async |mut to, request| {
                to.set_quota(request).await
            });
            (format!("{user} has quota in {band}"), answer.await?.index)
        }
        Some(QuotaCommand::Remove { user, band }) => {
            let what = format!("remove quota of {user} in {band}");
            let message = pb::RemoveQuotaRequest {
                user: user.to_string(),
                band: pb::Band::from(band).into(),
                request_id: client.request_id(),
            };
            let answer = client.call(&what, Kind::Change, message, async |mut to, request| {
                to.remove_quota(request).await
            });
            (format!("{user} has no quota in {band} any more"), answer.await?.index)
        }
        Some(QuotaCommand::Enforce { bands }) => {
            let index = enforce(client, "enforce quota", &bands, true).await?;
            (format!("jobs need quota in: {}", names(&bands)), index)
        }
        Some(QuotaCommand::Open { bands }) => {
            let index = enforce(client, "open a band", &bands, false).await?;
            (format!("open: {}", names(&bands)), index)
        }
    };
    if out.is_json() {
        return out.json(&serde_json::json!({ "index": index }), false);
    }
    out.line(&text)
}

async fn enforce(
    client: &mut Client,
    what: &str,
    bands: &[Band],
    on: bool,
) -> Result<u64, Failure> {
    let message = pb::EnforceQuotaRequest {
        bands: bands.iter().map(|band| pb::Band::from(*band).into()).collect(),
        on,
        request_id: client.request_id(),
    };
    let answer = client
        .call(what, Kind::Change, message, async |mut to, request| to.enforce_quota(request).await);
    Ok(answer.await?.index)
}

fn names(bands: &[Band]) -> String {
    bands.iter().map(|band| band.name()).collect::<Vec<_>>().join(", ")
}

async fn list(client: &mut Client, user: Option<UserName>, out: Output) -> Result<(), Failure> {
    let message = pb::ListQuotasRequest { user: user.map_or_else(String::new, |u| u.to_string()) };
    let answer = client
        .call("quota", Kind::Read, message, async |mut master, request| {
            master.list_quotas(request).await
        })
        .await?;
    say_when(client, out, answer.read.as_ref());
    let enforced: Vec<pb::Band> = answer.enforced().collect();
    let quotas = answer.quotas.into_iter();
    let quotas: Vec<Quota> =
        quotas.map(|quota| Quota::new(quota, &enforced, answer.now_ms)).collect();
    if out.is_json() {
        return out.json(&Read::each(answer.read, quotas), false);
    }
    let is_enforced = |band: &&Band| enforced.contains(&pb::Band::from(**band));
    match Band::ALL.iter().filter(is_enforced).map(|band| band.name()).collect::<Vec<_>>() {
        none if none.is_empty() => {
            note("no band is enforced: jobs need no quota but in monitoring")
        }
        some => note(&format!("jobs need quota in: {}", some.join(", "))),
    }
    let rows = quotas.iter().flat_map(rows);
    out.table(["user", "band", "resource", "granted", "used", "left", "from", "until"], rows)
}

/// A row for each resource of what is in force or used, then of what is for later.
fn rows(quota: &Quota) -> Vec<[String; 8]> {
    let mut rows = Vec::new();
    let row = |resource: &str, [granted, used, left]: [String; 3], times: [String; 2]| {
        let [from, until] = times;
        let (user, band) = (quota.user.clone(), quota.band.to_owned());
        [user, band, resource.to_owned(), granted, used, left, from, until]
    };
    let dash = || "-".to_owned();
    let now = quota.grants.iter().find(|grant| grant.in_force);
    let granted = now.map(|grant| &grant.amount);
    for resource in resources(granted.into_iter().chain([&quota.used])) {
        let used = amount_of(&quota.used, &resource);
        let figures = match granted.map(|granted| amount_of(granted, &resource)) {
            None => [dash(), tell(&resource, used), dash()],
            Some(most) => {
                let left = if most >= used {
                    tell(&resource, most - used)
                } else {
                    format!("-{}", tell(&resource, used - most))
                };
                [tell(&resource, most), tell(&resource, used), left]
            }
        };
        rows.push(row(&resource, figures, now.map_or_else(|| [dash(), dash()], times)));
    }
    for later in quota.grants.iter().filter(|grant| !grant.in_force) {
        for resource in resources([&later.amount].into_iter()) {
            let granted = tell(&resource, amount_of(&later.amount, &resource));
            rows.push(row(&resource, [granted, dash(), dash()], times(later)));
        }
    }
    rows
}

fn times(grant: &crate::output::views::Grant) -> [String; 2] {
    let date = |ms: u64| Date(Millis(ms)).to_string();
    let until = grant.until_ms.map_or_else(|| "-".to_owned(), date);
    let oversold = if grant.oversold { " (oversold)" } else { "" };
    [date(grant.from_ms), format!("{until}{oversold}")]
}

fn resources<'a>(amounts: impl Iterator<Item = &'a Amount> + Clone) -> Vec<String> {
    let devices: BTreeSet<&String> = amounts.clone().flat_map(|of| of.devices.keys()).collect();
    let plain = ["cpu", "ram", "disk", "ports"].into_iter();
    let there = |name: &&str| amounts.clone().any(|of| amount_of(of, name) > 0);
    plain.filter(there).map(str::to_owned).chain(devices.into_iter().cloned()).collect()
}

fn amount_of(of: &Amount, resource: &str) -> u64 {
    match resource {
        "cpu" => of.cpu_milli,
        "ram" => of.ram_bytes,
        "disk" => of.disk_bytes,
        "ports" => of.ports.into(),
        device => of.devices.get(device).copied().unwrap_or(0),
    }
}

fn tell(resource: &str, amount: u64) -> String {
    match resource {
        "ram" | "disk" => size(amount),
        "ports" => amount.to_string(),
        _ => cores(amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_taken_in_the_units_in_which_they_are_told() {
        let asked: Asked = "cpu=2.5,ram=1.5GiB,disk=7,ports=3,gpu=0.5".parse().unwrap();
        let Asked(amount) = asked;
        assert_eq!((amount.cpu_milli, amount.ram_bytes), (2_500, 3 << 29));
        assert_eq!((amount.disk_bytes, amount.ports), (7, 3));
        assert_eq!(amount.devices["gpu"], 500);
        for (bad, why) in [
            ("cpu", "\"cpu\" is not NAME=AMOUNT"),
            ("cpu=1,cpu=2", "\"cpu\" is named twice or is empty"),
            ("cpu=-1", "cpu: \"-1\" is not a number with at most three digits after the point"),
            ("ram=1G", "ram: \"1G\" is not a size, as in 512MiB or 32GiB"),
            ("ram=0.0001KiB", "ram: \"0.0001KiB\" is not a size, as in 512MiB or 32GiB"),
            ("ports=x", "ports: \"x\" is not a count"),
        ] {
            assert_eq!(bad.parse::<Asked>().unwrap_err(), why);
        }
    }

    #[test]
    fn moments_are_dates_times_or_from_now() {
        let at = |text: &str| text.parse::<Moment>().map(|at| at.0);
        assert_eq!(at("1970-01-02"), Ok(86_400_000));
        assert_eq!(at("1970-01-01T00:01:00Z"), Ok(60_000));
        assert!(at("+90d").unwrap() > crate::clock::now().0);
        for bad in ["soon", "-5m", "2027-13-01", "+", "+soon", "1960-01-01"] {
            assert!(at(bad).unwrap_err().contains("is neither a date"), "{bad}");
        }
    }

    #[test]
    fn what_is_used_beyond_the_quota_is_shown() {
        let used = pb::Resources { cpu_milli: 3_000, ram_bytes: 1 << 30, ..Default::default() };
        let amount = pb::Resources { cpu_milli: 2_000, ram_bytes: 4 << 30, ..Default::default() };
        let period = |from_ms, until_ms| pb::QuotaPeriod {
            amount: Some(amount.clone()),
            from_ms,
            until_ms,
            oversold: from_ms > 0,
        };
        let quota = pb::Quota {
            user: "ann".into(),
            band: pb::Band::Batch.into(),
            used: Some(used),
            periods: vec![period(0, Some(60_000)), period(60_000, None)],
        };
        let shown = rows(&Quota::new(quota, &[], 59_999));
        let row = |i: usize| shown[i].join(" ");
        let min = "1970-01-01T00:01:00Z";
        assert_eq!(row(0), format!("ann batch cpu 2 3 -1 1970-01-01T00:00:00Z {min}"));
        assert_eq!(row(1), format!("ann batch ram 4G 1G 3G 1970-01-01T00:00:00Z {min}"));
        assert_eq!(row(2), format!("ann batch cpu 2 - - {min} - (oversold)"));
    }
}
