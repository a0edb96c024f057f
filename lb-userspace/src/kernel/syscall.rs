//! The system calls that aya has no safe call for: map access by bytes and in batches, memory-mapped arrays,
//! link information and atomic link updates.
#![expect(unsafe_code, reason = "raw bpf(2) and mmap(2), each behind a safe signature")]

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{MapData, MapType};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};

/// # Safety
///
/// Every pointer in `attr` that `command` uses must be valid for what the kernel reads or writes there.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is a whole `bpf_attr`; the caller vouches for the pointers in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn attr() -> bpf_attr {
    // SAFETY: every field of every variant of `bpf_attr` is an integer, for which zeroes are a value.
    unsafe { mem::zeroed() }
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn wrong_size() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "key or value of another size than the map's")
}

/// A map by its bytes. Sizes are the kernel's own, so no call can overrun a buffer.
#[derive(Debug)]
pub(super) struct Map {
    data: MapData,
    /// Of the kernel's counting, unique while the map lives.
    pub(super) id: u32,
    key_size: usize,
    /// Of a value as it crosses the system call: of all CPUs for a per-CPU map.
    value_size: usize,
    /// Bytes of one value of one CPU.
    pub(super) element_size: usize,
    /// Capacity.
    pub(super) entries: u32,
}

/// Whether a batch leaves the entries where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// They stay.
    Read,
    /// They are taken out (hash maps only).
    Take,
}

/// Where a batch goes on: opaque bytes of the kernel.
#[derive(Debug, Default)]
pub(super) struct Cursor(Option<Vec<u8>>);

impl Map {
    /// Wraps an open map.
    pub(super) fn new(data: MapData) -> Result<Self, aya::maps::MapError> {
        let info = data.info()?;
        let element_size = info.value_size() as usize;
        let value_size = match info.map_type()? {
            MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash => {
                let cpus = aya::util::nr_cpus().map_err(|(_, error)| aya::maps::MapError::IoError(error))?;
                element_size.next_multiple_of(8) * cpus
            }
            _ => element_size,
        };
        Ok(Self {
            id: info.id(),
            key_size: info.key_size() as usize,
            value_size,
            element_size,
            entries: info.max_entries(),
            data,
        })
    }

    /// The value as it crosses the system call, zeroed.
    pub(super) fn value_buffer(&self) -> Vec<u8> {
        vec![0; self.value_size]
    }

    /// Reads one entry; `false`: there is none.
    pub(super) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        if key.len() != self.key_size || value.len() != self.value_size {
            return Err(wrong_size());
        }
        let mut attr = attr();
        // SAFETY: plain integers of a zeroed union.
        let element = unsafe { &mut attr.__bindgen_anon_2 };
        element.map_fd = raw(&self.data.fd());
        element.key = key.as_ptr() as u64;
        element.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
        // SAFETY: key and value have the sizes that the kernel knows for this map.
        absent_is_false(unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) })
    }

    /// Writes one entry, whether it exists or not.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key_size || value.len() != self.value_size {
            return Err(wrong_size());
        }
        let mut attr = attr();
        // SAFETY: plain integers of a zeroed union.
        let element = unsafe { &mut attr.__bindgen_anon_2 };
        element.map_fd = raw(&self.data.fd());
        element.key = key.as_ptr() as u64;
        element.__bindgen_anon_1.value = value.as_ptr() as u64;
        // SAFETY: key and value have the sizes that the kernel knows for this map, and it only reads them.
        unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Makes an array of maps like this one. The kernel keeps 15 bytes of the name.
    pub(super) fn outer(&self, name: &str, entries: u32) -> Result<Self, aya::maps::MapError> {
        let mut attr = attr();
        // SAFETY: plain integers of a zeroed union.
        let create = unsafe { &mut attr.__bindgen_anon_1 };
        create.map_type = MapType::ArrayOfMaps as u32;
        create.key_size = 4;
        create.value_size = 4;
        create.max_entries = entries;
        create.inner_map_fd = raw(&self.data.fd());
        for (place, byte) in create.map_name.iter_mut().take(15).zip(name.bytes()) {
            *place = byte.cast_signed();
        }
        // SAFETY: the command uses no pointers here.
        let fd = unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }.and_then(owned)?;
        Self::new(MapData::from_fd(fd)?)
    }

    /// Puts `inner` into an array of maps; returns after an RCU grace period.
    pub(super) fn update_inner(&self, key: u32, inner: &Self) -> io::Result<()> {
        self.update(&key.to_ne_bytes(), &raw(&inner.data.fd()).to_ne_bytes())
    }

    /// Puts several maps into an array of maps; returns after an RCU grace period, on kernels before 6.8 (37ba5b59d6ad)
    /// after one for each of them.
    pub(super) fn update_inners<'m>(&self, inners: impl Iterator<Item = (u32, &'m Self)>) -> io::Result<()> {
        let (keys, values): (Vec<u32>, Vec<u32>) =
            inners.map(|(key, inner)| (key, raw(&inner.data.fd()))).unzip();
        if (self.key_size, self.value_size) != (size_of::<u32>(), size_of::<u32>()) {
            return Err(wrong_size());
        }
        let mut attr = attr();
        attr.batch.map_fd = raw(&self.data.fd());
        attr.batch.keys = keys.as_ptr() as u64;
        attr.batch.values = values.as_ptr() as u64;
        attr.batch.count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        // SAFETY: both buffers hold `count` elements of the size that the kernel knows for this map, and it only reads
        // them.
        unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
    }

    /// Deletes one entry; `false`: there was none.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        if key.len() != self.key_size {
            return Err(wrong_size());
        }
        let mut attr = attr();
        // SAFETY: plain integers of a zeroed union.
        let element = unsafe { &mut attr.__bindgen_anon_2 };
        element.map_fd = raw(&self.data.fd());
        element.key = key.as_ptr() as u64;
        // SAFETY: the key has the size that the kernel knows for this map.
        absent_is_false(unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) })
    }

    /// Reads the next entries into `keys` and `values` (whole keys and values; as many as fit both).
    /// Returns how many there were and whether there may be more. `ENOSPC`: one hash bucket holds more than
    /// the buffers; call again with larger ones.
    pub(super) fn batch(
        &self,
        mode: Batch,
        cursor: &mut Cursor,
        keys: &mut [u8],
        values: &mut [u8],
    ) -> io::Result<(usize, bool)> {
        let fit = (keys.len() / self.key_size.max(1)).min(values.len() / self.value_size.max(1));
        // The kernel writes a bucket number or a key.
        let mut out = vec![0; self.key_size.max(size_of::<u32>())];
        let mut attr = attr();
        attr.batch.map_fd = raw(&self.data.fd());
        attr.batch.in_batch = cursor.0.as_ref().map_or(0, |bytes| bytes.as_ptr() as u64);
        attr.batch.out_batch = out.as_mut_ptr() as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = u32::try_from(fit).unwrap_or(u32::MAX);
        let command = match mode {
            Batch::Read => bpf_cmd::BPF_MAP_LOOKUP_BATCH,
            Batch::Take => bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH,
        };
        // SAFETY: the buffers hold `count` keys and values, the cursors a key or a bucket number.
        let result = unsafe { bpf(command, &mut attr) };
        // SAFETY: the kernel wrote an integer, or left ours.
        let count = unsafe { attr.batch.count } as usize;
        match result {
            Ok(_) => {
                cursor.0 = Some(out);
                Ok((count.min(fit), true))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((count.min(fit), false)),
            Err(error) => Err(error),
        }
    }

    /// Maps an array that was made with `BPF_F_MMAPABLE`: each element begins on a 64-bit word of its own.
    pub(super) fn words(&self, access: Access) -> io::Result<Words> {
        let count = self.entries as usize * self.element_size.div_ceil(size_of::<u64>());
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice; it refuses a length beyond the map's.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<u64>(),
                protection,
                libc::MAP_SHARED,
                self.data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Words { first, count, access })
    }

    /// Makes a name for the map in a BPF file system.
    pub(super) fn pin(&self, path: &Path) -> Result<(), aya::pin::PinError> {
        self.data.pin(path)
    }
}

fn absent_is_false(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until no program runs that was running when the wait began: an update of a map of maps returns after
/// an RCU grace period (`maybe_wait_bpf_programs` in the kernel's kernel/bpf/syscall.c).
#[derive(Debug)]
pub(super) struct Grace {
    outer: Map,
    inner: Map,
}

impl Grace {
    /// A map of maps for nothing else.
    pub(super) fn new() -> Result<Self, aya::maps::MapError> {
        let definition = aya_obj::Map::new_from_params(MapType::Array as u32, 4, 4, 1, 0);
        let inner = Map::new(MapData::create(definition, "sluice_grace", None)?)?;
        Ok(Self { outer: inner.outer("sluice_grace", 1)?, inner })
    }

    /// Waits, for some milliseconds.
    pub(super) fn wait(&self) -> io::Result<()> {
        self.outer.update_inner(0, &self.inner)
    }
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading alone.
    Read,
    /// Filling it.
    Write,
}

/// The memory of a mapped array map, which programs may read and write at the same time.
#[derive(Debug)]
pub(super) struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
    access: Access,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Words {}
// SAFETY: its words are only reached by atomics.
unsafe impl Sync for Words {}

impl Words {
    /// The words, each loaded once.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.all().iter().map(|word| word.load(Ordering::Relaxed))
    }

    /// One word.
    pub(super) fn get(&self, index: usize) -> Option<u64> {
        self.all().get(index).map(|word| word.load(Ordering::Acquire))
    }

    /// Writes one word, after everything that was written before; readers see the old one or this one.
    pub(super) fn publish(&self, index: usize, value: u64) -> io::Result<()> {
        let word = self.all().get(index).filter(|_| self.access == Access::Write);
        word.ok_or(io::ErrorKind::PermissionDenied)?.store(value, Ordering::Release);
        Ok(())
    }

    /// Writes `new` where `old` stands; whether it did.
    pub(super) fn replace(&self, index: usize, old: u64, new: u64) -> bool {
        let word = self.all().get(index).filter(|_| self.access == Access::Write);
        word.is_some_and(|word| word.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok())
    }

    /// Subtracts from one word.
    pub(super) fn subtract(&self, index: usize, number: u64) {
        if let Some(word) = self.all().get(index).filter(|_| self.access == Access::Write) {
            word.fetch_sub(number, Ordering::Relaxed);
        }
    }

    /// Writes the first words.
    pub(super) fn fill(&self, words: impl Iterator<Item = u64>) -> io::Result<()> {
        if self.access != Access::Write {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        for (word, value) in self.all().iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, holds `count` words and lives as long as `self`. Others write
        // it too, which atomics allow; stores happen only where the mapping is writable, and relaxed loads of
        // a machine word are allowed on read-only memory.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `Map::words` made; nothing borrows from it any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

/// Opens a pinned link (or any pinned object).
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path ends with a NUL and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }.and_then(owned)
}

/// The descriptor that a command of bpf(2) has just returned.
fn owned(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkTarget {
    /// XDP or tcx.
    pub(super) kind: bpf_link_type,
    /// 0: the interface is gone, or the link was detached.
    pub(super) ifindex: u32,
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<bpf_link_info> {
    // SAFETY: all integers, for which zeroes are a value.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attr = attr();
    attr.info.bpf_fd = raw(&link);
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).unwrap_or(0);
    attr.info.info = &raw mut info as u64;
    // SAFETY: `info` has room for `info_len` bytes and outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// What a link is attached to; `None`: it is neither XDP nor tcx.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<Option<LinkTarget>> {
    let info = link_info(link)?;
    // SAFETY: the kernel filled the variant that `type_` names; both begin with the interface's index.
    Ok(unsafe {
        if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
            let ifindex = info.__bindgen_anon_1.xdp.ifindex;
            Some(LinkTarget { kind: bpf_link_type::BPF_LINK_TYPE_XDP, ifindex })
        } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
            let ifindex = info.__bindgen_anon_1.tcx.ifindex;
            Some(LinkTarget { kind: bpf_link_type::BPF_LINK_TYPE_TCX, ifindex })
        } else {
            None
        }
    })
}

/// The kernel's number of the cgroup that a link is attached to, 0 once it is detached; `None`: it is a link of
/// another kind.
pub(super) fn link_cgroup(link: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let info = link_info(link)?;
    let is_cgroup = info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32;
    // SAFETY: an integer, whichever variant the kernel filled.
    Ok(is_cgroup.then_some(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id }))
}

/// Puts another program of the same type under a link, atomically.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr();
    attr.link_update.link_fd = raw(&link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(&program);
    // SAFETY: the command uses no pointers.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link at once, whoever else holds it; unlinking its pin alone would leave that to a worker.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr();
    attr.link_detach.link_fd = raw(&link);
    // SAFETY: the command uses no pointers.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}
