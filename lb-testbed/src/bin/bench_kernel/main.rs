//! In-kernel nanoseconds per packet: `cargo xtask bench kernel`.
//!
//! A runner program puts the frame back (and makes it another flow), then tail-calls the program under test;
//! what the runner costs with a program that does nothing is subtracted. All cases run in every round, so
//! that drift of the clock meets all alike. The unit is F, a floor program measured in the same rounds.

mod rows;

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::programs::XdpAttachType;
use clap::Parser;
use lb_common::SocketKey;
use lb_common::address::TCP;
use lb_ebpf::host::Frame;
use lb_ebpf::process;
use lb_testbed::cases::client;
use lb_testbed::loaded::{Hook, Loaded};
use lb_testbed::machine::Machine;
use lb_testbed::median::Median;
use lb_testbed::segment::{ACK, Tcp};
use lb_testbed::world::{Web, World};
use serde::Serialize;

use crate::rows::{Plane, Row};

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

/// The document of `--json`.
#[derive(Serialize)]
struct Report {
    kernel: String,
    cpu: String,
    floor_ns: f64,
    cases: Vec<Row>,
    #[serde(skip)]
    floor: Median,
}

struct Bench {
    loaded: Loaded,
    world: World,
    runner: Ebpf,
    iterations: u32,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (rounds, iterations) = if arguments.short { (3, 100_000) } else { (9, 1_000_000) };
    let mut rows = rows::rows();
    rows.retain(|row| arguments.only.iter().all(|word| row.words().contains(&word.as_str())));
    ensure!(!rows.is_empty(), "no case has {:?}", arguments.only);
    let report = Bench::new(iterations)?.report(rounds, rows)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&report, rounds, iterations);
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
        let world = rows::world();
        loaded.become_world(&world, now)?;
        // As in a daemon that has run for a moment: new endpoints are hinted to have exact entries until a sweep has looked.
        loaded.sweep_exact(now)?;
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
        Ok(Self { loaded, world, runner, iterations })
    }

    fn report(mut self, rounds: usize, mut rows: Vec<Row>) -> Result<Report> {
        let mut floors = Vec::new();
        for _ in 0..rounds {
            // The floor in its own frame: what encapsulates must be undone, which costs the runner half of
            // what growing and shrinking cost together.
            let frame = Tcp::new(client(), Web::V4.vip(), ACK).frame();
            let one = Input { frame: &frame, flows: 1, varying: (0, 0) };
            let null = self.measure(Hook::Xdp, Program::Own("null_xdp"), &one)?.ns;
            let grow = self.measure(Hook::Xdp, Program::Own("grow_xdp"), &one)?.ns;
            let floor = self.measure(Hook::Xdp, Program::Own("floor_xdp"), &one)?.ns;
            floors.push(floor - null - (grow - null) / 2.0);
            for row in &mut rows {
                let hook = row.hook.into();
                let null = match hook {
                    Hook::Xdp => "null_xdp",
                    Hook::Tc => "null_tc",
                };
                let input = Input { frame: &row.frame, flows: row.flows, varying: row.varying() };
                let base = self.measure(hook, Program::Own(null), &input)?;
                let whole = self.measure(hook, Program::Sluice, &input)?;
                ensure!(whole.action == row.action(), "{:?}: action {}", row.words(), whole.action);
                row.rounds.push(whole.ns - base.ns);
            }
        }
        let floor = Median::of(&floors);
        for row in &mut rows {
            let ns = Median::of(&row.rounds);
            (row.ns, row.f, row.spread) = (ns.median, ns.median / floor.median, (ns.min, ns.max));
            row.instructions = self.instructions(row.hook.into())?;
            row.host = self.host(row);
        }
        let machine = Machine::read()?;
        Ok(Report { kernel: machine.kernel, cpu: machine.cpu, floor_ns: floor.median, cases: rows, floor })
    }

    /// Instructions of a program as the verifier left them.
    fn instructions(&self, hook: Hook) -> Result<u32> {
        let path = self.loaded.program(hook);
        let info = match hook {
            Hook::Xdp => Xdp::from_pin(path, XdpAttachType::Interface)?.info(),
            Hook::Tc => SchedClassifier::from_pin(path)?.info(),
        }?;
        Ok(info.size_translated().unwrap_or_default() / 8)
    }

    /// The same walk, built for the host, over the model of the maps; for one flow, where the model is small.
    fn host(&self, row: &Row) -> Option<f64> {
        if row.flows > 1 || row.hook == Plane::Tc {
            return None;
        }
        let mut world = World { state: self.world.state.clone(), ..World::default() };
        world.flows.extend(self.world.flows.last().copied());
        world.half_open.clone_from(&self.world.half_open);
        let (model, frame) = (world.model(1), Frame::new(&row.frame));
        let runs = self.iterations / 10;
        let time = |walk: &dyn Fn(&mut Frame)| {
            let start = Instant::now();
            for _ in 0..runs {
                walk(black_box(&mut frame.clone()));
            }
            start.elapsed().as_nanos() as f64 / f64::from(runs)
        };
        let base = time(&|_| ());
        let walk = |frame: &mut Frame| {
            black_box(process(frame, &model));
        };
        Some(time(&walk) - base)
    }

    /// Nanoseconds per run, the runner's part included.
    fn measure(&mut self, hook: Hook, program: Program, input: &Input<'_>) -> Result<Measured> {
        let fd = self.fd(hook, program)?;
        let (array, runner) = match hook {
            Hook::Xdp => ("NEXT_XDP", "runner_xdp"),
            Hook::Tc => ("NEXT_TC", "runner_tc"),
        };
        ProgramArray::try_from(self.runner.map_mut(array).context(array)?)?.set(0, &fd, 0)?;
        let mut plans: Array<_, [u8; size_of::<Plan>()]> =
            Array::try_from(self.runner.map_mut("PLAN").context("PLAN")?)?;
        plans.set(0, input.plan(), 0)?;
        let mut out = vec![0; input.frame.len() + 256];
        let mut run = |repeat| {
            let options = TestRunOptions {
                data_in: Some(input.frame),
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
        Ok(Measured { ns: result.duration.as_nanos() as f64, action: result.return_value })
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

/// The packets of one run.
struct Input<'a> {
    frame: &'a [u8],
    flows: u32,
    /// Where in the frame the client's half-word of address and its port lie, 0: they stay.
    varying: (u32, u32),
}

impl Input<'_> {
    /// The plan that puts the frame back and makes it one of the flows.
    fn plan(&self) -> [u8; size_of::<Plan>()] {
        let mut bytes = [0; size_of::<Plan>()];
        let head = self.frame.len().min(96);
        bytes[..head].copy_from_slice(&self.frame[..head]);
        let (address_at, port_at) = self.varying;
        let numbers = [self.frame.len() as u32, address_at, port_at, self.flows - 1, 0, 0];
        for (place, number) in bytes[96..].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}

/// What a run showed.
struct Measured {
    /// Per packet, the runner's part included.
    ns: f64,
    /// What the program returned.
    action: u32,
}

fn print_table(report: &Report, rounds: usize, iterations: u32) {
    println!("Linux {}, {}; {rounds} rounds of {iterations} packets", report.kernel, report.cpu);
    let floor = report.floor;
    println!("floor F: {:.0} ns ({:.0} to {:.0})\n", floor.median, floor.min, floor.max);
    println!(
        "{:<14} {:<5} {:<5} {:<4} {:<8} {:>7} {:>5} {:>15} {:>6} {:>8} {:>13}",
        "case", "plane", "IP", "L4", "slots", "flows", "ns", "(min to max)", "F", "host, ns", "instructions"
    );
    for row in &report.cases {
        let [case, plane, family, protocol, slots] = row.words();
        let spread = format!("({:.0} to {:.0})", row.spread.0, row.spread.1);
        let host = row.host.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
        println!(
            "{case:<14} {plane:<5} {family:<5} {protocol:<4} {slots:<8} {:>7} {:>5.0} {spread:>15} {:>6.2} {host:>8} {:>13}",
            row.flows, row.ns, row.f, row.instructions
        );
    }
}
