//! `policy`: show how the scheduler chooses among machines that will do, and change it.

use super::history::say_when;
use crate::client::{Client, Kind};
use crate::exit::Failure;
use crate::output::Output;
use crate::output::views::{Policy, Read};
use borg_proto::names::shorten;
use borg_proto::policy::{Policy as Named, Term};
use borg_proto::wire::pb;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::str::FromStr;

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: Option<PolicyCommand>,
}

impl PolicyArgs {
    /// Whether it only shows.
    pub(super) fn only_shows(&self) -> bool {
        self.command.is_none()
    }
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Choose a policy, single weights, or both; what runs does not move. Needs admin
    Set {
        /// hybrid, best-fit or worst-fit, then weights in place of the policy's: best-fit fit=120
        #[arg(required = true, value_name = "POLICY|WEIGHT=NUMBER", allow_negative_numbers = true)]
        choices: Vec<Choice>,
    },
}

/// A policy or a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Named(Named),
    Weight(Term, i16),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, weight)) = text.split_once('=') else {
            return text.parse().map(Self::Named);
        };
        let term: Term = name.parse()?;
        let number: i64 = weight
            .parse()
            .map_err(|_| format!("{name}: {:?} is not a whole number", shorten(weight)))?;
        let weight = term.check(number).map_err(|why| format!("{name}: {number} {why}"))?;
        Ok(Self::Weight(term, weight))
    }
}

/// A policy and weights.
type Chosen = (Option<Named>, BTreeMap<Term, i16>);

/// What was chosen, each at most once.
pub(super) fn chosen(choices: &[Choice]) -> Result<Chosen, String> {
    let mut policy = None;
    let mut weights = BTreeMap::new();
    for choice in choices {
        let twice = match choice {
            Choice::Named(named) => policy.replace(*named).map(|_| "a policy".to_owned()),
            Choice::Weight(term, weight) => {
                weights.insert(*term, *weight).map(|_| term.to_string())
            }
        };
        if let Some(what) = twice {
            return Err(format!("{what} is given twice"));
        }
    }
    Ok((policy, weights))
}

fn request_of(choices: &[Choice], request_id: String) -> Result<pb::SetPolicyRequest, String> {
    let (policy, weights) = chosen(choices)?;
    Ok(pb::SetPolicyRequest {
        policy: policy.map(|named| named.to_string()).unwrap_or_default(),
        weights: weights
            .into_iter()
            .map(|(term, weight)| (term.to_string(), weight.into()))
            .collect(),
        request_id,
    })
}

pub(super) async fn run(client: &mut Client, args: PolicyArgs, out: Output) -> Result<(), Failure> {
    match args.command {
        None => show(client, out).await,
        Some(PolicyCommand::Set { choices }) => set(client, &choices, out).await,
    }
}

async fn set(client: &mut Client, choices: &[Choice], out: Output) -> Result<(), Failure> {
    let message = request_of(choices, client.request_id())
        .map_err(|why| Failure::new(crate::exit::Code::Usage, why))?;
    let answer = client
        .call("set the scheduling policy", Kind::Change, message, async |mut to, request| {
            to.set_policy(request).await
        })
        .await?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "index": answer.index }), false);
    }
    out.line("set: it holds for what is placed from now on")
}

async fn show(client: &mut Client, out: Output) -> Result<(), Failure> {
    let message = pb::GetPolicyRequest {};
    let answer = client
        .call("policy", Kind::Read, message, async |mut to, request| to.get_policy(request).await)
        .await?;
    say_when(client, out, answer.read.as_ref());
    let read = answer.read;
    let policy = Policy::from(answer);
    if out.is_json() {
        return out.json(&Read::of(read, policy), false);
    }
    let set = if policy.is_set { "" } else { " (nobody set one)" };
    out.line(&format!("policy: {}{set}", policy.policy))?;
    let rows = policy.weights.into_iter().map(|weight| {
        let own = weight.weight == weight.of_policy;
        let own = if own { "-".to_owned() } else { weight.of_policy.to_string() };
        let bounds = format!("{} to {}", weight.least, weight.most);
        [weight.name, weight.weight.to_string(), own, bounds, weight.meaning]
    });
    out.table(["weight", "hundredths", "in place of", "allowed", "counts"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_policy_or_a_weight_within_its_bounds() {
        let choice = |text: &str| text.parse::<Choice>();
        assert_eq!(choice("best-fit"), Ok(Choice::Named(Named::BestFit)));
        assert_eq!(choice("rack-crowd=-20"), Ok(Choice::Weight(Term::RackCrowd, -20)));
        assert!(choice("bestfit").unwrap_err().contains("hybrid, best-fit, worst-fit"));
        assert!(choice("fits=1").unwrap_err().contains("fit, strand"));
        assert_eq!(choice("fit=x").unwrap_err(), "fit: \"x\" is not a whole number");
        assert_eq!(choice("strand=-1").unwrap_err(), "strand: -1 is outside 0 to 1000");
        let twice = [Choice::Weight(Term::Fit, 1), Choice::Weight(Term::Fit, 2)];
        assert_eq!(request_of(&twice, String::new()).unwrap_err(), "fit is given twice");
    }
}
