//! No machine obeys an order older than one that it has obeyed, restarts included (I8).

use borg_proto::poll::Fence;

/// The newest order that each machine has obeyed.
#[derive(Debug)]
pub struct Fencing {
    newest: Vec<(u32, Fence)>,
}

impl Fencing {
    pub(crate) fn new(machines: usize) -> Self {
        Self { newest: vec![(0, Fence::default()); machines] }
    }

    /// A borglet, in its `life`th process, obeys this order.
    ///
    /// # Errors
    /// When it obeyed a newer one before. Over restarts of the borglet the generation does not
    /// count: it need not be remembered.
    pub fn obeys(&mut self, machine: usize, life: u32, fence: Fence) -> Result<(), String> {
        let (last_life, newest) = self.newest[machine];
        let session = |fence: Fence| (fence.epoch, fence.term, fence.session);
        let older =
            if life == last_life { fence < newest } else { session(fence) < session(newest) };
        self.newest[machine] = (life, fence);
        if older {
            return Err(format!("m{machine} obeys {fence:?} after {newest:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_order_is_noticed_also_after_a_restart() {
        let fence = |session, generation| Fence { epoch: 1, term: 2, session, generation };
        let mut fencing = Fencing::new(1);
        fencing.obeys(0, 1, fence(3, 7)).unwrap();
        fencing.obeys(0, 2, fence(3, 0)).unwrap();
        fencing.obeys(0, 2, fence(3, 8)).unwrap();
        assert!(fencing.obeys(0, 2, fence(3, 7)).is_err());
        assert!(fencing.obeys(0, 3, fence(2, 9)).is_err());
    }
}
