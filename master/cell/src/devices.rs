//! Which device of a machine a task gets: whole ones, or a part of a single one.
//!
//! State machine and scheduler pick by the same function, so what a scheduler expects is what is
//! placed. Machines that came before devices were told apart have none, so older logs lead to the
//! states that they always led to.
//!
//! Invariant: no device is given out for more than [`WHOLE_DEVICE`] thousandths.

use borg_proto::Resources;
use borg_proto::resources::WHOLE_DEVICE;
use borg_proto::task::DeviceShare;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A whole device, in thousandths.
const WHOLE: u16 = 1000;

/// What is taken of each device of a machine, in thousandths, by kind and number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices(BTreeMap<Arc<str>, BTreeMap<u16, u16>>);

impl Devices {
    /// Takes shares, or gives them back.
    pub fn take(&mut self, shares: &[DeviceShare], takes: bool) {
        for share in shares {
            let taken = self.0.entry(share.name.clone()).or_default();
            let of = taken.entry(share.number).or_insert(0);
            *of =
                if takes { of.saturating_add(share.milli) } else { of.saturating_sub(share.milli) };
            if *of == 0 {
                taken.remove(&share.number);
            }
            if taken.is_empty() {
                self.0.remove(&share.name);
            }
        }
    }

    /// What is free of each device of a kind, by number, of a machine that has `capacity`
    /// thousandths of them.
    pub fn free<'a>(&'a self, name: &str, capacity: u64) -> impl Iterator<Item = (u16, u16)> + 'a {
        let taken = self.0.get(name);
        let all = u16::try_from(capacity / WHOLE_DEVICE).unwrap_or(u16::MAX);
        (0..all).map(move |number| {
            let of = taken.and_then(|taken| taken.get(&number)).copied().unwrap_or(0);
            (number, WHOLE.saturating_sub(of))
        })
    }

    /// The devices that a task gets which asks for `asked`, of a machine that has `capacity`: for
    /// whole ones idle devices from the lowest number on, for a part the device that has the least
    /// left of those that have enough (best fit, which keeps others whole).
    #[must_use]
    pub fn pick(&self, capacity: &Resources, asked: &Resources) -> Option<Vec<DeviceShare>> {
        let mut picked = Vec::new();
        for (name, amount) in &asked.devices {
            let all = capacity.devices.get(name).copied().unwrap_or(0);
            let mut share = |number, milli| {
                picked.push(DeviceShare { name: name.clone(), number, milli });
            };
            match u16::try_from(*amount).ok().filter(|part| *part < WHOLE) {
                Some(part) => {
                    let enough = self.free(name, all).filter(|(_, free)| *free >= part);
                    let (number, _) = enough.min_by_key(|(number, free)| (*free, *number))?;
                    share(number, part);
                }
                None => {
                    let idle = self.free(name, all).filter(|(_, free)| *free == WHOLE);
                    let wanted = usize::try_from(amount.div_ceil(WHOLE_DEVICE)).ok()?;
                    let idle: Vec<u16> = idle.map(|(number, _)| number).take(wanted).collect();
                    if idle.len() < wanted {
                        return None;
                    }
                    idle.into_iter().for_each(|number| share(number, WHOLE));
                }
            }
        }
        Some(picked)
    }

    /// Whether every device is one that a machine of `capacity` has, and none is given out twice.
    #[must_use]
    pub fn is_within(&self, capacity: &Resources) -> bool {
        self.0.keys().all(|name| self.kind_is_within(name, capacity))
    }

    /// The same of one kind.
    #[must_use]
    pub fn kind_is_within(&self, name: &str, capacity: &Resources) -> bool {
        let all = capacity.devices.get(name).copied().unwrap_or(0) / WHOLE_DEVICE;
        let mut taken = self.0.get(name).into_iter().flatten();
        taken.all(|(number, of)| u64::from(*number) < all && *of <= WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(devices: &[(&str, u64)]) -> Resources {
        let devices = devices.iter().map(|(name, amount)| ((*name).into(), *amount)).collect();
        Resources { devices, ..Resources::default() }
    }

    fn numbers(devices: &Devices, capacity: &Resources, asked: u64) -> Option<Vec<(u16, u16)>> {
        let picked = devices.pick(capacity, &of(&[("gpu", asked)]))?;
        Some(picked.iter().map(|share| (share.number, share.milli)).collect())
    }

    #[test]
    fn parts_share_the_fullest_device_that_has_room_and_whole_ones_are_idle() {
        let machine = of(&[("gpu", 3_000)]);
        let mut taken = Devices::default();
        for (asked, gets) in [
            (600, Some(vec![(0, 600)])),
            (500, Some(vec![(1, 500)])),
            (400, Some(vec![(0, 400)])),
            (2_000, None),
            (1_000, Some(vec![(2, 1_000)])),
            (501, None),
            (500, Some(vec![(1, 500)])),
            (1, None),
        ] {
            assert_eq!(numbers(&taken, &machine, asked), gets, "{asked}");
            if gets.is_some() {
                taken.take(&taken.pick(&machine, &of(&[("gpu", asked)])).unwrap(), true);
            }
            assert!(taken.is_within(&machine));
        }
        let share = DeviceShare { name: "gpu".into(), number: 2, milli: 1_000 };
        taken.take(std::slice::from_ref(&share), false);
        assert_eq!(numbers(&taken, &machine, 1_000), Some(vec![(2, 1_000)]));
        assert!(!taken.is_within(&of(&[("gpu", 1_000)])), "a machine that lost devices");
    }

    #[test]
    fn a_machine_without_the_kind_has_none_to_give() {
        assert_eq!(numbers(&Devices::default(), &of(&[("tpu", 4_000)]), 1), None);
        assert_eq!(Devices::default().pick(&of(&[]), &of(&[])), Some(Vec::new()));
    }
}
