//! Large content in compressed blocks that prove themselves one by one.
//!
//! Writes and reads what a checkpoint and a piece of the log have in common; leaves to them what is
//! in front and what the content means. A reader holds one block at a time, notices damage at the
//! block that has it, and never asks for more memory than a block may have.
//!
//! Layout: a sealed front (`record`), then blocks, each of them
//! ```text
//! stored    u32    bytes that follow; 0 in the last block
//! plain     u32    bytes after decompression; as many as `stored`: not compressed
//! content          an LZ4 block
//! sum       u64    xxh3 of the sum before (of the front's, at first) and of all of this block
//! ```
//!
//! Invariant: the last sum covers the whole file.

use std::io::{self, Read, Write};

use xxhash_rust::xxh3::Xxh3;

use super::record::{Block, HEADER_BYTES, TRAILER_BYTES, Unsealed, header, seal, unseal};

/// Content of a block before compression, in bytes, in all but the last. 256 KiB: our choice; LZ4
/// looks back 64 KiB, so larger blocks gain little.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// Longest front that is read, in bytes: a membership of thousands of replicas.
const MAX_FRONT_BYTES: u64 = 64 << 10;

/// Why a file could not be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// Its bytes are not what was written.
    Unsealed(Unsealed),
    /// The system refused.
    Io(io::Error),
}

impl Unreadable {
    pub(super) fn damaged<T>(why: &'static str) -> Result<T, Self> {
        Err(Self::Unsealed(Unsealed::Damaged(why)))
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Unsealed(Unsealed::Damaged("cut off")),
            _ => Self::Io(error),
        }
    }
}

impl From<Unsealed> for Unreadable {
    fn from(unsealed: Unsealed) -> Self {
        Self::Unsealed(unsealed)
    }
}

/// Writes a file of blocks.
#[derive(Debug)]
pub(super) struct BlockWriter<W> {
    to: W,
    sum: u64,
    bytes: u64,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    /// Writes the front.
    pub(super) fn begin(mut to: W, kind: Block, front: &[u8]) -> io::Result<Self> {
        let sum = seal(&mut to, kind, &[front])?;
        Ok(Self {
            to,
            sum,
            bytes: (HEADER_BYTES + front.len() + TRAILER_BYTES) as u64,
            plain: Vec::with_capacity(BLOCK_BYTES),
            packed: vec![0; lz4_flex::block::get_maximum_output_size(BLOCK_BYTES)],
        })
    }

    /// Writes the last block. Gives where it was written to, the file's length and its last sum.
    pub(super) fn finish(mut self) -> io::Result<(W, u64, u64)> {
        if !self.plain.is_empty() {
            self.put_block()?;
        }
        self.put(&[], 0)?;
        Ok((self.to, self.bytes, self.sum))
    }

    fn put_block(&mut self) -> io::Result<()> {
        let plain = std::mem::take(&mut self.plain);
        let mut packed = std::mem::take(&mut self.packed);
        let length = lz4_flex::block::compress_into(&plain, &mut packed).unwrap_or(usize::MAX);
        let content = if length < plain.len() { &packed[..length] } else { &plain[..] };
        let put = self.put(content, plain.len());
        (self.plain, self.packed) = (plain, packed);
        self.plain.clear();
        put
    }

    fn put(&mut self, content: &[u8], plain: usize) -> io::Result<()> {
        let lengths = lengths(content.len(), plain);
        self.sum = chained(self.sum, &lengths, content);
        self.to.write_all(&lengths)?;
        self.to.write_all(content)?;
        self.to.write_all(&self.sum.to_le_bytes())?;
        self.bytes += (lengths.len() + content.len() + TRAILER_BYTES) as u64;
        Ok(())
    }
}

impl<W: Write> Write for BlockWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.plain.len());
        self.plain.extend_from_slice(&bytes[..taken]);
        if self.plain.len() == BLOCK_BYTES {
            self.put_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file of blocks.
#[derive(Debug)]
pub(super) struct BlockReader<R> {
    from: R,
    sum: u64,
    packed: Vec<u8>,
    ended: bool,
}

impl<R: Read> BlockReader<R> {
    /// Reads the front: gives its format and content.
    pub(super) fn begin(mut from: R, kind: Block) -> Result<(Self, u32, Vec<u8>), Unreadable> {
        let mut front = vec![0; HEADER_BYTES];
        from.read_exact(&mut front)?;
        let (_, length) = header(kind, &front)?;
        if length > MAX_FRONT_BYTES {
            return Unreadable::damaged("its front is too long");
        }
        let length = usize::try_from(length).expect("it was just bounded");
        front.resize(HEADER_BYTES + length + TRAILER_BYTES, 0);
        from.read_exact(&mut front[HEADER_BYTES..])?;
        let unsealed = unseal(kind, &front)?;
        let reader = Self { from, sum: unsealed.sum, packed: Vec::new(), ended: false };
        Ok((reader, unsealed.format, unsealed.body.to_vec()))
    }

    /// Adds the content of the next block to `to`; `false` after the last one.
    pub(super) fn next(&mut self, to: &mut Vec<u8>) -> Result<bool, Unreadable> {
        if self.ended {
            return Ok(false);
        }
        let mut lengths = [0; 8];
        self.from.read_exact(&mut lengths)?;
        let [a, b, c, d, e, f, g, h] = lengths;
        let as_usize = |bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        let (stored, plain) = (as_usize([a, b, c, d]), as_usize([e, f, g, h]));
        if stored > plain || plain > BLOCK_BYTES {
            return Unreadable::damaged("a block has an odd length");
        }
        self.packed.resize(stored, 0);
        self.from.read_exact(&mut self.packed)?;
        let mut sum = [0; TRAILER_BYTES];
        self.from.read_exact(&mut sum)?;
        self.sum = chained(self.sum, &lengths, &self.packed);
        if self.sum != u64::from_le_bytes(sum) {
            return Unreadable::damaged("a block has a wrong checksum");
        }
        if stored == 0 {
            self.ended = true;
            return match plain {
                0 => Ok(false),
                _ => Unreadable::damaged("a block has an odd length"),
            };
        }
        let at = to.len();
        if stored == plain {
            to.extend_from_slice(&self.packed);
            return Ok(true);
        }
        to.resize(at + plain, 0);
        match lz4_flex::block::decompress_into(&self.packed, &mut to[at..]) {
            Ok(length) if length == plain => Ok(true),
            Ok(_) | Err(_) => Unreadable::damaged("a block does not decompress"),
        }
    }

    /// After the last block: the sum over the file, if nothing follows.
    pub(super) fn finish(mut self) -> Result<u64, Unreadable> {
        if !self.ended || self.from.read(&mut [0])? > 0 {
            return Unreadable::damaged("it goes on after its end");
        }
        Ok(self.sum)
    }
}

fn lengths(stored: usize, plain: usize) -> [u8; 8] {
    let u32 = |length| u32::try_from(length).expect("a block is small").to_le_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (u32(stored), u32(plain));
    [a, b, c, d, e, f, g, h]
}

fn chained(before: u64, lengths: &[u8], content: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(&before.to_le_bytes());
    sum.update(lengths);
    sum.update(content);
    sum.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8]) -> Vec<u8> {
        let mut writer = BlockWriter::begin(Vec::new(), Block::Segment, b"front").unwrap();
        writer.write_all(content).unwrap();
        let (file, bytes, sum) = writer.finish().unwrap();
        assert_eq!(file.len() as u64, bytes);
        assert_eq!(file[file.len() - 8..], sum.to_le_bytes());
        file
    }

    fn read(file: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let (mut reader, _, front) = BlockReader::begin(file, Block::Segment)?;
        assert_eq!(front, b"front");
        let mut content = Vec::new();
        while reader.next(&mut content)? {}
        reader.finish().map(|_sum| content)
    }

    #[test]
    fn content_of_any_length_comes_back() {
        let noise = (0..3 * BLOCK_BYTES as u64)
            .map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0])
            .collect::<Vec<_>>();
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES] {
            for content in [&vec![7; length], &noise[..length].to_vec()] {
                assert!(read(&written(content)).unwrap() == *content, "{length}");
            }
        }
        assert!(written(&vec![0; 1 << 20]).len() < 10_000, "nothing is compressed");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let file = written(&(0..=255).cycle().take(700).collect::<Vec<u8>>());
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "bit {bit} of byte {at}");
            }
            assert!(read(&file[..at]).is_err(), "cut to {at}");
        }
        assert!(read(&[&file[..], b"x"].concat()).is_err());
    }

    /// Checksums are no secret: a forged block must not ask for memory either.
    #[test]
    fn a_forged_length_is_refused_before_memory_is_asked_for() {
        let mut file = Vec::new();
        let sum = seal(&mut file, Block::Segment, &[b"front"]).unwrap();
        for lengths in [[10, 0, 0, 0, 255, 255, 255, 255], [255; 8], [0, 0, 0, 0, 9, 0, 0, 0]] {
            let content = [0; 10];
            let content = if lengths[0] == 10 { &content[..] } else { &[] };
            let sum = chained(sum, &lengths, content).to_le_bytes();
            assert!(read(&[&file[..], &lengths, content, &sum].concat()).is_err());
        }
    }
}
