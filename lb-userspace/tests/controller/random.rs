//! Random events, planes that refuse at random, and daemons that die: after every single action the maps are
//! valid, and when everything has been applied they say what they should.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_common::{BackendId, Slot};
use lb_userspace::controller::request::BackendChange;
use lb_userspace::data_plane::kernel::{KernelAction, KernelState};
use lb_userspace::data_plane::recorder::KernelRecorder;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::harness::{A, B, C, WEB, World, address};

const SEEDS: u64 = 50;
const STEPS: usize = 30;

/// Sees every action before the maps do.
struct Watcher {
    random: StdRng,
    state: KernelState,
    /// Whose an id was; never another's while this daemon runs.
    owners: HashMap<BackendId, SocketAddr>,
    /// Fallbacks that were given up although nothing had settled.
    cut: Vec<BackendId>,
    spreads: bool,
    refuses: bool,
}

impl Watcher {
    /// Checks an action; whether it fails.
    fn see(&mut self, action: &KernelAction) -> bool {
        if self.refuses && self.random.random_ratio(1, 4) {
            return true;
        }
        if let KernelAction::SwapTable { table, slots } = action
            && let Some(old) = self.state.tables.get(table).cloned()
        {
            for (old, new) in old.into_iter().zip(slots) {
                self.check_slot(old, *new);
            }
        }
        if let KernelAction::PutBackend { index, backend } = action {
            let old = self.state.backends.get(index).map(|old| old.id);
            assert!(
                old.is_none() || !backend.id.is_some() || old == Some(backend.id),
                "{action:?} over {old:?}"
            );
            if backend.id.is_some() {
                let at = SocketAddr::new(backend.address.ip(), backend.port.get());
                assert_eq!(*self.owners.entry(backend.id).or_insert(at), at, "an id of two backends");
            }
        }
        self.state.record(action);
        self.check_state(action);
        false
    }

    fn check_slot(&mut self, old: Slot, new: Slot) {
        assert!(new.is_tracked() || new.current() == new.fallback());
        let fallback = old.fallback();
        if new.fallback() != fallback && fallback.is_some() {
            assert_eq!(new.fallback(), new.current());
            if !(self.spreads || old.is_settling() && old.current() == new.current()) {
                self.cut.push(fallback);
            }
        }
        if old.is_tracked() && !new.is_tracked() {
            assert_eq!((old.current(), old.fallback()), (new.current(), new.fallback()));
        }
        if !old.is_tracked() && old.current() != new.current() && new.fallback() == old.current() {
            assert!(new.is_tracked());
        }
    }

    fn check_state(&self, action: &KernelAction) {
        let lives = |id: BackendId| {
            !id.is_some() || self.state.backends.get(&id.index()).is_some_and(|backend| backend.id == id)
        };
        for slot in self.state.tables.values().flatten() {
            assert!(lives(slot.current()) && lives(slot.fallback()), "{action:?}: a slot names the dead");
        }
        for endpoint in self.state.endpoints.values() {
            assert!(lives(endpoint.backend), "{action:?}: an endpoint names the dead");
            assert!(self.state.tables.contains_key(&endpoint.service.table), "{action:?}: no such table");
        }
        for service in self.state.services.values().filter(|service| service.flags == 0) {
            let slots = self.state.tables.get(&service.table).unwrap();
            for id in slots.iter().map(|slot| slot.current()).filter(|id| id.is_some()) {
                let answers = self.state.endpoints.values().any(|endpoint| endpoint.backend == id);
                assert!(answers, "{action:?}: replies of {id:?} are not translated");
            }
        }
    }
}

fn configs() -> Vec<String> {
    let web = WEB.replace("\"30s\"", "\"4s\"").replace("\"10s\"", "\"2s\"");
    let without = web.replace("    { address = \"10.0.0.3:80\" },\n", "");
    let weighted = web.replace("{ address = \"10.0.0.2:80\" }", "{ address = \"10.0.0.2:80\", weight = 7 }");
    let proxied = web.replace("table_size", "scheduler = \"round_robin\"\ntable_size");
    let brief = web.replace("established = \"1h\"", "established = \"3s\"").replace("\"2s\"", "\"0s\"");
    vec![web, without, weighted, proxied, brief]
}

async fn run(seed: u64) {
    // Where old flows are cut one after another, an id outlives those that are cut.
    let spreads = seed % 2 == 1;
    let mut random = StdRng::seed_from_u64(seed);
    let kernel = KernelRecorder::new(KernelState::default());
    let watcher = Arc::new(Mutex::new(Watcher {
        random: StdRng::seed_from_u64(seed),
        state: KernelState::default(),
        owners: HashMap::new(),
        cut: Vec::new(),
        spreads,
        refuses: false,
    }));
    let sees = watcher.clone();
    kernel.fail(move |action| sees.lock().unwrap().see(action));

    let spread = |config: String| config.replace("drain_spread = \"0s\"", "drain_spread = \"3s\"");
    let configs: Vec<_> =
        configs().into_iter().map(|text| if spreads { spread(text) } else { text }).collect();
    let mut config = configs[0].clone();
    let mut world = World::with(&config, kernel).unwrap();
    let backends = [A, B, C, "10.0.0.4:80"];
    for _ in 0..STEPS {
        let backend = address(backends.choose(&mut random).unwrap());
        let change = [
            BackendChange::Put { weight: random.random_range(0..3) * 50 },
            BackendChange::Remove { now: random.random() },
            BackendChange::Drain,
            BackendChange::Undrain,
            BackendChange::Weight { weight: random.random_range(0..3) * 50 },
        ];
        let refuses = random.random_ratio(1, 4);
        watcher.lock().unwrap().refuses = refuses;
        match random.random_range(0..10) {
            0..=3 => world.observe("web", backend, random.random()).await,
            4..=6 => {
                // Refused where the backend is not there, or by the planes.
                let _ =
                    world.handle.backend("web".into(), backend, *change.choose(&mut random).unwrap()).await;
            }
            7 => {
                config = configs.choose(&mut random).unwrap().clone();
                world.set_config(&config);
                let _ = world.handle.reload().await;
            }
            8 => world.pass(Duration::from_millis(random.random_range(0..6000))).await,
            _ => {
                let kernel = world.stop().await;
                {
                    let mut watcher = watcher.lock().unwrap();
                    let named: Vec<_> = watcher.state.backends.values().map(|backend| backend.id).collect();
                    watcher.owners.retain(|id, _| named.contains(id));
                    // An id that is not retired yet may go on: nobody remembers that it was to be.
                    watcher.cut.clear();
                }
                world = World::with(&config, kernel).unwrap();
                world.all_up().await;
            }
        }
        if random.random_ratio(1, 2) {
            watcher.lock().unwrap().refuses = false;
            world.done().await;
            check_applied(&world, &watcher).await;
        }
    }
    world.stop().await;
}

/// With everything applied: new flows go to the backends of positive weight, and who was cut is gone.
async fn check_applied(world: &World, watcher: &Mutex<Watcher>) {
    let pool = world.pool("web").await;
    let state = world.kernel.state();
    let mut watcher = watcher.lock().unwrap();
    assert_eq!(state, watcher.state);
    for id in std::mem::take(&mut watcher.cut) {
        let backend = state.backends.get(&id.index());
        assert!(backend.is_none_or(|backend| backend.id != id), "{id:?} lost its old flows but goes on");
    }
    if state.services.is_empty() {
        assert!(state.backends.is_empty() && state.tables.is_empty() && state.endpoints.is_empty());
        return;
    }
    let slots = world.web();
    for backend in &pool.backends {
        let id = world.kernel.id_of(backend.address);
        let current = slots.iter().filter(|slot| Some(slot.current()) == id).count() as u64;
        assert_eq!(backend.slots, current);
        assert_eq!(backend.effective_weight > 0, current > 0, "{backend:?}");
    }
    let known: Vec<_> = pool.backends.iter().map(|backend| backend.address).collect();
    let leaving: Vec<_> = pool.leaving.iter().map(|leaving| leaving.address).collect();
    for backend in state.backends.values() {
        let at = SocketAddr::new(backend.address.ip(), backend.port.get());
        assert!(known.contains(&at) || leaving.contains(&at), "{at} is in no pool any more");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_maps_are_valid() {
    for seed in 0..SEEDS {
        let task = tokio::spawn(run(seed));
        assert!(task.await.is_ok(), "seed {seed}");
    }
}
