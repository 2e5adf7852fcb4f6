//! The control page: one page of shared memory that holds the committed generation of every model.
//!
//! The supervisor creates and writes it. Workers inherit a descriptor that they can only map
//! read-only: the memfd is sealed against new writable mappings (`F_SEAL_FUTURE_WRITE`, see
//! memfd_create(2) and fcntl(2)). Each slot has its own cache line, so a commit for one model does
//! not slow down workers that serve another.

#![allow(unsafe_code)] // The only file of this crate that maps shared memory.

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

/// Size of the page.
const PAGE_BYTES: usize = 4096;
/// Distance between slots: one cache line. The first slot follows one line of header.
const SLOT_BYTES: usize = 64;
/// "onnxd" and the version of this layout. Any other mapped page fails this comparison.
const MAGIC: u64 = u64::from_le_bytes(*b"onnxd\0\0\x01");

const _: () = assert!(SLOT_BYTES * (MODELS_MAX + 1) == PAGE_BYTES);
const _: () = assert!(SLOT_BYTES.is_multiple_of(align_of::<AtomicU64>()));

/// Index of a model's slot, from 0 to [`MODELS_MAX`] - 1.
pub type Slot = u16;

/// Why an inherited descriptor cannot be used as a control page.
#[derive(Debug, Error)]
pub enum ControlPageError {
    /// The descriptor cannot be mapped.
    #[error("cannot map the control page: {0}")]
    Map(#[from] io::Error),
    /// The mapping is not a control page of this build.
    #[error("the inherited descriptor is not a control page of this build")]
    Magic,
}

/// The supervisor's end, the only writer.
#[derive(Debug)]
pub struct ControlPage {
    map: MmapMut,
    memfd: OwnedFd,
}

impl ControlPage {
    /// Creates a page with every slot at generation 0, sealed so that this mapping stays the only
    /// writable one.
    ///
    /// # Errors
    /// Returns the kernel's error. Kernels before 5.1 do not support the seal.
    pub fn create() -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("onnxd-control", flags)?);
        file.set_len(PAGE_BYTES as u64)?;
        // SAFETY: this process owns the memfd; it has the mapped length and cannot shrink once
        // sealed. Slots are only accessed as atomics. memmap2 has no safe form for shared memory.
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

    /// Opens a read-only descriptor for a worker.
    ///
    /// # Errors
    /// Returns the kernel's error, for example when `/proc` is missing or descriptors run out.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.memfd.as_raw_fd());
        Ok(OpenOptions::new().read(true).open(path)?.into())
    }

    /// Publishes `generation`. Workers serve it from their next dispatch group on.
    pub fn commit(&self, slot: Slot, generation: Generation) {
        generation::commit(register(&self.map, slot), generation);
    }

    /// Publishes that the model serves nothing. Workers then drop what they have loaded of it.
    pub fn unload(&self, slot: Slot) {
        generation::unload(register(&self.map, slot));
    }

    /// Returns the committed generation, or 0 for none.
    pub fn committed(&self, slot: Slot) -> Generation {
        generation::committed(register(&self.map, slot))
    }
}

/// A worker's read-only end.
#[derive(Debug)]
pub struct ControlPageView {
    map: Mmap,
}

impl ControlPageView {
    /// Maps the page inherited from the supervisor.
    ///
    /// # Errors
    /// Returns [`ControlPageError`] if the descriptor is not a control page.
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

    /// Returns the generation to serve, or 0 for none.
    pub fn committed(&self, slot: Slot) -> Generation {
        generation::committed(register(&self.map, slot))
    }
}

/// Returns the slot's atomic inside a mapped page.
fn register(page: &[u8], slot: Slot) -> &AtomicU64 {
    let offset = SLOT_BYTES * (usize::from(slot) + 1);
    let bytes = &page[offset..offset + size_of::<AtomicU64>()];
    // SAFETY: the bytes lie in a live mapping of at least that length, aligned to a cache line.
    // Every process accesses them only as an atomic of this type. The read-only end only loads.
    unsafe { AtomicU64::from_ptr(bytes.as_ptr().cast::<u64>().cast_mut()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_shows_in_the_worker_mapping_and_only_in_its_slot() {
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
    fn the_page_rejects_writable_maps_writes_and_resizes() {
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
    fn any_other_file_is_rejected_as_a_control_page() {
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
