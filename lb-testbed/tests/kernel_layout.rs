//! Pins of another layout: refused by name before anything is touched, and what is attached goes on as it was.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use aya_obj::Map as Definition;
use lb_common::layout::LAYOUT;
use lb_common::{Backend, BackendId, Service, ServiceId, Slot, SocketKey, limits, names};
use lb_testbed::namespace::Namespace;
use lb_testbed::object;
use lb_testbed::pinned::{Fixture, link, veth};
use lb_userspace::config::{Config, Environment, PlaneChoice};
use lb_userspace::controller::table_sizes::{TableSize, TableSizes};
use lb_userspace::data_plane::kernel::{KernelAction, KernelState, KernelTables};
use lb_userspace::kernel::{self, KernelError, KernelPlane, Settings};
use lb_userspace::model::Plane;

/// linux/bpf.h.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// What a daemon has left behind, programs attached on both hooks.
struct Left {
    fixture: Fixture,
    state: KernelState,
    _namespace: Namespace,
}

impl Left {
    fn new(label: &str) -> Result<Self> {
        let (fixture, namespace) = (Fixture::new()?, veth(label)?);
        let (mut plane, _) = fixture.open()?;
        let backend = Backend { id: BackendId::new(1, 1), ..Backend::default() };
        plane.tables.apply(&KernelAction::PutBackend { index: 1, backend })?;
        plane.tables.apply(&KernelAction::SwapTable {
            table: 1,
            slots: vec![Slot::stable(backend.id); 251].into(),
        })?;
        plane.programs.attach(&link("v0", true)?, PlaneChoice::Force(Plane::Xdp))?;
        plane.programs.attach(&link("v1", true)?, PlaneChoice::Auto)?;
        let state = plane.tables.read_back(&KernelState::default())?;
        Ok(Self { fixture, state, _namespace: namespace })
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.fixture.dir().join("maps").join(name)
    }

    /// What a start says that finds `planted`, and that it has left everything as it was.
    fn refusal(&self) -> Result<KernelError> {
        let before = self.fixture.pins()?;
        let error = self.fixture.refusal(&self.fixture.dir())?;
        let after = self.fixture.pins()?;
        ensure!(before == after, "{error}: {before:#?}, then {after:#?}");
        Ok(error)
    }

    /// The refusal while another map stands in the place of `name`, or none.
    fn without(&self, name: &str, other: Option<Definition>) -> Result<KernelError> {
        let (pin, aside) = (self.pin(name), self.fixture.bpffs.join("aside"));
        std::fs::rename(&pin, &aside)?;
        if let Some(other) = other {
            MapData::create(other, "other", None)?.pin(&pin)?;
        }
        let error = self.refusal().with_context(|| name.to_owned());
        std::fs::rename(&aside, &pin)?;
        error
    }

    /// The next start finds everything as it was.
    fn is_whole(&self) -> Result<()> {
        let before = self.fixture.pins()?;
        let (mut plane, adopted) = self.fixture.open()?;
        ensure!(adopted.maps == names::MAPS && adopted.links.len() == 2, "{adopted:?}");
        ensure!(plane.tables.read_back(&KernelState::default())? == self.state);
        let after = self.fixture.pins()?;
        let is_map = |(path, _): &(&PathBuf, _)| !path.starts_with(self.fixture.dir().join("programs"));
        ensure!(before.iter().filter(is_map).eq(after.iter().filter(is_map)), "{before:#?}, then {after:#?}");
        Ok(())
    }
}

#[test]
fn maps_of_another_number_are_refused_and_stay_as_they_are() -> Result<()> {
    let left = Left::new("number")?;
    let number = |value: u32| -> Result<()> {
        let map = MapData::from_pin(left.pin(names::MAP_LAYOUT))?;
        Ok(Array::<_, u32>::try_from(Map::Array(map))?.set(0, value, 0)?)
    };
    for other in [0, LAYOUT + 1, u32::MAX] {
        number(other)?;
        let error = left.refusal()?;
        ensure!(
            matches!(&error, KernelError::OtherLayout { pinned, needed: LAYOUT, .. } if *pinned == other),
            "{error}"
        );
        ensure!(error.to_string().contains("run the sluice that made them"), "{error}");
        ensure!(error.to_string().contains("sluice cleanup"), "{error}");
    }
    number(LAYOUT)?;
    // As a daemon from before has left it.
    let error = left.without(names::MAP_LAYOUT, None)?;
    ensure!(matches!(error, KernelError::OtherLayout { pinned: 0, .. }), "{error}");
    left.is_whole()
}

#[test]
fn maps_of_another_shape_are_refused_by_name_and_stay_as_they_are() -> Result<()> {
    let left = Left::new("shape")?;
    let shape = |name: &str| -> Result<[u32; 5]> {
        let found = MapInfo::from_pin(left.pin(name))?;
        let kind = found.map_type()? as u32;
        Ok([kind, found.key_size(), found.value_size(), found.max_entries(), found.map_flags()])
    };
    let others = [
        ("VIPS", "type", 0, MapType::PerCpuArray as u32),
        ("WANTED", "key size", 1, 24),
        ("HOSTS", "value size", 2, 32),
        ("SERVICES", "value size", 2, 64),
        ("BACKENDS", "flags", 4, BPF_F_MMAPABLE),
        ("VIPS", "capacity", 3, 1024),
    ];
    for (name, expected, place, value) in others {
        let mut other = shape(name)?;
        other[place] = value;
        let [kind, key_size, value_size, entries, flags] = other;
        let other = Definition::new_from_params(kind, key_size, value_size, entries, flags);
        let error = left.without(name, Some(other))?;
        let KernelError::Layout { path, what, pinned, needed, cure } = &error else {
            anyhow::bail!("{name}: {error}")
        };
        ensure!(*path == left.pin(name) && *what == expected, "{error}");
        ensure!(*pinned == u64::from(value) && pinned != needed, "{error}");
        ensure!(cure.contains("sluice cleanup"), "{error}");
    }

    // The array of a Maglev table, whose outer map looks as always.
    let other = Definition::new_from_params(MapType::Array as u32, 4, 16, 251, BPF_F_MMAPABLE | 1 << 12);
    let pin = left.fixture.dir().join("tables/1-99");
    MapData::create(other, "other", None)?.pin(&pin)?;
    let error = left.refusal()?;
    let is_named = matches!(&error, KernelError::Layout { path, what: "value size", pinned: 16, needed: 8, .. } if *path == pin);
    ensure!(is_named, "{error}");
    std::fs::remove_file(pin)?;
    left.is_whole()
}

#[test]
fn another_capacity_or_seed_is_refused_with_the_one_in_force() -> Result<()> {
    let left = Left::new("config")?;
    let dir = left.fixture.dir();
    let before = left.fixture.pins()?;
    let error = left.fixture.open_with(&dir, 2048, None).err().context("another capacity")?;
    let KernelError::Layout { path, what: "capacity", pinned: 1032, needed: 2048, .. } = &error else {
        anyhow::bail!("{error}")
    };
    ensure!(*path == left.pin("FLOWS") && error.to_string().contains("kernel.flows = 1032"), "{error}");
    let object = &left.fixture.object;
    let more = Settings {
        bpf_dir: &dir,
        flows: 1024,
        backends: 40_000,
        hash_seed: None,
        tables: TableSizes::default(),
        object,
    };
    let error = KernelPlane::open(&more).err().context("more backends")?;
    let KernelError::Layout { path, what: "capacity", pinned: 32768, needed: 40_000, .. } = &error else {
        anyhow::bail!("{error}")
    };
    ensure!(
        *path == left.pin("ENDPOINTS") && error.to_string().contains("kernel.backends = 32768"),
        "{error}"
    );
    let error = left.fixture.open_with(&dir, 1024, Some([1, 2])).err().context("another seed")?;
    ensure!(matches!(error, KernelError::Seed { .. }), "{error}");
    ensure!(left.fixture.pins()? == before);
    left.is_whole()
}

/// A daemon that found out with its programs attached already would leave them to slots that it cannot change.
#[test]
fn another_table_size_is_refused_with_the_one_that_is_pinned() -> Result<()> {
    let mut left = Left::new("slots")?;
    let listen = "192.0.2.10:80".parse()?;
    let service = Service { id: ServiceId::new(1, 0), table: 1, slots: 251, ..Service::default() };
    let (mut plane, _) = left.fixture.open()?;
    plane.tables.apply(&KernelAction::PutService { key: SocketKey::new(listen, 6), service })?;
    left.state = plane.tables.read_back(&KernelState::default())?;
    drop(plane);

    let (before, dir) = (left.fixture.pins()?, left.fixture.dir());
    let open = |pool: &str, listen: &str, slots: u32| {
        let config = format!(
            "[[service]]\nname = \"web\"\nlisten = [\"{listen}\"]\npool = \"{pool}\"\n[[pool]]\nname = \"{pool}\"\n\
             table_size = {slots}\n[[pool.backend]]\naddress = \"10.0.0.1:80\"\n"
        );
        let config = Config::parse("test", &config, &Environment::new());
        let tables = TableSizes::of(&config.map_err(|problems| anyhow::anyhow!("{problems:?}"))?);
        let object = &left.fixture.object;
        let settings = Settings {
            bpf_dir: &dir,
            flows: 1024,
            backends: limits::BACKENDS,
            hash_seed: None,
            tables,
            object,
        };
        Ok::<_, anyhow::Error>((kernel::fits(&settings), KernelPlane::open(&settings)))
    };
    // Whatever the pool is called now.
    for pool in ["old", "new"] {
        let (looked, opened) = open(pool, "192.0.2.10:80", 1009)?;
        let error = opened.err().context("another size was accepted")?;
        let KernelError::TableSize(TableSize { table: 1, pinned: 251, configured: 1009, .. }) = &error else {
            anyhow::bail!("{error}")
        };
        for part in [format!("{pool:?}"), "set table_size = 251".to_owned(), "sluice cleanup".to_owned()] {
            ensure!(error.to_string().contains(&part), "{error}");
        }
        ensure!(looked.is_err_and(|looked| looked.to_string() == error.to_string()));
        ensure!(left.fixture.pins()? == before, "{before:#?}, then {:#?}", left.fixture.pins()?);
    }
    left.is_whole()?;
    // Another listen address has a table of its own.
    open("new", "192.0.2.11:80", 1009)?.1?;
    open("old", "192.0.2.10:80", 251)?.1?;
    left.is_whole()
}

/// A new one would be empty, and the one that the programs use lost.
#[test]
fn a_map_that_an_attached_program_has_and_nobody_finds_is_refused() -> Result<()> {
    let left = Left::new("missing")?;
    for name in ["FLOWS", "HANDSHAKES", "SEED", "RARE_TC"] {
        let error = left.without(name, None)?;
        let KernelError::MissingMap { path, link } = &error else { anyhow::bail!("{name}: {error}") };
        ensure!(*path == left.pin(name) && link.starts_with(left.fixture.dir().join("links")), "{error}");
    }
    left.is_whole()
}

/// Neither the pins nor what they hold tell an earlier daemon's programs of a build that the kernel does not take.
#[test]
fn a_build_that_the_kernel_refuses_leaves_everything_as_it_was() -> Result<()> {
    let left = Left::new("refused")?;
    let before = left.fixture.pins()?;
    let mut object = left.fixture.object.clone();
    // The last program that is verified for tc begins with an instruction that there is not.
    let start = object::code(&object, names::PROGRAM_TC_RARE)?.start;
    *object.get_mut(start).context("beyond the file")? = 0xff;
    let (dir, backends) = (left.fixture.dir(), limits::BACKENDS);
    let settings = Settings {
        bpf_dir: &dir,
        flows: 1024,
        backends,
        hash_seed: None,
        tables: TableSizes::default(),
        object: &object,
    };
    let error = KernelPlane::open(&settings).err().context("it was accepted")?;
    ensure!(matches!(error, KernelError::Program { program: names::PROGRAM_TC_RARE, .. }), "{error}");
    ensure!(left.fixture.pins()? == before, "{before:#?}, then {:#?}", left.fixture.pins()?);
    left.is_whole()
}
