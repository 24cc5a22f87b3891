//! `reclamation`: show how much is lent of the room that tasks hold and do not use, and change it.

use super::history::say_when;
use crate::client::{Client, Kind};
use crate::exit::Failure;
use crate::output::Output;
use crate::output::views::{Read, Reclamation};
use borg_proto::names::shorten;
use borg_proto::reclamation::{Number, NumberSet};
use borg_proto::wire::pb;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::str::FromStr;

#[derive(Debug, Args)]
pub(super) struct ReclamationArgs {
    #[command(subcommand)]
    command: Option<ReclamationCommand>,
}

impl ReclamationArgs {
    /// Whether it only shows.
    pub(super) fn only_shows(&self) -> bool {
        self.command.is_none()
    }
}

#[derive(Debug, Subcommand)]
enum ReclamationCommand {
    /// Choose a set of numbers, single numbers, or both; what runs does not move. Needs admin
    Set {
        /// off, baseline, medium, aggressive or daily, then numbers in place of the set's: medium hold-s=600
        #[arg(required = true, value_name = "SET|NUMBER=VALUE", allow_negative_numbers = true)]
        choices: Vec<Choice>,
    },
}

/// A set or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Named(NumberSet),
    Number(Number, u32),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, value)) = text.split_once('=') else {
            return text.parse().map(Self::Named);
        };
        let number: Number = name.parse()?;
        let value: u64 = value
            .parse()
            .map_err(|_| format!("{name}: {:?} is not a whole number", shorten(value)))?;
        let value = number.check(value).map_err(|why| format!("{name}: {value} {why}"))?;
        Ok(Self::Number(number, value))
    }
}

/// What was chosen, each at most once.
fn request_of(choices: &[Choice], request_id: String) -> Result<pb::SetReclamationRequest, String> {
    let mut named = None;
    let mut numbers = BTreeMap::new();
    for choice in choices {
        let twice = match choice {
            Choice::Named(set) => named.replace(*set).map(|_| "a set".to_owned()),
            Choice::Number(number, value) => {
                numbers.insert(number.to_string(), *value).map(|_| number.to_string())
            }
        };
        if let Some(what) = twice {
            return Err(format!("{what} is given twice"));
        }
    }
    Ok(pb::SetReclamationRequest {
        named: named.map(|named| named.to_string()).unwrap_or_default(),
        numbers,
        request_id,
    })
}

pub(super) async fn run(
    client: &mut Client,
    args: ReclamationArgs,
    out: Output,
) -> Result<(), Failure> {
    match args.command {
        None => show(client, out).await,
        Some(ReclamationCommand::Set { choices }) => set(client, &choices, out).await,
    }
}

async fn set(client: &mut Client, choices: &[Choice], out: Output) -> Result<(), Failure> {
    let message = request_of(choices, client.request_id())
        .map_err(|why| Failure::new(crate::exit::Code::Usage, why))?;
    let answer = client
        .call("set how much is lent", Kind::Change, message, async |mut to, request| {
            to.set_reclamation(request).await
        })
        .await?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "index": answer.index }), false);
    }
    out.line("set: it holds for what is placed from now on")
}

async fn show(client: &mut Client, out: Output) -> Result<(), Failure> {
    let message = pb::GetReclamationRequest {};
    let answer = client
        .call("reclamation", Kind::Read, message, async |mut to, request| {
            to.get_reclamation(request).await
        })
        .await?;
    say_when(client, out, answer.read.as_ref());
    let read = answer.read;
    let reclamation = Reclamation::from(answer);
    if out.is_json() {
        return out.json(&Read::of(read, reclamation), false);
    }
    let set = if reclamation.is_set { "" } else { " (nobody set one)" };
    out.line(&format!("reclamation: {}{set}", reclamation.named))?;
    let rows = reclamation.numbers.into_iter().map(|number| {
        let own = number.value == number.of_set;
        let own = if own { "-".to_owned() } else { number.of_set.to_string() };
        let bounds = format!("{} to {}", number.least, number.most);
        [number.name, number.value.to_string(), own, bounds, number.meaning]
    });
    out.table(["number", "value", "in place of", "allowed", "means"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_set_or_a_number_within_its_bounds() {
        let choice = |text: &str| text.parse::<Choice>();
        assert_eq!(choice("medium"), Ok(Choice::Named(NumberSet::Medium)));
        assert_eq!(choice("hold-s=0"), Ok(Choice::Number(Number::Hold, 0)));
        assert!(choice("on").unwrap_err().contains("off, baseline, medium, aggressive, daily"));
        assert!(choice("hold=1").unwrap_err().contains("hold-s, decay-permille"));
        assert_eq!(
            choice("margin-percent=-1").unwrap_err(),
            "margin-percent: \"-1\" is not a whole number"
        );
        assert_eq!(
            choice("most-percent=99").unwrap_err(),
            "most-percent: 99 is outside 100 to 400"
        );
        let twice = [Choice::Number(Number::Hold, 1), Choice::Number(Number::Hold, 2)];
        assert_eq!(request_of(&twice, String::new()).unwrap_err(), "hold-s is given twice");
    }
}
