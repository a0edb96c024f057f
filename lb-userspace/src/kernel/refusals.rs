//! Who refuses the connections of clients, as the programs see it: for whoever wants to know before the next check.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use lb_common::{Backend, Handshakes, names};
use zerocopy::{FromBytes, IntoBytes};

use super::bpffs;
use super::error::{KernelError, words};
use super::syscall::{Batch, Cursor, Map};
use super::table::Table;
use crate::data_plane::PlaneError;

/// How long what is known of the backends' addresses counts. A newcomer is not missed: it is checked at once.
const KNOWN: Duration = Duration::from_secs(1);

/// Entries that are read at once.
const BATCH: usize = 4096;

/// The counters of handshakes, looked at from time to time.
#[derive(Debug)]
pub struct Refusals {
    handshakes: Map,
    backends: Table<u32, Backend>,
    /// By index; as many as it takes for the last that lives.
    known: Vec<Option<SocketAddr>>,
    known_at: Option<Instant>,
    /// Refusals so far, by index.
    counted: Vec<u64>,
}

impl Refusals {
    /// Opens the pins below `bpf_dir`, which a daemon has made or adopted.
    ///
    /// # Errors
    /// They are not there.
    pub fn open(bpf_dir: &Path) -> Result<Self, KernelError> {
        let (maps, name) = (bpf_dir.join(bpffs::MAPS), names::MAP_HANDSHAKES);
        let handshakes = MapData::from_pin(maps.join(name)).and_then(Map::new);
        Ok(Self {
            handshakes: handshakes.map_err(|error| KernelError::map(name, &error))?,
            backends: Table::open(names::MAP_BACKENDS, &maps)?,
            known: Vec::new(),
            known_at: None,
            counted: Vec::new(),
        })
    }

    /// The backends that have refused a client since the last look; none at the first one. Costs some ten microseconds
    /// for a hundred backends.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn look(&mut self) -> Result<Vec<SocketAddr>, PlaneError> {
        if self.known_at.is_none_or(|at| at.elapsed() > KNOWN) {
            self.know()?;
        }
        let counted = self.count(self.known.len())?;
        let suspects = counted.iter().zip(&self.counted).zip(&self.known);
        let suspects = suspects.filter(|((now, before), _)| now > before).filter_map(|(_, known)| *known);
        let suspects = suspects.collect();
        self.counted = counted;
        Ok(suspects)
    }

    fn know(&mut self) -> Result<(), PlaneError> {
        let mut known = Vec::new();
        self.backends.scan(Batch::Read, |indexes, backends| {
            for (index, backend) in indexes.iter().zip(backends).filter(|(_, backend)| backend.id.is_some()) {
                known.resize(*index as usize, None);
                known.push(Some(SocketAddr::new(backend.address.ip(), backend.port.get())));
            }
            Ok(())
        })?;
        self.known = known;
        self.known_at = Some(Instant::now());
        Ok(())
    }

    /// Refusals by index, of the first so many.
    fn count(&self, most: usize) -> Result<Vec<u64>, PlaneError> {
        let refused = |cpus: &[u8]| -> u64 {
            let cpus = cpus.chunks_exact(size_of::<Handshakes>());
            cpus.flat_map(Handshakes::read_from_bytes).map(|handshakes| handshakes.refused).sum()
        };
        let of_all_cpus = self.handshakes.value_buffer().len().max(1);
        let size = most.min(BATCH);
        let (mut keys, mut values) = (vec![0_u32; size], vec![0_u8; size * of_all_cpus]);
        let mut cursor = Cursor::default();
        let mut counted = Vec::with_capacity(most);
        while counted.len() < most {
            let read = self.handshakes.batch(Batch::Read, &mut cursor, keys.as_mut_bytes(), &mut values);
            let (count, more) = read
                .map_err(|error| PlaneError::new(format!("map {}", names::MAP_HANDSHAKES), words(&error)))?;
            counted.extend(values.chunks_exact(of_all_cpus).take(count).map(refused));
            if !more {
                break;
            }
        }
        Ok(counted)
    }
}
