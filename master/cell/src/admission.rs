//! Who may wait, and who is next: the queue of what users ask of a master, fair between them.
//!
//! Answers whether one more call may wait, and in which order those that wait are taken. Leaves to
//! the shell what a call is, and to `replica` what becomes of it. What keeps the cell alive (Raft,
//! ticks, reports of machines, the scheduler's decisions) never comes here and so never waits for it.
//!
//! A user may have as much waiting as there is room left. That needs no number of users and no
//! rate to be set: one user alone gets half of all room, two greedy ones a third each, and what
//! is left is always room for one more (dynamic thresholds of shared-memory switches: Choudhury and
//! Hahne, 1998). Taking goes around the users, so a call waits for one call of each other user,
//! however many the others have waiting.
//!
//! Invariant: a user who has nothing waiting is refused only when every place is taken, and no
//! number of calls of other users takes every place unless each of them has but one.

use borg_proto::{Millis, UserName};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;

/// Shortest time after which it makes sense to ask again: one turn of a busy master. Ours.
const SOONEST: Millis = Millis(50);
/// Longest time that anybody is told to stay away: ours, as long as people wait for a prompt.
const LATEST: Millis = Millis(5_000);
/// Over how long the pace of taking is counted.
const PACE: Millis = Millis(1_000);

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Calls.
    pub calls: usize,
    /// Bytes of their commands.
    pub bytes: usize,
}

/// A call that was turned away; nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shed {
    /// Whose it was.
    pub user: UserName,
    /// How many calls the user has waiting.
    pub waiting: usize,
    /// How many calls all users have waiting.
    pub of: usize,
    /// When to ask again, from now.
    pub retry_after: Millis,
}

impl fmt::Display for Shed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, waiting, of, retry_after } = self;
        write!(
            f,
            "this master is overloaded: {waiting} calls of user {user} wait here, {of} in all; \
             nothing was done: ask again in {} ms",
            retry_after.0
        )
    }
}

impl std::error::Error for Shed {}

/// What waits of each user, without the calls themselves.
#[derive(Debug)]
pub struct Shares {
    room: Room,
    users: BTreeMap<UserName, Held>,
    all: Held,
    pace: Pace,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    calls: usize,
    bytes: usize,
}

impl Shares {
    /// Nothing waits.
    #[must_use]
    pub fn new(room: Room) -> Self {
        Self { room, users: BTreeMap::new(), all: Held::default(), pace: Pace::default() }
    }

    /// Gives a call its place, or none.
    ///
    /// # Errors
    /// When the user has as much waiting as there is room left.
    pub fn admit(&mut self, now: Millis, user: &UserName, bytes: usize) -> Result<(), Shed> {
        let held = self.users.get(user).copied().unwrap_or_default();
        let calls_left = self.room.calls.saturating_sub(self.all.calls);
        let bytes_left = self.room.bytes.saturating_sub(self.all.bytes);
        if held.calls >= calls_left || held.bytes >= bytes_left || bytes > bytes_left {
            return Err(Shed {
                user: user.clone(),
                waiting: held.calls,
                of: self.all.calls,
                retry_after: self.pace.time_for(now, held.calls.max(1)),
            });
        }
        self.users.entry(user.clone()).or_default().add(bytes);
        self.all.add(bytes);
        Ok(())
    }

    /// A call leaves its place.
    pub fn leave(&mut self, now: Millis, user: &UserName, bytes: usize) {
        let held = self.users.get_mut(user).expect("who leaves was admitted");
        held.remove(bytes);
        if held.calls == 0 {
            self.users.remove(user);
        }
        self.all.remove(bytes);
        self.pace.took_one(now);
    }

    /// How many calls have a place.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.all.calls
    }
}

impl Held {
    fn add(&mut self, bytes: usize) {
        self.calls += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.calls -= 1;
        self.bytes -= bytes;
    }
}

/// How many calls were taken in a time.
#[derive(Debug, Default)]
struct Pace {
    since: Millis,
    taken: u64,
    /// Taken in the last whole [`PACE`].
    before: u64,
}

impl Pace {
    fn turn_over(&mut self, now: Millis) {
        let passed = now.since(self.since);
        if passed < PACE {
            return;
        }
        self.before = if passed < PACE + PACE { self.taken } else { 0 };
        self.since = now;
        self.taken = 0;
    }

    fn took_one(&mut self, now: Millis) {
        self.turn_over(now);
        self.taken += 1;
    }

    /// How long that many calls will take.
    fn time_for(&mut self, now: Millis, calls: usize) -> Millis {
        self.turn_over(now);
        let pace = self.before.max(self.taken).max(1);
        let calls = u64::try_from(calls).unwrap_or(u64::MAX);
        Millis(calls.saturating_mul(PACE.0) / pace).clamp(SOONEST, LATEST)
    }
}

/// How many calls may be under way at once: as many as a master works off without neglecting its
/// timers. They share turns of the driver, and in a turn nothing else is heard.
///
/// Grows while turns are short and shrinks by half when one was long (additive increase,
/// multiplicative decrease), so it fits fast and slow computers alike.
///
/// Calls begin in groups: those that come while one group is on its way form the next, for at most
/// [`Self::GROUP`]. A group is one write of each replica's log and one message to each, so under load a
/// change costs a fraction of them (group commit: DeWitt et al., SIGMOD 1984); a call that comes
/// alone begins at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    most: usize,
    size: usize,
    /// When the newest group began.
    began: Millis,
}

impl Window {
    /// Longest time that deciding a turn should take: two heartbeats of a leader. Ours.
    const TURN: Millis = Millis(40);
    /// Never fewer: group commit would come to nothing.
    const LEAST: usize = 32;
    /// Growth with each short turn.
    const STEP: usize = 8;
    /// Longest time that a group of changes holds up the next calls: what a majority of ordinary disks takes to agree on
    /// one, on busy computers. Ours.
    pub const GROUP: Millis = Millis(10);

    /// A window that never has room for more than `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, size: most, began: Millis(0) }
    }

    /// How many calls may begin while so many changes, and so many calls in all, are under way.
    ///
    /// # Errors
    /// None; says after how long it makes sense to ask again.
    pub fn room(&self, now: Millis, changes: usize, calls: usize) -> Result<usize, Millis> {
        let rest = (self.began + Self::GROUP).since(now);
        if changes > 0 && rest > Millis(0) {
            return Err(rest);
        }
        match self.size.saturating_sub(calls) {
            0 => Err(Self::GROUP),
            room => Ok(room),
        }
    }

    /// A group of changes begins.
    pub fn begin(&mut self, now: Millis) {
        self.began = now;
    }

    /// A turn took that long to decide, with so many calls under way.
    pub fn turn(&mut self, took: Millis, under_way: usize) {
        if took > Self::TURN {
            // From what was there: a window that nobody fills says nothing.
            self.size = (self.size.min(under_way) / 2).max(Self::LEAST);
        } else {
            self.size = (self.size + Self::STEP).min(self.most);
        }
    }
}

/// The calls that wait, each user's in their order.
#[derive(Debug)]
pub struct Queue<T> {
    shares: Shares,
    calls: BTreeMap<UserName, VecDeque<(usize, T)>>,
    /// Who was served last.
    last: Option<UserName>,
}

impl<T> Queue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new(room: Room) -> Self {
        Self { shares: Shares::new(room), calls: BTreeMap::new(), last: None }
    }

    /// Lets a call wait.
    ///
    /// # Errors
    /// When it may not; see [`Shares::admit`].
    pub fn push(
        &mut self,
        now: Millis,
        user: UserName,
        bytes: usize,
        call: T,
    ) -> Result<(), (Shed, T)> {
        if let Err(shed) = self.shares.admit(now, &user, bytes) {
            return Err((shed, call));
        }
        self.calls.entry(user).or_default().push_back((bytes, call));
        Ok(())
    }

    /// The next call: one of each user in turn.
    pub fn pop(&mut self, now: Millis) -> Option<T> {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.calls.range::<UserName, _>((after, Bound::Unbounded)).next();
        let user = next.or_else(|| self.calls.iter().next()).map(|(user, _)| user.clone())?;
        let calls = self.calls.get_mut(&user).expect("just found");
        let (bytes, call) = calls.pop_front().expect("users without calls are removed");
        if calls.is_empty() {
            self.calls.remove(&user);
        }
        self.shares.leave(now, &user, bytes);
        self.last = Some(user);
        Some(call)
    }

    /// How many calls wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shares.waiting()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOM: Room = Room { calls: 8, bytes: 1 << 20 };

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    fn fill(queue: &mut Queue<u32>, name: &str, calls: u32) -> usize {
        let tries = 0..calls;
        tries.filter(|&call| queue.push(Millis(0), user(name), 10, call).is_ok()).count()
    }

    #[test]
    fn one_user_alone_gets_half_and_others_share_what_is_left() {
        let mut queue = Queue::new(ROOM);
        assert_eq!(fill(&mut queue, "greedy", 1_000_000), 4);
        assert_eq!(fill(&mut queue, "second", 1_000), 2);
        assert_eq!(fill(&mut queue, "third", 1), 1);
        assert_eq!(fill(&mut queue, "fourth", 1), 1);
        assert_eq!(fill(&mut queue, "fifth", 1), 0, "every place is taken");
    }

    #[test]
    fn users_are_served_in_turn_and_each_in_the_order_asked() {
        let mut queue = Queue::new(Room { calls: 100, ..ROOM });
        fill(&mut queue, "ann", 3);
        queue.push(Millis(0), user("bob"), 1, 70).unwrap();
        queue.push(Millis(0), user("cid"), 1, 80).unwrap();
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop(Millis(0))).collect();
        assert_eq!(order, [0, 70, 80, 1, 2]);
        assert!(queue.is_empty());
    }

    #[test]
    fn large_calls_fill_the_room_by_their_bytes() {
        let mut queue = Queue::new(ROOM);
        queue.push(Millis(0), user("ann"), 600 << 10, 0).unwrap();
        let (shed, call) = queue.push(Millis(0), user("ann"), 1, 1).unwrap_err();
        assert_eq!((shed.waiting, call), (1, 1));
        let (_, call) = queue.push(Millis(0), user("bob"), 500 << 10, 2).unwrap_err();
        assert_eq!(call, 2);
        queue.push(Millis(0), user("bob"), 400 << 10, 2).unwrap();
    }

    #[test]
    fn who_is_turned_away_is_told_how_long_its_own_calls_will_take() {
        let mut queue = Queue::new(Room { calls: 400, ..ROOM });
        let shed = |queue: &mut Queue<u32>, now| {
            while queue.push(Millis(now), user("ann"), 1, 0).is_ok() {}
            queue.push(Millis(now), user("ann"), 1, 0).unwrap_err().0
        };
        assert_eq!(shed(&mut queue, 0).retry_after, LATEST, "nothing was ever taken");
        for now in 1_000..1_100 {
            queue.pop(Millis(now)).unwrap();
        }
        let shed = shed(&mut queue, 1_500);
        assert_eq!(
            shed.to_string(),
            "this master is overloaded: 200 calls of user ann wait here, 200 in all; nothing was \
             done: ask again in 2000 ms"
        );
        let late = queue.push(Millis(60_000), user("ann"), 1, 0).unwrap_err().0;
        assert_eq!(late.retry_after, LATEST, "the pace of a minute ago says nothing");
    }

    #[test]
    fn calls_that_come_while_a_group_is_on_its_way_form_the_next() {
        let mut window = Window::new(1_000);
        assert_eq!(window.room(Millis(50), 0, 0), Ok(1_000), "whoever comes alone begins at once");
        window.begin(Millis(50));
        assert_eq!(window.room(Millis(53), 1, 1), Err(Millis(7)));
        assert_eq!(window.room(Millis(53), 0, 1), Ok(999), "the group has its answers");
        assert_eq!(window.room(Millis(60), 1, 1), Ok(999), "it is late, and nobody waits for it");
    }

    #[test]
    fn long_turns_make_the_window_smaller_and_short_ones_larger_again() {
        let mut window = Window::new(1_000);
        let room = |window: Window, calls| window.room(Millis(100), 0, calls).unwrap_or(0);
        assert_eq!([0, 999, 2_000].map(|calls| room(window, calls)), [1_000, 1, 0]);
        window.turn(Millis(41), 600);
        assert_eq!(room(window, 0), 300);
        for _ in 0..20 {
            window.turn(Millis(5_000), 300);
        }
        assert_eq!(room(window, 0), Window::LEAST, "calls are still taken, many to a turn");
        for _ in 0..1_000 {
            window.turn(Millis(3), 10);
        }
        assert_eq!(room(window, 0), 1_000);
    }

    proptest! {
        /// Whatever is pushed and popped, the counts are those of the calls that wait, nothing is
        /// lost or served twice, and a user without calls gets in while a place is free.
        #[test]
        fn nothing_is_lost_and_newcomers_get_in(
            steps in proptest::collection::vec((0_u8..5, 0_usize..200_000), 1..400),
        ) {
            let mut queue = Queue::new(ROOM);
            let mut model: BTreeMap<UserName, VecDeque<usize>> = BTreeMap::new();
            for (number, (who, bytes)) in steps.into_iter().enumerate() {
                let now = Millis(u64::try_from(number).unwrap());
                let waiting: usize = model.values().map(VecDeque::len).sum();
                prop_assert_eq!(queue.len(), waiting);
                if who == 4 {
                    let popped = queue.pop(now);
                    prop_assert_eq!(popped.is_some(), waiting > 0);
                    if let Some((user, call)) = popped {
                        let calls: &mut VecDeque<usize> = model.get_mut(&user).unwrap();
                        prop_assert_eq!(calls.pop_front(), Some(call));
                    }
                    continue;
                }
                let user = user(&format!("u{who}"));
                let newcomer = model.get(&user).is_none_or(VecDeque::is_empty);
                let bytes = if newcomer { 1 } else { bytes };
                let free = waiting < ROOM.calls && queue.shares.all.bytes < ROOM.bytes;
                match queue.push(now, user.clone(), bytes, (user.clone(), number)) {
                    Ok(()) => model.entry(user).or_default().push_back(number),
                    Err(_) => prop_assert!(!(newcomer && free)),
                }
            }
        }
    }
}
