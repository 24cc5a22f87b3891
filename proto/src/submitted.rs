//! What is refused of a new job although its bounds are kept: what no machine could ever do.
//!
//! Not a part of [`JobSpec::check`], which logs and checkpoints are read with: older ones have jobs
//! that were accepted without.

use crate::names::shorten;
use crate::resources::WHOLE_DEVICE;
use crate::spec::{Constraint, JobSpec, SpecError, refuse};
use std::collections::{BTreeMap, BTreeSet};

/// Constraints on one attribute beyond so many are not looked at together. 64: our choice, so that
/// a hostile job costs no more than others.
const MAX_CONSTRAINTS: usize = 64;
/// Values in them beyond so many are not either. 256: our choice.
const MAX_VALUES: usize = 256;

/// Most attributes that a job is spread over. 8: our choice, twice the levels at which machines fail
/// together; each is counted for each of its tasks.
const MAX_SPREADS: usize = 8;
/// Most kinds of devices that a task asks for. 8: our choice.
const MAX_DEVICES: usize = 8;

/// Checks a job that somebody submits.
///
/// # Errors
/// The first field that asks for what cannot be, with what to do.
pub fn check(spec: &JobSpec) -> Result<(), SpecError> {
    check_devices(spec)?;
    check_spread(spec)?;
    check_constraints(spec)
}

/// Each amount of a device is a part of one device or a number of whole ones.
fn check_devices(spec: &JobSpec) -> Result<(), SpecError> {
    let many = spec.task.limit.devices.len();
    if many > MAX_DEVICES {
        let why = format!("are more than {MAX_DEVICES}");
        return refuse("task.limit.devices", format!("{many} kinds"), why);
    }
    for (name, amount) in &spec.task.limit.devices {
        if *amount > WHOLE_DEVICE && !amount.is_multiple_of(WHOLE_DEVICE) {
            return refuse(
                &format!("task.limit.devices.{}", shorten(name)),
                amount,
                "is neither a part of one device (1 to 999) nor whole devices (1000 each)",
            );
        }
    }
    Ok(())
}

/// Each attribute has one bound.
fn check_spread(spec: &JobSpec) -> Result<(), SpecError> {
    let many = spec.task.spread.len();
    if many > MAX_SPREADS {
        let why = format!("are more than {MAX_SPREADS}: name the places that fail together");
        return refuse("task.spread", format!("{many} attributes"), why);
    }
    let mut seen = BTreeMap::new();
    for (i, spread) in spec.task.spread.iter().enumerate() {
        if let Some(before) = seen.insert(&spread.attribute, spread.max) {
            let why = format!(
                "is there twice, with at most {before} and at most {}: keep one of them",
                spread.max
            );
            return refuse(&format!("task.spread[{i}].attribute"), &spread.attribute, why);
        }
    }
    Ok(())
}

/// Hard constraints on one attribute leave some value.
fn check_constraints(spec: &JobSpec) -> Result<(), SpecError> {
    let mut by_attribute: BTreeMap<&str, Vec<(usize, &Constraint)>> = BTreeMap::new();
    for (i, constraint) in spec.task.constraints.iter().enumerate().filter(|(_, c)| !c.soft) {
        by_attribute.entry(&constraint.attribute).or_default().push((i, constraint));
    }
    for (attribute, all) in by_attribute {
        let values: usize = all.iter().map(|(_, c)| c.values.len()).sum();
        if all.len() > MAX_CONSTRAINTS || values > MAX_VALUES || can_hold(attribute, &all) {
            continue;
        }
        let field = format!("task.constraints[{}]", all[all.len() - 1].0);
        let texts: Vec<String> = all.iter().map(|(_, c)| shorten(&c.to_string())).collect();
        let why = format!(
            "can never hold together with the others on {}, whatever a machine has: {}",
            shorten(attribute),
            texts[..texts.len() - 1].join("; ")
        );
        let why = if texts.len() == 1 { "can never hold".to_owned() } else { why };
        return refuse(&field, &texts[texts.len() - 1], why);
    }
    Ok(())
}

/// Whether one attribute can have a value, or none, with which all constraints hold. Between the
/// values that they name and the numbers beside those nothing changes, so these are all to try.
fn can_hold(attribute: &str, all: &[(usize, &Constraint)]) -> bool {
    let named = all.iter().flat_map(|(_, constraint)| &constraint.values);
    let mut tries: BTreeSet<String> = BTreeSet::from(["another text".to_owned(), "0".to_owned()]);
    for value in named {
        tries.insert(value.clone());
        if let Ok(number) = value.parse::<i64>() {
            let around = [number.saturating_sub(1), number.saturating_add(1)];
            tries.extend(around.map(|number| number.to_string()));
        }
    }
    let holds =
        |attributes: &BTreeMap<String, String>| all.iter().all(|(_, c)| c.holds(attributes));
    holds(&BTreeMap::new())
        || tries.into_iter().any(|value| holds(&BTreeMap::from([(attribute.to_owned(), value)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ConstraintOp, Spread};
    use std::sync::Arc;

    fn job(change: impl FnOnce(&mut crate::TaskSpec)) -> JobSpec {
        let text = r#"{"name":"web","kind":"service","task":{"command":["/bin/true"],
            "limit":{"cpu_milli":100,"ram_bytes":10485760}}}"#;
        let mut spec: JobSpec = serde_json::from_str(text).unwrap();
        change(Arc::make_mut(&mut spec.task));
        spec
    }

    fn constrained(all: &[(ConstraintOp, &[&str])]) -> Result<(), String> {
        let constraints = all.iter().map(|(op, values)| Constraint {
            attribute: "rack".into(),
            op: *op,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
            soft: false,
        });
        check(&job(|task| task.constraints = constraints.collect())).map_err(|e| e.to_string())
    }

    #[test]
    fn a_device_is_asked_for_in_part_or_whole() {
        let with = |amount| {
            check(&job(|task| task.limit.devices = BTreeMap::from([("gpu".into(), amount)])))
        };
        assert!([1, 999, 1_000, 4_000].map(with).iter().all(Result::is_ok));
        assert_eq!(
            with(1_500).unwrap_err().to_string(),
            "task.limit.devices.gpu: 1500 is neither a part of one device (1 to 999) nor whole \
             devices (1000 each)"
        );
    }

    #[test]
    fn an_attribute_is_spread_over_once_and_not_too_many_are() {
        let spread = |attribute: &str, max| Spread { attribute: attribute.into(), max };
        let with = |all: Vec<Spread>| check(&job(|task| task.spread = all));
        assert_eq!(
            with((0..9).map(|n| spread(&format!("a{n}"), 1)).collect()).unwrap_err().to_string(),
            "task.spread: 9 attributes are more than 8: name the places that fail together"
        );
        with(vec![spread("rack", 1), spread("machine", 1)]).unwrap();
        assert_eq!(
            with(vec![spread("rack", 1), spread("rack", 3)]).unwrap_err().to_string(),
            "task.spread[1].attribute: rack is there twice, with at most 1 and at most 3: keep one \
             of them"
        );
    }

    #[test]
    fn constraints_that_no_machine_can_ever_meet_are_named() {
        use ConstraintOp as Op;
        assert_eq!(
            constrained(&[(Op::Equal, &["r1"]), (Op::Equal, &["r2"])]).unwrap_err(),
            "task.constraints[1]: rack = r2 can never hold together with the others on rack, \
             whatever a machine has: rack = r1"
        );
        for never in [
            &[(Op::Present, &[][..]), (Op::Absent, &[])][..],
            &[(Op::Less, &["3"]), (Op::Greater, &["2"])],
            &[(Op::In, &["a", "b"]), (Op::NotEqual, &["a"]), (Op::NotEqual, &["b"])],
            &[(Op::Absent, &[]), (Op::Equal, &["a"])],
        ] {
            assert!(constrained(never).is_err(), "{never:?}");
        }
        for possible in [
            &[(Op::Less, &["4"][..]), (Op::Greater, &["2"])][..],
            &[
                (Op::Greater, &["0"]),
                (Op::Less, &["9"]),
                (Op::NotEqual, &["1"]),
                (Op::NotEqual, &["8"]),
            ],
            &[(Op::Absent, &[]), (Op::Less, &["1"])],
            &[(Op::Present, &[]), (Op::NotEqual, &[""])],
            &[(Op::Equal, &[""]), (Op::Absent, &[])],
            &[(Op::LessEqual, &["-9223372036854775808"])],
        ] {
            assert_eq!(constrained(possible), Ok(()), "{possible:?}");
        }
    }
}
