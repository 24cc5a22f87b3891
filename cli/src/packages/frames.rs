//! A zstd file of any number of frames (RFC 8878, section 3.1), as tools make that compress in parallel or
//! want to read a part.

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, Read};

/// What a frame that is to be read begins with.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The upper 28 bits of what a frame begins with that is to be skipped, the lowest byte first.
const SKIPPED: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// Whether it begins as a zstd file.
pub(super) fn begins_as_zstd(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
        || head
            .get(..4)
            .is_some_and(|head| head[0] & 0xf0 == SKIPPED[0] && head[1..] == SKIPPED[1..])
}

/// What all of its frames hold, one after the other.
pub(super) struct Frames<R> {
    from: R,
    decoder: FrameDecoder,
    /// Whether a frame was begun and not read to its end.
    within: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, decoder: FrameDecoder::new(), within: false }
    }

    /// Goes on to the next frame; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        while !self.from.fill_buf()?.is_empty() {
            let length = match self.decoder.init(&mut self.from) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => u64::from(length),
                Err(error) => return Err(io::Error::other(error)),
            };
            let skipped = io::copy(&mut self.from.by_ref().take(length), &mut io::sink())?;
            if skipped < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(false)
    }

    fn read_frame(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
            let more = BlockDecodingStrategy::UptoBytes(buffer.len() - self.decoder.can_collect());
            self.decoder.decode_blocks(&mut self.from, more).map_err(io::Error::other)?;
        }
        self.decoder.read(buffer)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.within {
                let read = self.read_frame(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            self.within = self.next()?;
            if !self.within {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Frames::new(bytes).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn frames_follow_each_other_and_those_to_be_skipped_are() {
        let frame = |data: &[u8]| compress_to_vec(data, CompressionLevel::Fastest);
        let (low, high) = ([7; 300_000], *b"high");
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        let file = [&skipped[..], &frame(&low), &skipped, &frame(&high), &skipped].concat();
        assert!(begins_as_zstd(&file) && begins_as_zstd(&frame(b"x")) && !begins_as_zstd(b"PK"));
        assert_eq!(read(&file).unwrap(), [&low[..], &high].concat());
        let cut = |left: usize| read(&file[..file.len() - left]).is_err();
        assert!(cut(1) && cut(12), "what is cut off is no end");
        assert!(read(&[&file[..], b"rubbish"].concat()).is_err());
    }
}
