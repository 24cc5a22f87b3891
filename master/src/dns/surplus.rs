//! How many bytes more than it asked with an address may be sent over UDP, where anybody can write somebody
//! else's address as the sender.
//!
//! Who is over gets an answer as short as its question, which sends a real client to TCP: nobody is flooded
//! through a master, and nobody is cut off. Invariant: what is remembered is of one size, whoever sends.

use borg_proto::Millis;
use std::net::IpAddr;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes a second for one address, and at once. 4 MiB: our choice. That is 100,000 answers a second which are 40
/// bytes longer than their question, more than a core gives, and to a victim no more than 34 Mbit/s.
pub(crate) const BYTES_PER_SECOND: u64 = 4 << 20;
/// Addresses are told apart by a hash; those that have the same share a bucket. 4,096, 64 KiB: our choice.
const BUCKETS: usize = 4_096;

/// What each address may still be sent.
#[derive(Debug)]
pub(super) struct Surplus {
    buckets: Box<[Bucket]>,
    seed: u64,
    bytes_per_second: u64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u64,
    filled_at: Millis,
}

impl Surplus {
    /// Everybody may be sent what fits into a second. `seed` is secret, so that nobody chooses whose bucket to
    /// empty.
    pub(super) fn new(seed: u64, bytes_per_second: u64) -> Self {
        let full = Bucket { left: bytes_per_second, filled_at: Millis(0) };
        Self { buckets: vec![full; BUCKETS].into(), seed, bytes_per_second }
    }

    /// Whether so many bytes more may be sent; they count as sent then.
    pub(super) fn take(&mut self, now: Millis, to: IpAddr, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let place = match to {
            IpAddr::V4(v4) => xxh3_64_with_seed(&v4.octets(), self.seed),
            // Whoever has one address has the lower half of them all.
            IpAddr::V6(v6) => xxh3_64_with_seed(&v6.octets()[..8], self.seed),
        };
        let place = usize::try_from(place % self.buckets.len() as u64).unwrap_or(0);
        let bucket = &mut self.buckets[place];
        let more = now.since(bucket.filled_at).0.saturating_mul(self.bytes_per_second / 1_000);
        *bucket = Bucket {
            left: bucket.left.saturating_add(more).min(self.bytes_per_second),
            filled_at: now,
        };
        let may = bytes <= bucket.left;
        if may {
            bucket.left -= bytes;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_sent_so_much_in_a_second_and_others_are_none_the_worse() {
        let mut surplus = Surplus::new(7, BYTES_PER_SECOND);
        let (flooded, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut sent = 0;
        for ms in 0..2_000 {
            for _ in 0..200 {
                sent += if surplus.take(Millis(1_000 + ms), flooded, 1_000) { 1_000 } else { 0 };
            }
        }
        assert!(sent <= 3 * BYTES_PER_SECOND && sent > 2 * BYTES_PER_SECOND, "{sent}");
        assert!(surplus.take(Millis(3_000), other, 1_000));
        assert!(surplus.take(Millis(3_000), flooded, 0), "what is no longer than its question");
        assert!(surplus.take(Millis(4_000), flooded, 1_000_000));
    }

    #[test]
    fn addresses_of_one_network_of_version_six_are_one() {
        let mut surplus = Surplus::new(7, BYTES_PER_SECOND);
        let all = usize::try_from(BYTES_PER_SECOND).unwrap();
        assert!(surplus.take(Millis(1), "2001:db8::1".parse().unwrap(), all));
        assert!(!surplus.take(Millis(1), "2001:db8::2:1".parse().unwrap(), 1));
        assert!(surplus.take(Millis(1), "2001:db8:0:1::1".parse().unwrap(), 1));
    }
}
