//! From measurements to rates, ratios and targets.

use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;
use lb_testbed::machine::Machine;
use lb_testbed::median::Median;
use serde::Serialize;

use crate::contender::{Contender, Skipped};
use crate::load::{Load, Measured};

/// What Sluice offers: of this load, this contender's rate over that one's, at least so much.
const TARGETS: &[(Load, Contender, Contender, f64)] = &[
    (Load::KeepAlive, Contender::SluiceTc, Contender::Direct, 0.95),
    (Load::KeepAlive, Contender::SluiceTc, Contender::Nftables, 1.00),
    (Load::KeepAlive, Contender::SluiceXdp, Contender::DirectWire, 0.95),
    (Load::KeepAlive, Contender::SluiceXdp, Contender::NftablesWire, 1.00),
    (Load::KeepAlive, Contender::SluiceProxy, Contender::NginxStream, 0.90),
    (Load::NewConnections, Contender::SluiceTc, Contender::Direct, 0.95),
    (Load::NewConnections, Contender::SluiceTc, Contender::Nftables, 1.00),
    (Load::NewConnections, Contender::SluiceXdp, Contender::DirectWire, 0.95),
    (Load::NewConnections, Contender::SluiceXdp, Contender::NftablesWire, 1.00),
    (Load::NewConnections, Contender::SluiceProxy, Contender::NginxStream, 0.90),
    (Load::Bulk, Contender::SluiceTc, Contender::Direct, 1.00),
    (Load::Bulk, Contender::SluiceTc, Contender::Nftables, 1.00),
    (Load::Bulk, Contender::SluiceProxy, Contender::NginxStream, 0.90),
];

/// One measurement, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Who was measured.
    pub contender: Contender,
    /// With what.
    pub load: Load,
    /// When, from 0.
    pub round: u32,
    /// What came out.
    pub result: Measured,
}

/// One contender under one load.
#[derive(Debug, Serialize)]
struct Row {
    load: Load,
    contender: Contender,
    unit: &'static str,
    rate: Median,
    /// Over the direct path's rate in the same round.
    of_direct: Median,
    /// Medians over the rounds.
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    errors: u64,
    /// Nothing failed.
    valid: bool,
}

/// An offered figure, and what was measured.
#[derive(Debug, Serialize)]
struct Target {
    load: Load,
    contender: Contender,
    against: Contender,
    ratio: Median,
    least: f64,
    met: bool,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    rounds: u32,
    /// Of each measurement.
    seconds: u64,
    /// Of every contender but the direct paths, which have one.
    backends: u8,
    skipped: Vec<Skipped>,
    rows: Vec<Row>,
    targets: Vec<Target>,
}

impl Report {
    /// # Errors
    /// The machine does not tell what it is, or a direct path was not measured.
    pub fn new(
        rounds: u32,
        seconds: u64,
        backends: u8,
        skipped: Vec<Skipped>,
        samples: &[Sample],
    ) -> Result<Self> {
        let mut rows = Vec::new();
        for load in Load::ALL {
            for contender in Contender::value_variants() {
                let own: Vec<Measured> =
                    results(samples, load, *contender).map(|sample| sample.result).collect();
                if own.is_empty() {
                    continue;
                }
                let latency = |of: fn((f64, f64)) -> f64| {
                    let values: Vec<f64> = own.iter().filter_map(|one| one.latency.map(of)).collect();
                    (!values.is_empty()).then(|| Median::of(&values).median)
                };
                let errors = own.iter().map(|one| one.errors).sum();
                rows.push(Row {
                    load,
                    contender: *contender,
                    unit: load.unit(),
                    rate: Median::of(&own.iter().map(|one| one.rate).collect::<Vec<_>>()),
                    of_direct: ratio(samples, load, *contender, contender.direct())
                        .with_context(|| format!("{} was not measured", contender.direct()))?,
                    p50_us: latency(|(p50, _)| p50),
                    p99_us: latency(|(_, p99)| p99),
                    errors,
                    valid: errors == 0,
                });
            }
        }
        let targets = TARGETS.iter().filter_map(|&(load, contender, against, least)| {
            let ratio = ratio(samples, load, contender, against)?;
            Some(Target { load, contender, against, ratio, least, met: ratio.median >= least })
        });
        let targets = targets.collect();
        Ok(Self { machine: Machine::read()?, rounds, seconds, backends, skipped, rows, targets })
    }

    /// Who had failures, under which load.
    pub fn invalid(&self) -> impl Iterator<Item = String> {
        let rows = self.rows.iter().filter(|row| !row.valid);
        rows.map(|row| format!("{} under {}: {} errors", row.contender, row.load, row.errors))
    }
}

fn results(samples: &[Sample], load: Load, contender: Contender) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(move |sample| sample.load == load && sample.contender == contender)
}

/// Of rates in the same round; `None`: not both were measured.
fn ratio(samples: &[Sample], load: Load, contender: Contender, against: Contender) -> Option<Median> {
    let ratios: Vec<f64> = results(samples, load, contender)
        .filter_map(|one| {
            let other = results(samples, load, against).find(|other| other.round == one.round)?;
            Some(one.result.rate / other.result.rate)
        })
        .collect();
    (!ratios.is_empty()).then(|| Median::of(&ratios))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}; {} rounds, {} s each, {} backends: median (least to greatest)",
            self.machine, self.rounds, self.seconds, self.backends
        )?;
        for Skipped { contender, reason } in &self.skipped {
            writeln!(f, "skipped {contender}: {reason}")?;
        }
        for load in Load::ALL {
            if self.rows.iter().all(|row| row.load != load) {
                continue;
            }
            writeln!(
                f,
                "\n{load:<20} {:>28} {:>24} {:>8} {:>8} {:>7}",
                load.unit(),
                "of direct",
                "p50 us",
                "p99 us",
                "errors"
            )?;
            for row in self.rows.iter().filter(|row| row.load == load) {
                let latency = |value: Option<f64>| value.map_or("-".to_owned(), |us| format!("{us:.0}"));
                writeln!(
                    f,
                    "{:<20} {:>28} {:>24} {:>8} {:>8} {:>7}{}",
                    row.contender,
                    spread(row.rate, 0),
                    spread(row.of_direct, 2),
                    latency(row.p50_us),
                    latency(row.p99_us),
                    row.errors,
                    if row.valid { "" } else { "  INVALID" }
                )?;
            }
        }
        if self.targets.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{:<62} {:>24} {:>6}", "offered", "ratio", "least")?;
        for target in &self.targets {
            let what = format!("{}: {} / {}", target.load, target.contender, target.against);
            let verdict = if target.met { "met" } else { "MISSED" };
            writeln!(f, "{what:<62} {:>24} {:>6.2}  {verdict}", spread(target.ratio, 2), target.least)?;
        }
        Ok(())
    }
}

fn spread(median: Median, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$} to {:.digits$})", median.median, median.min, median.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(contender: Contender, round: u32, rate: f64) -> Sample {
        Sample { contender, load: Load::Bulk, round, result: Measured { rate, latency: None, errors: 0 } }
    }

    #[test]
    fn ratios_are_of_the_same_round_whatever_the_clock_does() {
        let samples: Vec<Sample> = [100.0, 50.0, 200.0]
            .into_iter()
            .zip(0..)
            .flat_map(|(clock, round)| {
                let tc = sample(Contender::SluiceTc, round, clock * 0.8);
                let direct = sample(Contender::Direct, round, clock);
                if round == 1 { [direct, tc] } else { [tc, direct] }
            })
            .collect();
        let ratio = ratio(&samples, Load::Bulk, Contender::SluiceTc, Contender::Direct).unwrap();
        assert_eq!((ratio.min, ratio.max), (0.8, 0.8));
        assert!(super::ratio(&samples, Load::Bulk, Contender::Haproxy, Contender::Direct).is_none());
    }

    #[test]
    fn a_failed_request_makes_the_row_invalid() {
        let mut tc = sample(Contender::SluiceTc, 0, 1.0);
        tc.result.errors = 1;
        let report = Report::new(1, 1, 3, Vec::new(), &[tc, sample(Contender::Direct, 0, 1.0)]).unwrap();
        assert_eq!(report.invalid().collect::<Vec<_>>(), ["sluice tc under bulk: 1 errors"]);
    }
}
