//! The control page: one page of shared memory with the committed generation of every model.
//!
//! The supervisor creates and writes it; workers inherit a descriptor and can only map it
//! read-only, because the memfd is sealed against new writable mappings
//! (`F_SEAL_FUTURE_WRITE`, memfd_create(2), fcntl(2)). Each slot has a cache line of its own, so
//! that a commit for one model costs the workers of another nothing.

#![allow(unsafe_code)] // Shared memory: the only file of this crate that maps it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::AtomicU64,
};

use memmap2::{Mmap, MmapMut, MmapOptions};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use thiserror::Error;

use crate::{
    generation::{self, Generation},
    limits::MODELS_MAX,
};

/// Bytes of the page.
const PAGE_BYTES: usize = 4096;
/// Bytes between two slots: one cache line, also the distance from the start to the first.
const SLOT_BYTES: usize = 64;
/// "onnxd" and the version of this layout; where a page of another kind is mapped, this differs.
const MAGIC: u64 = u64::from_le_bytes(*b"onnxd\0\0\x01");

const _: () = assert!(SLOT_BYTES * (MODELS_MAX + 1) == PAGE_BYTES);
const _: () = assert!(SLOT_BYTES.is_multiple_of(align_of::<AtomicU64>()));

/// The number of a model's slot, from 0 to [`MODELS_MAX`] - 1.
pub type Slot = u16;

/// What the descriptor that a worker was given is not.
#[derive(Debug, Error)]
pub enum ControlPageError {
    /// The descriptor cannot be mapped.
    #[error("the control page cannot be mapped: {0}")]
    Map(#[from] io::Error),
    /// The mapping is no control page of this build.
    #[error("the shared page is no control page of this build")]
    Magic,
}

/// The supervisor's side: the one writer.
#[derive(Debug)]
pub struct ControlPage {
    map: MmapMut,
    memfd: OwnedFd,
}

impl ControlPage {
    /// A new page with every slot at generation 0, sealed so that this mapping stays the only
    /// writable one.
    ///
    /// # Errors
    /// What the kernel answers; a kernel before 5.1 does not know the seal.
    pub fn create() -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("onnxd-control", flags)?);
        file.set_len(PAGE_BYTES as u64)?;
        // SAFETY: the memfd is ours alone, has the mapped length and cannot shrink once sealed;
        // slots are only accessed as atomics. memmap2 offers no safe form for shared memory.
        let mut map = unsafe { MmapOptions::new().len(PAGE_BYTES).map_mut(&file)? };
        map[..8].copy_from_slice(&MAGIC.to_le_bytes());
        let memfd = OwnedFd::from(file);
        let seals = SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_FUTURE_WRITE
            | SealFlag::F_SEAL_SEAL;
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self { map, memfd })
    }

    /// A descriptor for a worker, opened for reading alone.
    ///
    /// # Errors
    /// What the kernel answers when `/proc` is missing or descriptors are used up.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.memfd.as_raw_fd());
        Ok(OpenOptions::new().read(true).open(path)?.into())
    }

    /// Makes `generation` the one that workers serve from their next dispatch group on.
    pub fn commit(&self, slot: Slot, generation: Generation) {
        generation::commit(register(&self.map, slot), generation);
    }

    /// Makes workers serve nothing of a model, and drop what they have of it.
    pub fn unload(&self, slot: Slot) {
        generation::unload(register(&self.map, slot));
    }

    /// The generation that is committed; 0 is none.
    pub fn committed(&self, slot: Slot) -> Generation {
        generation::committed(register(&self.map, slot))
    }
}

/// A worker's side: reads, and cannot do more.
#[derive(Debug)]
pub struct ControlPageView {
    map: Mmap,
}

impl ControlPageView {
    /// Maps the page that the supervisor handed over.
    ///
    /// # Errors
    /// [`ControlPageError`] where the descriptor is something else.
    pub fn map(memfd: OwnedFd) -> Result<Self, ControlPageError> {
        let file = File::from(memfd);
        if file.metadata()?.len() != PAGE_BYTES as u64 {
            return Err(ControlPageError::Magic);
        }
        // SAFETY: the memfd is sealed against shrinking, and slots are only accessed as atomics.
        let map = unsafe { MmapOptions::new().len(PAGE_BYTES).map(&file)? };
        if map[..8] != MAGIC.to_le_bytes() {
            return Err(ControlPageError::Magic);
        }
        Ok(Self { map })
    }

    /// The generation to be served now.
    pub fn committed(&self, slot: Slot) -> Generation {
        generation::committed(register(&self.map, slot))
    }
}

/// The slot's atomic inside a mapped page.
fn register(page: &[u8], slot: Slot) -> &AtomicU64 {
    let offset = SLOT_BYTES * (usize::from(slot) + 1);
    let bytes = &page[offset..offset + size_of::<AtomicU64>()];
    // SAFETY: the bytes lie in a live mapping of at least that length, aligned to a cache line;
    // every access to them, in every process, is an atomic one of this type. On the read-only
    // side only loads are made.
    unsafe { AtomicU64::from_ptr(bytes.as_ptr().cast::<u64>().cast_mut()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_seen_through_the_other_mapping_and_only_in_its_slot() {
        let page = ControlPage::create().unwrap();
        let view = ControlPageView::map(page.read_only().unwrap()).unwrap();
        let last = Slot::try_from(MODELS_MAX - 1).unwrap();
        page.commit(last, 7);
        page.commit(0, u64::MAX);
        assert_eq!((view.committed(0), view.committed(1), view.committed(last)), (u64::MAX, 0, 7));
        assert_eq!(page.committed(last), 7);
        page.unload(last);
        assert_eq!((view.committed(0), view.committed(last)), (u64::MAX, 0));
        (0..=last).for_each(|slot| page.commit(slot, u64::from(slot) + 9));
        assert!((0..=last).all(|slot| view.committed(slot) == u64::from(slot) + 9));
    }

    #[test]
    fn nobody_else_can_map_the_page_writable_write_to_it_or_resize_it() {
        let page = ControlPage::create().unwrap();
        for descriptor in [page.read_only().unwrap(), page.memfd.try_clone().unwrap()] {
            let mut file = File::from(descriptor);
            // SAFETY: the mapping is expected to fail; nothing is accessed through it.
            assert!(unsafe { MmapOptions::new().len(PAGE_BYTES).map_mut(&file) }.is_err());
            assert!(file.set_len(0).is_err());
            assert!(std::io::Write::write(&mut file, b"x").is_err());
            // SAFETY: as above; the read-only mapping is not accessed.
            let map = unsafe { MmapOptions::new().len(PAGE_BYTES).map(&file) }.unwrap();
            assert!(map.make_mut().is_err(), "mprotect must not make it writable");
        }
    }

    #[test]
    fn another_file_is_not_taken_for_a_control_page() {
        let mut other = tempfile_of(PAGE_BYTES);
        assert!(matches!(ControlPageView::map(other.into()), Err(ControlPageError::Magic)));
        other = tempfile_of(3);
        assert!(matches!(ControlPageView::map(other.into()), Err(ControlPageError::Magic)));
    }

    fn tempfile_of(bytes: usize) -> File {
        let file = File::from(memfd_create("other", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(bytes as u64).unwrap();
        file
    }
}
