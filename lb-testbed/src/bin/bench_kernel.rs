//! In-kernel nanoseconds per packet: `cargo xtask bench kernel`.
//!
//! A runner program puts the frame back (and makes it another flow), then tail-calls the program under test;
//! what the runner costs with a program that does nothing is subtracted. All cases run in every round, so
//! that drift of the clock meets all alike. The unit is F, a floor program measured in the same rounds.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::programs::XdpAttachType;
use clap::Parser;
use lb_common::address::TCP;
use lb_common::{Flow, Slot, SocketKey};
use lb_testbed::cases::{client, client6};
use lb_testbed::loaded::{Hook, Loaded};
use lb_testbed::machine::Machine;
use lb_testbed::median::Median;
use lb_testbed::segment::{ACK, SYN, Tcp};
use lb_testbed::world::{ESTABLISHED, Web, World};
use serde::Serialize;

/// Slots of the benchmark's tables, as by default.
const SLOTS: u32 = 65537;
/// Flows that no cache of the CPU holds.
const MANY: u32 = 1 << 17;

/// Measures what each packet costs in the kernel.
#[derive(Parser)]
#[command(name = "cargo xtask bench kernel")]
struct Arguments {
    /// Fewer rounds of fewer packets
    #[arg(long)]
    short: bool,
    /// Only cases that have this word in their row
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// What the runner does before each run: as in the kernel half.
#[repr(C)]
#[derive(Clone, Copy)]
struct Plan {
    frame: [u64; 12],
    length: u32,
    address_at: u32,
    port_at: u32,
    mask: u32,
    counter: u32,
    padding: u32,
}

/// One thing to measure.
#[derive(Clone, Debug, Serialize)]
struct Row {
    case: &'static str,
    plane: &'static str,
    forward: &'static str,
    family: &'static str,
    protocol: &'static str,
    flows: u32,
    slots: &'static str,
    /// Net of the runner.
    ns: f64,
    /// `ns` over the floor's.
    f: f64,
    /// Least and greatest of the rounds, in nanoseconds.
    spread: (f64, f64),
    #[serde(skip)]
    frame: Vec<u8>,
    #[serde(skip)]
    rounds: Vec<f64>,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    rounds: usize,
    iterations: u32,
    floor_ns: Median,
    cases: Vec<Row>,
}

impl Row {
    /// What `--only` looks at.
    fn words(&self) -> [&str; 6] {
        let flows = if self.flows == 1 { "one" } else { "many" };
        [self.case, self.plane, self.family, self.protocol, self.slots, flows]
    }
}

struct Bench {
    loaded: Loaded,
    runner: Ebpf,
    iterations: u32,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (rounds, iterations) = if arguments.short { (3, 100_000) } else { (9, 1_000_000) };
    let mut rows = rows();
    rows.retain(|row| arguments.only.iter().all(|word| row.words().contains(&word.as_str())));
    ensure!(!rows.is_empty(), "no case has {:?}", arguments.only);
    let report = Bench::new(iterations)?.report(rounds, rows)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&report);
    }
    Ok(())
}

impl Bench {
    fn new(iterations: u32) -> Result<Self> {
        rustix::thread::sched_setaffinity(None, &{
            let mut cpus = rustix::thread::CpuSet::new();
            cpus.set(1.min(std::thread::available_parallelism()?.get() - 1));
            cpus
        })?;
        let mut loaded = Loaded::new()?;
        let now = loaded.now();
        loaded.become_world(&world(), now)?;
        let path = std::env::var_os("SLUICE_BENCH_OBJECT").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/bench.o"),
            PathBuf::from,
        );
        let object = fs::read(&path)
            .with_context(|| format!("{} (cure: cargo xtask bench kernel)", path.display()))?;
        let mut runner = EbpfLoader::new().load(&object)?;
        for name in ["runner_xdp", "null_xdp", "grow_xdp", "floor_xdp"] {
            let program: &mut Xdp = runner.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        for name in ["runner_tc", "null_tc"] {
            let program: &mut SchedClassifier = runner.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        let mut services: HashMap<_, SocketKey, u32> =
            HashMap::try_from(runner.map_mut("FLOOR_SERVICES").context("FLOOR_SERVICES")?)?;
        services.insert(SocketKey::new(Web::V4.vip(), TCP), 1, 0)?;
        Ok(Self { loaded, runner, iterations })
    }

    fn report(mut self, rounds: usize, mut rows: Vec<Row>) -> Result<Report> {
        let mut floors = Vec::new();
        for _ in 0..rounds {
            // The floor in its own frame: what encapsulates must be undone, which costs the runner half of
            // what growing and shrinking cost together.
            let frame = Tcp::new(client(), Web::V4.vip(), ACK).frame();
            let null = self.measure(Hook::Xdp, Program::Own("null_xdp"), &frame, 1)?;
            let grow = self.measure(Hook::Xdp, Program::Own("grow_xdp"), &frame, 1)?;
            let floor = self.measure(Hook::Xdp, Program::Own("floor_xdp"), &frame, 1)?;
            floors.push(floor - null - (grow - null) / 2.0);
            for row in &mut rows {
                let hook = if row.plane == "xdp" { Hook::Xdp } else { Hook::Tc };
                let null = match hook {
                    Hook::Xdp => "null_xdp",
                    Hook::Tc => "null_tc",
                };
                let base = self.measure(hook, Program::Own(null), &row.frame, row.flows)?;
                let whole = self.measure(hook, Program::Sluice, &row.frame, row.flows)?;
                row.rounds.push(whole - base);
            }
        }
        let floor = Median::of(&floors);
        for row in &mut rows {
            let ns = Median::of(&row.rounds);
            (row.ns, row.f, row.spread) = (ns.median, ns.median / floor.median, (ns.min, ns.max));
        }
        let iterations = self.iterations;
        Ok(Report { machine: Machine::read()?, rounds, iterations, floor_ns: floor, cases: rows })
    }

    /// Nanoseconds per run, the runner's part included.
    fn measure(&mut self, hook: Hook, program: Program, frame: &[u8], flows: u32) -> Result<f64> {
        let fd = self.fd(hook, program)?;
        let (array, runner) = match hook {
            Hook::Xdp => ("NEXT_XDP", "runner_xdp"),
            Hook::Tc => ("NEXT_TC", "runner_tc"),
        };
        ProgramArray::try_from(self.runner.map_mut(array).context(array)?)?.set(0, &fd, 0)?;
        let mut plans: Array<_, [u8; size_of::<Plan>()]> =
            Array::try_from(self.runner.map_mut("PLAN").context("PLAN")?)?;
        plans.set(0, plan(frame, flows), 0)?;
        let mut out = vec![0; frame.len() + 256];
        let mut run = |repeat| {
            let options = TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                repeat,
                ..Default::default()
            };
            match hook {
                Hook::Xdp => {
                    let program: &Xdp = self.runner.program(runner).context(runner)?.try_into()?;
                    anyhow::Ok(program.test_run(options)?)
                }
                Hook::Tc => {
                    let program: &SchedClassifier =
                        self.runner.program(runner).context(runner)?.try_into()?;
                    Ok(program.test_run(options)?)
                }
            }
        };
        run(self.iterations / 10)?;
        let result = run(self.iterations)?;
        let aborted = match hook {
            Hook::Xdp => 0,
            Hook::Tc => 2,
        };
        ensure!(result.return_value != aborted, "{program:?} was not reached, or dropped the packet");
        Ok(result.duration.as_nanos() as f64)
    }

    fn fd(&self, hook: Hook, program: Program) -> Result<ProgramFd> {
        Ok(match (program, hook) {
            (Program::Own(name), _) => self.runner.program(name).context(name)?.fd()?.try_clone()?,
            (Program::Sluice, Hook::Xdp) => {
                Xdp::from_pin(self.loaded.program(hook), XdpAttachType::Interface)?.fd()?.try_clone()?
            }
            (Program::Sluice, Hook::Tc) => {
                SchedClassifier::from_pin(self.loaded.program(hook))?.fd()?.try_clone()?
            }
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Program {
    Own(&'static str),
    Sluice,
}

/// The packet table's world with one backend a service, one interface, and tables of the usual size.
fn world() -> World {
    let mut world = World::new();
    for web in [Web::V4, Web::V6] {
        let slots = vec![Slot::stable(web.backends()[0]); SLOTS as usize];
        world.state.tables.insert(web as u32, slots);
    }
    for service in world.state.services.values_mut().filter(|service| service.table <= Web::V6 as u32) {
        service.slots = SLOTS;
    }
    for endpoint in world.state.endpoints.values_mut().filter(|endpoint| endpoint.service.table <= 2) {
        endpoint.service.slots = SLOTS;
    }
    for backend in world.state.backends.values_mut() {
        backend.hop.ifindex = 1;
    }
    for hop in world.state.routes.values_mut() {
        hop.ifindex = 1;
    }
    let web = Web::Tracked;
    let flow = Flow {
        backend: web.new_backend(),
        slot: 0,
        table: web as u32,
        seq: 1000,
        expires: ESTABLISHED,
        closing: 0,
    };
    world.flows.push((web.flow_key(client()), flow));
    world
}

fn rows() -> Vec<Row> {
    let other: SocketAddr = SocketAddr::from(([192, 0, 2, 199], 80));
    let other6: SocketAddr = "[2001:db8::199]:80".parse().unwrap_or(other);
    let reply = Tcp::new(Web::V4.endpoint(Web::V4.backends()[0]), client(), ACK).frame();
    let reply6 = Tcp::new(Web::V6.endpoint(Web::V6.backends()[0]), client6(), ACK).frame();
    let v4 = |to, flags| Tcp::new(client(), to, flags).frame();
    let v6 = |to, flags| Tcp::new(client6(), to, flags).frame();
    let mut rows = Vec::new();
    for plane in ["xdp", "tc"] {
        let mut add = |case, family, slots, flows, frame: Vec<u8>| {
            rows.push(Row {
                case,
                plane,
                forward: if case == "not a service" { "pass" } else { "nat" },
                family,
                protocol: "tcp",
                flows,
                slots,
                ns: 0.0,
                f: 0.0,
                spread: (0.0, 0.0),
                frame,
                rounds: Vec::new(),
            });
        };
        add("not a service", "ipv4", "-", 1, v4(other, ACK));
        add("not a service", "ipv6", "-", 1, v6(other6, ACK));
        add("established", "ipv4", "stable", 1, v4(Web::V4.vip(), ACK));
        add("established", "ipv4", "stable", MANY, v4(Web::V4.vip(), ACK));
        add("SYN", "ipv4", "stable", 1, v4(Web::V4.vip(), SYN));
        add("SYN", "ipv4", "stable", MANY, v4(Web::V4.vip(), SYN));
        add("reply", "ipv4", "stable", 1, reply.clone());
        add("reply", "ipv4", "stable", MANY, reply.clone());
        add("established", "ipv6", "stable", 1, v6(Web::V6.vip(), ACK));
        add("reply", "ipv6", "stable", 1, reply6.clone());
        add("established", "ipv4", "tracked", 1, v4(Web::Tracked.vip(), ACK));
    }
    rows
}

/// The plan that puts `frame` back and makes it one of `flows` flows.
fn plan(frame: &[u8], flows: u32) -> [u8; size_of::<Plan>()] {
    // Where the client's half-word of address and its port lie in an IPv4 frame.
    let is_reply = frame.get(34..36) == Some(&8080_u16.to_be_bytes()[..]);
    let (address_at, port_at): (u32, u32) = match (flows, is_reply) {
        (1, _) => (0, 0),
        (_, false) => (28, 34),
        (_, true) => (32, 36),
    };
    let mut bytes = [0; size_of::<Plan>()];
    let head = frame.len().min(96);
    bytes[..head].copy_from_slice(&frame[..head]);
    let numbers = [frame.len() as u32, address_at, port_at, flows - 1, 0, 0];
    for (place, number) in bytes[96..].chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

fn print_table(report: &Report) {
    println!("{}; {} rounds of {} packets", report.machine, report.rounds, report.iterations);
    let floor = report.floor_ns;
    println!("floor F: {:.0} ns ({:.0} to {:.0})\n", floor.median, floor.min, floor.max);
    println!(
        "{:<14} {:<4} {:<5} {:<8} {:>7} {:>6} {:>15} {:>6}",
        "case", "plane", "IP", "slots", "flows", "ns", "(min to max)", "F"
    );
    for row in &report.cases {
        let spread = format!("({:.0} to {:.0})", row.spread.0, row.spread.1);
        println!(
            "{:<14} {:<5} {:<5} {:<8} {:>6} {:>6.0} {:>15} {:>6.2}",
            row.case, row.plane, row.family, row.slots, row.flows, row.ns, spread, row.f
        );
    }
}
