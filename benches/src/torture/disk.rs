//! A disk of its own for a replica: an ext4 file system on a loop device over a file in memory.
//!
//! The file has what the kernel gave to the disk, and nothing that still waits in the page cache.
//! So a copy of it, taken while its writers stand still, is what a power cut at that moment leaves.
//! Two differences from a real disk: what the kernel wrote back by itself is there although nobody
//! synced it, and what was written but not flushed is never lost; so a missing barrier is not found.
//!
//! Invariant: mounted from [`Disk::make`] on, but for the moment inside of [`Disk::replace`].

use super::apart::run;
use crate::Error;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Size of a disk. 64 MiB: ours; a replica of these tests needs under 10.
const BYTES: u64 = 64 << 20;
/// Pieces in which images are copied; empty ones stay holes.
const PIECE: usize = 64 << 10;
/// Tries to unmount, 10 ms apart: the kernel lets go of a dead process's files a little later.
const TRIES: u32 = 200;

/// A mounted disk.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

/// What a disk had at one moment.
#[derive(Debug)]
pub struct DiskCopy(PathBuf);

impl Disk {
    /// Makes an empty one below `dir` and mounts it on `dir/NAME`.
    ///
    /// # Errors
    /// What the system refused.
    pub fn make(dir: &Path, name: &str) -> Result<Self, Error> {
        // One for all: making a file system takes longer than copying it.
        let empty = Path::new(super::apart::WORK).join("empty.img");
        if !empty.exists() {
            File::create(&empty)?.set_len(BYTES)?;
            let options = "lazy_itable_init=0,lazy_journal_init=0";
            run("mkfs.ext4", &["-q", "-F", "-E", options, &empty.display().to_string()])?;
        }
        let disk = Self { image: dir.join(format!("{name}.img")), at: dir.join(name) };
        copy_sparse(&empty, &disk.image)?;
        fs::create_dir_all(&disk.at)?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Copies what is on it now. Whoever writes to it must stand still.
    ///
    /// # Errors
    /// What the system refused.
    pub fn copy(&self) -> Result<DiskCopy, Error> {
        let to = self.image.with_extension("cut");
        copy_sparse(&self.image, &to)?;
        Ok(DiskCopy(to))
    }

    /// Puts it back to what a copy has. Nobody may have a file open on it.
    ///
    /// # Errors
    /// What the system refused.
    pub fn replace(&mut self, copy: DiskCopy) -> Result<(), Error> {
        self.unmount()?;
        fs::rename(copy.0, &self.image)?;
        self.mount()
    }

    /// Unmounts it for good. Nobody may have a file open on it.
    ///
    /// # Errors
    /// What the system refused.
    pub fn remove(self) -> Result<(), Error> {
        self.unmount()?;
        Ok(fs::remove_file(&self.image)?)
    }

    /// ext4 commits what nobody synced every 5 s by default. Here every 5 minutes, so that less is
    /// there by chance, also on a busy computer.
    fn mount(&self) -> Result<(), Error> {
        let (image, at) = (self.image.display().to_string(), self.at.display().to_string());
        run("mount", &["-t", "ext4", "-o", "loop,noatime,commit=300", &image, &at]).map(drop)
    }

    fn unmount(&self) -> Result<(), Error> {
        let at = self.at.display().to_string();
        for _ in 1..TRIES {
            if run("umount", &[&at]).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        run("umount", &[&at]).map(drop)
    }
}

fn copy_sparse(from: &Path, to: &Path) -> Result<(), Error> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        if piece[..read].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(i64::try_from(read)?))?;
        } else {
            to.write_all(&piece[..read])?;
        }
    }
    let length = to.stream_position()?;
    to.set_len(length)?;
    Ok(())
}
