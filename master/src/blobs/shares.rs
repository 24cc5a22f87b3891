//! What each user may have of the room for blobs that no package names yet.
//!
//! A user may have half of what the others leave: however much one asks for, there is some for the next. What a
//! package names is the cell's and not counted here.

use borg_proto::names::UserName;
use borg_proto::package::Digest;
use std::collections::BTreeMap;

/// Blobs of one user that no package names. 512: our choice, four packages of the most layers.
const UNNAMED: usize = 512;

/// There is no share left for a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoShare {
    /// Of the names.
    #[error(
        "user {user} has {UNNAMED} blobs here that no package names: put the packages that they are for; \
         what is not gone on with is removed within a day"
    )]
    Blobs { user: UserName },
    /// Of the bytes.
    #[error(
        "bytes: {bytes}, but user {user} may have {most} bytes here that no package names, and has {own}: put \
         the packages that they are for, remove others, or start the masters with a larger --blobs-mib"
    )]
    Bytes { user: UserName, bytes: u64, own: u64, most: u64 },
}

/// Who has what.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Blobs that came or are to come, with their sizes.
    unnamed: BTreeMap<UserName, BTreeMap<Digest, u64>>,
}

impl Shares {
    /// A blob is to come; of all blobs together there are `used` of `room` bytes.
    ///
    /// # Errors
    /// When the user has too much that no package names.
    pub(super) fn reserve(
        &mut self,
        user: &UserName,
        (digest, bytes): (Digest, u64),
        (used, room): (u64, u64),
    ) -> Result<(), NoShare> {
        let has = self.unnamed.entry(user.clone()).or_default();
        // Of the same blob this is another try.
        let before = has.get(&digest).copied();
        if before.is_none() && has.len() >= UNNAMED {
            return Err(NoShare::Blobs { user: user.clone() });
        }
        let all = has.values().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let own = all.saturating_sub(before.unwrap_or(0));
        let most = room.saturating_sub(used.saturating_sub(all)) / 2;
        if own.saturating_add(bytes) > most {
            return Err(NoShare::Bytes { user: user.clone(), bytes, own, most });
        }
        has.insert(digest, bytes);
        Ok(())
    }

    /// Forgets blobs that a package names by now, or that are gone.
    pub(super) fn retain(&mut self, unnamed: impl Fn(&UserName, Digest) -> bool) {
        for (user, blobs) in &mut self.unnamed {
            blobs.retain(|digest, _| unnamed(user, *digest));
        }
        self.unnamed.retain(|_, blobs| !blobs.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    fn digest(number: u16) -> Digest {
        Digest::of(&number.to_be_bytes())
    }

    #[test]
    fn a_user_fills_half_of_the_room_with_what_no_package_names() {
        let (mut shares, ann, bob) = (Shares::default(), user("ann"), user("bob"));
        assert_eq!(shares.reserve(&ann, (digest(1), 40), (0, 100)), Ok(()));
        // The same again is one blob, whether it came by now or not.
        assert_eq!(shares.reserve(&ann, (digest(1), 40), (40, 100)), Ok(()));
        let refused = shares.reserve(&ann, (digest(2), 11), (40, 100));
        assert_eq!(
            refused,
            Err(NoShare::Bytes { user: ann.clone(), bytes: 11, own: 40, most: 50 })
        );
        assert_eq!(shares.reserve(&bob, (digest(2), 30), (40, 100)), Ok(()));
        // A package names it: it is nobody's share any more.
        shares.retain(|_, digest| digest != self::digest(1));
        assert_eq!(shares.reserve(&ann, (digest(2), 30), (40, 100)), Ok(()));
    }

    #[test]
    fn a_user_who_names_nothing_is_remembered_in_bounded_memory() {
        let (mut shares, ann) = (Shares::default(), user("ann"));
        let taken = (0..u16::MAX)
            .take_while(|n| shares.reserve(&ann, (digest(*n), 1), (0, 1 << 30)).is_ok())
            .count();
        assert_eq!(taken, UNNAMED);
        let refused = shares.reserve(&ann, (digest(u16::MAX), 1), (0, 1 << 30)).unwrap_err();
        assert!(refused.to_string().starts_with("user ann has 512 blobs here"), "{refused}");
        shares.retain(|_, _| false);
        assert!(shares.unnamed.is_empty());
    }
}
