//! What happens, drawn from the seed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_common::SocketKey;
use lb_common::ticks::SECOND;
use lb_userspace::controller::request::BackendChange;
use lb_userspace::data_plane::kernel::{KernelState, KernelTables as _};
use lb_userspace::data_plane::recorder::KernelRecorder;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::harness::{A, B, C, WEB, World, address, hop};
use super::network::Network;
use super::watcher::{Faults, Watcher};

/// Nothing bad happens to this one: it stays in the config, healthy and reachable.
const SURVIVOR: &str = A;
/// Idle time-out of the configs, in seconds.
const IDLE: u32 = 20;
/// Of [`lb_userspace::config`]: that of handshakes.
const HALF_OPEN: u32 = 5;

struct Driver {
    random: StdRng,
    world: World,
    watcher: Arc<Mutex<Watcher>>,
    network: Network,
    config: String,
    /// Whether old flows are cut one after another: then an id outlives those that are cut.
    spreads: bool,
    healthy: BTreeMap<SocketAddr, bool>,
}

fn configs(spreads: bool) -> Vec<String> {
    let spread = if spreads { "drain_spread = \"3s\"" } else { "drain_spread = \"0s\"" };
    let web = WEB.replace("drain_spread = \"0s\"", spread);
    let web = web.replace("\"30s\"", "\"4s\"").replace("\"10s\"", "\"2s\"");
    let web =
        web.replace("established = \"1h\"", &format!("established = \"{IDLE}s\", closing = \"{IDLE}s\""));
    let without = web.replace("    { address = \"10.0.0.3:80\" },\n", "");
    let weighted = web.replace("{ address = \"10.0.0.2:80\" }", "{ address = \"10.0.0.2:80\", weight = 7 }");
    let emptied = web.replace("{ address = \"10.0.0.2:80\" }", "{ address = \"10.0.0.2:80\", weight = 0 }");
    let more = web.replace("backend = [\n", "backend = [\n    { address = \"10.0.0.4:80\" },\n");
    let graceless = web.replace("\"2s\"", "\"0s\"");
    let proxied = web.replace("table_size", "scheduler = \"round_robin\"\ntable_size");
    vec![web, without, weighted, emptied, more, graceless, proxied]
}

/// Lives through so many steps; what happened how often.
pub async fn run(seed: u64, steps: u64) -> BTreeMap<&'static str, u64> {
    let mut random = StdRng::seed_from_u64(seed);
    let kernel = KernelRecorder::new(KernelState::default());
    let watcher = Arc::new(Mutex::new(Watcher::new(random.random(), vec![address(SURVIVOR)])));
    Watcher::watch(&watcher, &kernel);
    let spreads = seed % 4 >= 2;
    let config = configs(spreads)[0].clone();
    let world = World::with(&config, kernel).unwrap();
    // In every other run flows find no room to be remembered.
    let capacity = if seed.is_multiple_of(2) { 64 } else { 6 };
    let network =
        Network::new(StdRng::seed_from_u64(random.random()), IDLE * SECOND, HALF_OPEN * SECOND, capacity);
    let mut driver = Driver { random, world, watcher, network, config, spreads, healthy: BTreeMap::new() };
    driver.check_all().await;
    driver.settle().await;
    for _ in 0..steps {
        driver.step().await;
    }
    let Driver { world, mut network, watcher, .. } = driver;
    world.stop().await;
    network.tally.insert("refused", watcher.lock().unwrap().refusals);
    network.tally
}

impl Driver {
    async fn step(&mut self) {
        match self.random.random_range(0..1000) {
            0..880 => return self.traffic(),
            880..910 => self.check().await,
            910..934 => self.request().await,
            934..939 => self.reload().await,
            939..947 => self.move_facts(),
            947..951 => self.die().await,
            951..960 => self.fail_for_a_while().await,
            960..992 => {
                let time = self.random.random_range(0..1500);
                self.pass(Duration::from_millis(time)).await;
            }
            992..998 => self.pass(Duration::from_secs(5)).await,
            _ => self.lull().await,
        }
        self.rest().await;
        self.look();
        if self.random.random_ratio(1, 4) {
            self.settle().await;
        }
    }

    /// Until the controller waits: the clock stands still while it works.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Packets, with the clock standing still and the controller asleep.
    fn traffic(&mut self) {
        self.look();
        let watcher = self.watcher.lock().unwrap();
        self.network.step(&watcher.cut);
        drop(watcher);
        self.tell();
    }

    /// Takes in what the controller wrote since the last look, with packets between the writes.
    fn look(&mut self) {
        self.network.model.now.set(self.world.kernel.now());
        let mut watcher = self.watcher.lock().unwrap();
        let swept = std::mem::take(&mut watcher.swept);
        let writes = std::mem::take(&mut watcher.writes);
        self.network.forget(&swept);
        // What builds on something read has not seen packets that came after it was read.
        let reads = writes.iter().rposition(|write| write.builds_on_a_read).map_or(0, |last| last + 1);
        let chatty = self.random.random_ratio(1, 2);
        for (number, write) in writes.iter().enumerate() {
            if number >= reads && chatty {
                self.network.step(&watcher.cut);
                self.network.count("between writes");
            }
            self.network.apply(&write.action);
        }
        if !writes.is_empty() && chatty {
            self.network.all_speak(&watcher.cut);
        }
        watcher.entries = self.network.entries();
        drop(watcher);
        self.tell();
    }

    /// The maps as the programs have left them.
    fn tell(&mut self) {
        self.watcher.lock().unwrap().entries = self.network.entries();
        for (table, slot) in self.network.take_stamps() {
            self.world.kernel.stamp(table, slot);
        }
    }

    async fn pass(&mut self, time: Duration) {
        self.world.pass(time).await;
        self.rest().await;
        self.network.count("time");
    }

    /// Long enough for slots to settle, while flows speak or are silent.
    async fn lull(&mut self) {
        let speak = self.random.random();
        for _ in 0..IDLE {
            self.pass(Duration::from_secs(2)).await;
            self.look();
            if speak {
                let watcher = self.watcher.lock().unwrap();
                self.network.all_speak(&watcher.cut);
                drop(watcher);
                self.tell();
            }
        }
        self.network.count("lull");
    }

    /// A health check.
    async fn check(&mut self) {
        let backend = address([SURVIVOR, B, C, "10.0.0.4:80"].choose(&mut self.random).unwrap());
        let up = backend == address(SURVIVOR) || self.random.random_ratio(2, 3);
        self.healthy.insert(backend, up);
        self.world.observe("web", backend, up).await;
        self.network.count("checked");
    }

    /// The first checks of a daemon.
    async fn check_all(&self) {
        let targets = self.world.targets.borrow().clone();
        for target in targets.iter() {
            let up = self.healthy.get(&target.address).copied().unwrap_or(true);
            self.world.observe("web", target.address, up).await;
        }
    }

    /// An operator.
    async fn request(&mut self) {
        let others = [B, C, "10.0.0.4:80"];
        let weight = self.random.random_range(0..3) * 50;
        let (backend, change) = match self.random.random_range(0..6) {
            0 => (SURVIVOR, BackendChange::Weight { weight }),
            1 => (*others.choose(&mut self.random).unwrap(), BackendChange::Put { weight }),
            2 => (*others.choose(&mut self.random).unwrap(), BackendChange::Weight { weight }),
            3 => (*others.choose(&mut self.random).unwrap(), BackendChange::Drain),
            4 => (*others.choose(&mut self.random).unwrap(), BackendChange::Undrain),
            _ => {
                let now = self.random.random();
                (*others.choose(&mut self.random).unwrap(), BackendChange::Remove { now })
            }
        };
        // Refused where the backend is not there, or by the planes.
        let _ = self.world.handle.backend("web".into(), address(backend), change).await;
        self.network.count("asked");
    }

    async fn reload(&mut self) {
        self.config = configs(self.spreads).choose(&mut self.random).unwrap().clone();
        self.world.set_config(&self.config);
        let _ = self.world.handle.reload().await;
        self.network.count("reloaded");
    }

    /// A neighbour goes or comes, moves to another interface, or has another MAC address.
    fn move_facts(&mut self) {
        let choice = self.random.random_range(0..4);
        let backend = match choice {
            0 | 1 => *[B, C].choose(&mut self.random).unwrap(),
            _ => SURVIVOR,
        };
        let ip = address(backend).ip();
        self.world.facts.send_modify(|facts| {
            match choice {
                0 => drop((facts.hops.remove(&ip), facts.lost.insert(ip))),
                1 => drop((facts.hops.insert(ip, hop(2)), facts.lost.remove(&ip))),
                2 => drop(facts.hops.insert(ip, hop(3))),
                _ => drop(facts.hops.insert(ip, hop(2))),
            };
        });
        self.network.count("facts moved");
    }

    /// The daemon dies between two writes, and the next one takes over.
    async fn die(&mut self) {
        let left = self.random.random_range(0..6);
        self.watcher.lock().unwrap().faults = Faults::DeathAfter(left);
        match self.random.random_range(0..3) {
            0 => self.check().await,
            1 => self.request().await,
            _ => self.reload().await,
        }
        self.pass(Duration::from_millis(500)).await;
        self.look();
        // Nobody writes for a while.
        for _ in 0..self.random.random_range(0..12) {
            self.pass(Duration::from_secs(2)).await;
            self.look();
            let watcher = self.watcher.lock().unwrap();
            self.network.all_speak(&watcher.cut);
            drop(watcher);
            self.tell();
        }
        let facts = self.world.facts.borrow().clone();
        let kernel = self.world.kernel.clone();
        let world = World::with(&self.config, kernel);
        let Ok(world) = world else { return self.watcher.lock().unwrap().faults = Faults::None };
        std::mem::replace(&mut self.world, world).stop().await;
        self.watcher.lock().unwrap().forget();
        self.world.facts.send_replace(facts);
        self.check_all().await;
        self.network.count("died");
    }

    async fn fail_for_a_while(&mut self) {
        self.watcher.lock().unwrap().faults = Faults::Some;
        for _ in 0..self.random.random_range(1..5) {
            match self.random.random_range(0..5) {
                0 | 1 => self.check().await,
                2 | 3 => self.request().await,
                _ => self.pass(Duration::from_secs(1)).await,
            }
            self.rest().await;
            self.look();
        }
        self.watcher.lock().unwrap().faults = Faults::None;
    }

    /// Lets everything be applied, and compares with what should be.
    async fn settle(&mut self) {
        self.world.done().await;
        self.rest().await;
        self.look();
        let pool = self.world.pool("web").await;
        let state = self.world.kernel.state();
        let given_up = {
            let mut watcher = self.watcher.lock().unwrap();
            assert_eq!(state, watcher.state, "the maps are not what was written");
            std::mem::take(&mut watcher.given_up)
        };
        for id in given_up {
            let backend = state.backends.get(&id.index());
            let is_gone = backend.is_none_or(|backend| backend.id != id);
            assert!(is_gone || self.spreads, "{id:?} lost its old flows but goes on");
        }
        if state.services.is_empty() {
            assert!(state.backends.is_empty() && state.tables.is_empty() && state.endpoints.is_empty());
            return;
        }
        let table = state.services[&SocketKey::new(address("192.0.2.10:80"), 6)].table;
        let slots = &state.tables[&table];
        for backend in &pool.backends {
            let id = self.world.kernel.id_of(backend.address);
            let current = slots.iter().filter(|slot| Some(slot.current()) == id).count() as u64;
            assert_eq!(backend.slots, current, "{backend:?}");
            assert_eq!(backend.effective_weight > 0, current > 0, "{backend:?}");
        }
        let known: Vec<_> = pool.backends.iter().map(|backend| backend.address).collect();
        let leaving: Vec<_> = pool.leaving.iter().map(|leaving| leaving.address).collect();
        for backend in state.backends.values() {
            let at = SocketAddr::new(backend.address.ip(), backend.port.get());
            assert!(known.contains(&at) || leaving.contains(&at), "{at} is in no pool any more");
        }
        self.network.count("as desired");
    }
}
