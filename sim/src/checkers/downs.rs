//! So many machines are given up in any minute at most, and none while nothing may move (I19).

use borg_proto::Millis;
use std::collections::VecDeque;

/// What was given up lately, by the events alone.
#[derive(Debug, Default)]
pub struct Downs {
    minute: VecDeque<Millis>,
    safe_mode: bool,
}

impl Downs {
    /// The cell says that nothing moves from here on, or no longer.
    pub fn safe_mode(&mut self, on: bool) {
        self.safe_mode = on;
    }

    /// A machine was given up, not by an operator.
    ///
    /// # Errors
    /// When that is one too many.
    pub fn down(&mut self, at: Millis, most: u32) -> Result<(), String> {
        if self.safe_mode {
            return Err("a machine is given up in safe mode".into());
        }
        while self.minute.front().is_some_and(|old| at.since(*old) >= Millis::from_secs(60)) {
            self.minute.pop_front();
        }
        self.minute.push_back(at);
        if self.minute.len() <= most as usize {
            return Ok(());
        }
        Err(format!("{} machines are given up in a minute, most is {most}", self.minute.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_in_a_minute_and_any_in_safe_mode_are_noticed() {
        let mut downs = Downs::default();
        for at in [0, 1, 60_000, 60_001] {
            downs.down(Millis(at), 2).unwrap();
        }
        assert!(downs.down(Millis(60_002), 2).is_err());
        downs.safe_mode(true);
        assert!(downs.down(Millis(500_000), 2).is_err());
    }
}
