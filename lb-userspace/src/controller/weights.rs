//! Adaptive weights: how much of its weight each backend of a pool has, by how late and how loaded it is.
//!
//! Every backend has a *pressure*: how much later it answers than the others, how much more load its agent
//! reports, how much more than its part of the packets or new flows it carries. The logarithm of its factor
//! falls while its pressure is above the pool's mean and rises while it is below, so that the pressures meet: an
//! integral controller, with a leak that brings equal backends back to equal factors. All pressures are
//! forecasts ([`forecast`]), since what moves now is felt when its flows are.
//!
//! What moves costs: slots that change are tracked for a time. So small differences move nothing, and a step
//! stays within the slots that may move in a second ([`budget`]).
//!
//! Pure; time is injected.

mod budget;
mod forecast;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::model::{self, Weights};
use forecast::Forecast;

/// How far ahead pressures are forecast: about the time until a step is felt.
const HORIZON: Duration = Duration::from_secs(3);
/// By which the logarithm of a factor follows a difference of pressures, per second.
const GAIN: f64 = 0.15;
/// By which the logarithm of a factor returns to 0, per second: with this part of [`GAIN`] a backend that answers
/// four times as late under whatever load settles at its least factor.
const LEAK: f64 = 0.25 * GAIN;
/// Differences count as far as they are more than so many standard errors.
const CONFIDENCE: f64 = 1.5;
/// Nothing moves before the logarithm of a factor is so far off: noise is not worth slots.
const DEADBAND: f64 = 0.2;
/// Latencies are compared after this has been added, in milliseconds: differences below it are noise.
const LATENCY_FLOOR: f64 = 1.0;
/// Loads are compared after so many percent have been added.
const LOAD_FLOOR: f64 = 10.0;
/// Packets or new flows a second of a pool, below which shares of them say nothing.
const LEAST_RATE: f64 = 50.0;

/// What is counted of one backend; both numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From clients.
    pub packets: u64,
    /// New flows, where they are known.
    pub new_flows: u64,
}

/// A backend that takes new flows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taking {
    /// Where it listens.
    pub address: SocketAddr,
    /// The weight that a factor of 1 leaves.
    pub weight: u32,
    /// What it has carried so far.
    pub carried: Carried,
}

/// The factors of all adaptive pools.
#[derive(Debug, Default)]
pub struct Followers(BTreeMap<String, Follower>);

impl Followers {
    /// How long a backend took to answer: a successful check, or a connection that the proxy opened.
    pub fn answered(&mut self, pool: &str, address: SocketAddr, took: Duration, now: Instant) {
        let millis = took.as_secs_f64() * 1000.0;
        let course = self.0.get_mut(pool).and_then(|follower| follower.courses.get_mut(&address));
        if let Some(course) = course {
            observe(&mut course.latency, (millis + LATENCY_FLOOR).ln(), now);
        }
    }

    /// The load that a backend's agent reports, in percent.
    pub fn reported(&mut self, pool: &str, address: SocketAddr, load: f64, now: Instant) {
        let course = self.0.get_mut(pool).and_then(|follower| follower.courses.get_mut(&address));
        if let Some(course) = course {
            observe(&mut course.load, (load.max(0.0) + LOAD_FLOOR).ln(), now);
        }
    }

    /// One step of a pool: the factors, 0 to 1, of the backends that take new flows. The first step of a backend
    /// has factor 1.
    pub fn step(&mut self, pool: &model::Pool, taking: &[Taking], now: Instant) -> Vec<(SocketAddr, f64)> {
        let Weights::Adaptive(bounds) = &pool.weights else {
            self.0.remove(&pool.name);
            return Vec::new();
        };
        let follower = self.0.entry(pool.name.clone()).or_default();
        let past = follower.last.replace(now).map(|last| now.saturating_duration_since(last));
        follower.courses.retain(|address, _| taking.iter().any(|backend| backend.address == *address));
        for backend in taking {
            let course = follower.courses.entry(backend.address).or_default();
            course.carry(backend.carried, past, now);
        }
        let Some(past) = past else { return follower.factors() };
        follower.follow(taking, (f64::from(bounds.least) / 100.0).ln(), past, now);
        let budget = f64::from(bounds.slots_per_second) * past.as_secs_f64() / f64::from(pool.table_size);
        follower.apply(taking, budget);
        follower.factors()
    }

    /// Forgets all pools but these.
    pub fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.0.retain(|pool, _| is_wanted(pool));
    }
}

/// One pool.
#[derive(Debug, Default)]
struct Follower {
    courses: BTreeMap<SocketAddr, Course>,
    last: Option<Instant>,
}

/// One backend's way.
#[derive(Debug)]
struct Course {
    /// Logarithm of milliseconds.
    latency: Option<Forecast>,
    /// Logarithm of percent.
    load: Option<Forecast>,
    carried: Option<Carried>,
    /// A second.
    packets: Option<Forecast>,
    /// A second.
    new_flows: Option<Forecast>,
    /// Logarithm of the factor that is aimed at, at most 0.
    aim: f64,
    /// The factor in force.
    factor: f64,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            latency: None,
            load: None,
            carried: None,
            packets: None,
            new_flows: None,
            aim: 0.0,
            factor: 1.0,
        }
    }
}

impl Course {
    fn carry(&mut self, carried: Carried, past: Option<Duration>, now: Instant) {
        let last = self.carried.replace(carried);
        let (Some(last), Some(past)) = (last, past.filter(|past| !past.is_zero())) else { return };
        // Counters that were cleared in between begin at zero.
        let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / past.as_secs_f64();
        observe(&mut self.packets, rate(carried.packets, last.packets), now);
        observe(&mut self.new_flows, rate(carried.new_flows, last.new_flows), now);
    }
}

impl Follower {
    fn factors(&self) -> Vec<(SocketAddr, f64)> {
        self.courses.iter().map(|(address, course)| (*address, course.factor)).collect()
    }

    /// Moves the aims.
    fn follow(&mut self, taking: &[Taking], least: f64, past: Duration, now: Instant) {
        let pressures = self.pressures(taking, now);
        let mean = pressures.iter().sum::<f64>() / pressures.len().max(1) as f64;
        let seconds = past.as_secs_f64().min(5.0);
        for (course, pressure) in self.courses.values_mut().zip(pressures) {
            course.aim -= seconds * (GAIN * (pressure - mean) + LEAK * course.aim);
        }
        let greatest = self.courses.values().map(|course| course.aim).fold(f64::NEG_INFINITY, f64::max);
        for course in self.courses.values_mut() {
            course.aim = (course.aim - greatest).max(least);
        }
    }

    /// Logarithms, in the order of the courses.
    fn pressures(&self, taking: &[Taking], now: Instant) -> Vec<f64> {
        let ahead = now + HORIZON;
        let latency = self.relative(|course| course.latency.as_ref(), ahead);
        let load = self.relative(|course| course.load.as_ref(), ahead);
        let packets = self.excess(taking, |course| course.packets.as_ref(), ahead);
        let new_flows = self.excess(taking, |course| course.new_flows.as_ref(), ahead);
        (0..self.courses.len())
            .map(|index| {
                let of = |values: &Option<Vec<f64>>| values.as_ref().map(|values| values[index]);
                let rate = of(&packets)
                    .into_iter()
                    .chain(of(&new_flows))
                    .fold(None, |most, rate| Some(most.map_or(rate, |most: f64| most.max(rate))));
                match (of(&latency), of(&load)) {
                    (None, None) => rate.unwrap_or(0.0),
                    (latency, load) => {
                        let felt = latency.unwrap_or(0.0) + load.unwrap_or(0.0);
                        // A fast backend carries more of what its clients wait for: that is no burden. What a
                        // late one carries beyond its part is.
                        felt + if felt > 0.0 { rate.unwrap_or(0.0).max(0.0) / 2.0 } else { 0.0 }
                    }
                }
            })
            .collect()
    }

    /// Values less their mean, as far as that is beyond doubt; none unless every backend has one.
    fn relative(&self, of: impl Fn(&Course) -> Option<&Forecast>, at: Instant) -> Option<Vec<f64>> {
        let forecasts: Option<Vec<_>> = self.courses.values().map(of).collect();
        let forecasts = forecasts?;
        let mean =
            forecasts.iter().map(|forecast| forecast.at(at)).sum::<f64>() / forecasts.len().max(1) as f64;
        let beyond_doubt = |forecast: &&Forecast| {
            let value = forecast.at(at) - mean;
            value.signum() * (value.abs() - CONFIDENCE * forecast.doubt()).max(0.0)
        };
        Some(forecasts.iter().map(beyond_doubt).collect())
    }

    /// Logarithms of how much more than its part each backend carries, by configured weight.
    fn excess(
        &self,
        taking: &[Taking],
        rate: impl Fn(&Course) -> Option<&Forecast>,
        at: Instant,
    ) -> Option<Vec<f64>> {
        let rates: Option<Vec<f64>> =
            self.courses.values().map(|course| Some(rate(course)?.at(at).max(0.0))).collect();
        let rates = rates?;
        let (total, weights) =
            (rates.iter().sum::<f64>(), taking.iter().map(|backend| f64::from(backend.weight)).sum::<f64>());
        if total < LEAST_RATE {
            return None;
        }
        let weight = |address| {
            taking.iter().find(|backend| backend.address == address).map_or(0.0, |b| f64::from(b.weight))
        };
        let parts = self.courses.keys().map(|address| weight(*address) / weights);
        let excess = rates.iter().zip(parts).map(|(rate, part)| {
            // Nobody is told from nobody: a tenth of a part is as little as none.
            (rate / total).max(part / 10.0).max(f64::MIN_POSITIVE).ln() - part.max(f64::MIN_POSITIVE).ln()
        });
        Some(excess.collect())
    }

    /// Takes the factors towards the aims, as far as the budget (a share of the slots) goes.
    fn apply(&mut self, taking: &[Taking], budget: f64) {
        let is_far = |course: &Course| (course.aim - course.factor.ln()).abs() > DEADBAND;
        if !self.courses.values().any(is_far) {
            return;
        }
        let weights: BTreeMap<_, _> =
            taking.iter().map(|backend| (backend.address, f64::from(backend.weight))).collect();
        let weight = |address: &SocketAddr| weights.get(address).copied().unwrap_or(0.0);
        let steps: Vec<_> = self
            .courses
            .iter()
            .map(|(address, course)| (weight(address), course.factor, course.aim.exp()))
            .collect();
        let part = budget::affordable(&steps, budget);
        for course in self.courses.values_mut() {
            course.factor += part * (course.aim.exp() - course.factor);
        }
    }
}

fn observe(forecast: &mut Option<Forecast>, value: f64, now: Instant) {
    match forecast {
        Some(forecast) => forecast.observe(value, now),
        None => *forecast = Some(Forecast::new(value, now)),
    }
}
